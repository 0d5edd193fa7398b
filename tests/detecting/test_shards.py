"""Tests of `detect --shard` and `gather`: the shards together give the files of one run, or `gather` refuses them."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detector.cli.commands import main
from detector.cli.numbers import shard as parse_shard
from detector.detecting.shards import ListHash, take_shard
from detector.detecting.writer import DetectionWriter
from detector.errors import ConfigError
from detector.files import locked
from detector.images import write_image
from detector.media.sources import Source
from detector.options import Shard

TABLES = ("detections.jsonl", "detections.json", "detections.csv", "counts.csv")
COUNT = 3
Detect = Callable[..., int]


@pytest.fixture
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Create a folder with 21 images, one of which is damaged, and change to the folder that contains it."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "images"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for index in range(21):
        write_image(folder / f"{index:02}.png", rng.integers(90, 140, size=(64, 96, 3)).astype(np.uint8))
    (folder / "09.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    return folder


@pytest.fixture
def detect(images: Path, tiny_weights: Path) -> Detect:
    """Return a function that runs `detector detect` in these images."""

    def run(*arguments: str, out: str = "found", conf: str = "0.01") -> int:
        flags = ["--weights", str(tiny_weights), "--conf", conf, "--no-images", "--csv", "--counts", "--out", out]
        return main(["detect", "images", *flags, *arguments])

    return run


def detect_shards(detect: Detect) -> None:
    assert [detect("--shard", f"{index}/{COUNT}") for index in range(COUNT)] == [0, 3, 0]


def gather(*folders: str) -> int:
    return main(["gather", *(folders or ["found"]), "--out", "all", "--csv", "--counts"])


def contents(folder: str) -> dict[str, bytes]:
    return {name: (Path(folder) / name).read_bytes() for name in TABLES}


def lines_of(name: str) -> int:
    path = Path(name)
    return len(path.read_bytes().splitlines()) if path.exists() else 0


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def test_gathered_files_equal_those_of_one_run(detect: Detect, capsys: pytest.CaptureFixture[str]) -> None:
    assert detect(out="plain") == 3
    detect_shards(detect)
    assert gather() == 3
    assert contents("all") == contents("plain")
    captured = capsys.readouterr()
    assert "3 shards complete: " in captured.out
    assert captured.err.endswith("1 of 21 images could not be read\n")
    assert "skipped: images/09.png: not an image" in captured.err


def test_gathered_files_may_be_beside_the_shards(detect: Detect, caplog: pytest.LogCaptureFixture) -> None:
    detect_shards(detect)
    assert gather() == 3
    assert main(["gather", "found", "--out", "found", "--csv", "--counts"]) == 3
    assert contents("found") == contents("all")
    assert gather() == 3  # again
    assert "not written by this program" not in caplog.text


def test_ids_of_a_data_set_are_kept(tiny_data: Path, tiny_weights: Path, tmp_path: Path) -> None:
    data = ["--data", str(tiny_data / "train.json"), "--allow-outside", "--no-images", "--weights", str(tiny_weights)]
    names = [str(tiny_data / "images" / f"{number}.png") for number in range(12, 0, -1)]
    for flags in ([], ["--shard", "0/2"], ["--shard", "1/2"]):
        assert main(["detect", *names, *data, *flags, "--out", str(tmp_path / ("shards" if flags else "plain"))]) == 0
    assert main(["gather", str(tmp_path / "shards"), "--out", str(tmp_path / "all")]) == 0
    for name in TABLES[:2]:
        assert (tmp_path / "all" / name).read_bytes() == (tmp_path / "plain" / name).read_bytes()
    rows = [json.loads(line) for line in (tmp_path / "all" / TABLES[0]).read_text().splitlines()[1:]]
    assert [row["image_id"] for row in rows] == list(range(12, 0, -1))


def test_other_ids_of_the_data_set_are_refused(
    tiny_data: Path, tiny_weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = json.loads((tiny_data / "train.json").read_text())
    (tmp_path / "images").symlink_to(tiny_data / "images")
    names = [str(tmp_path / "images" / f"{number}.png") for number in range(1, 13)]
    codes = []
    for shard in ("0/2", "1/2"):
        (tmp_path / "train.json").write_text(json.dumps(labels))
        arguments = ["--data", str(tmp_path / "train.json"), "--allow-outside", "--no-images", "--shard", shard]
        codes.append(
            main(["detect", *names, *arguments, "--weights", str(tiny_weights), "--out", str(tmp_path / "shards")])
        )
        for row, key in [*((row, "id") for row in labels["images"]), *((r, "image_id") for r in labels["annotations"])]:
            row[key] += 100
    assert codes == [0, 2]
    assert "ids_sha256" in capsys.readouterr().err


def test_image_ids_of_two_shards_differ(detect: Detect) -> None:
    detect_shards(detect)
    rows = [json.loads(path.read_text()) for path in Path("found").glob("*/detections.json")]
    ids = [{row["image_id"] for row in shard} for shard in rows]
    assert len(set.union(*ids)) == sum(map(len, ids)) == 20


@pytest.mark.posix
def test_a_killed_shard_continues(detect: Detect, tiny_weights: Path) -> None:
    assert detect(out="plain") == 3
    detect_shards(detect)
    shutil.rmtree("found/shard-1-of-3")
    flags = ["--weights", str(tiny_weights), "--conf", "0.01", "--no-images", "--shard", "1/3", "--out", "found"]
    code = (
        "import sys, time\nfrom detector.detecting.writer import DetectionWriter\nadd = DetectionWriter.add\n"
        "DetectionWriter.add = lambda *arguments: (add(*arguments), time.sleep(0.2))\n"
        "from detector.cli.commands import main\nmain(sys.argv[1:])"
    )
    process = subprocess.Popen([sys.executable, "-c", code, "detect", "images", *flags])
    deadline = time.monotonic() + 120
    while lines_of("found/shard-1-of-3/detections.jsonl") < 3 and time.monotonic() < deadline:
        time.sleep(0.02)
    assert detect("--shard", "1/3", "--skip-done") == 2  # locked by the running process
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert lines_of("found/shard-1-of-3/detections.jsonl") < 8
    assert gather() == 2  # unfinished
    assert detect("--shard", "1/3", "--skip-done") == 3
    assert gather() == 3
    assert contents("all") == contents("plain")


def test_a_changed_image_of_a_finished_shard_is_gathered_in_its_place(detect: Detect, images: Path) -> None:
    detect_shards(detect)
    write_image(images / "03.png", np.full((64, 96, 3), 115, np.uint8))
    assert detect("--shard", "0/3", "--skip-done") == 0
    assert gather() == 3
    assert detect(out="plain") == 3
    assert contents("all") == contents("plain")


def test_a_finished_shard_that_was_killed_while_it_continues_is_unfinished(
    detect: Detect, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    detect_shards(detect)
    write_image(images / "03.png", np.full((64, 96, 3), 115, np.uint8))
    with monkeypatch.context() as patch:
        patch.setattr(DetectionWriter, "close", interrupt)
        assert detect("--shard", "0/3", "--skip-done") == 130
    assert not Path("found/shard-0-of-3/shard.json").exists()
    assert gather() == 2


def test_a_missing_shard_is_named(detect: Detect, capsys: pytest.CaptureFixture[str]) -> None:
    detect_shards(detect)
    shutil.rmtree("found/shard-0-of-3")
    shutil.rmtree("found/shard-2-of-3")
    assert gather() == 2
    assert "found: 2 of 3 shards are missing: 0/3, 2/3; run `detector detect`" in capsys.readouterr().err
    assert not Path("all").exists()


def test_a_shard_that_is_there_twice_is_named(detect: Detect, capsys: pytest.CaptureFixture[str]) -> None:
    detect_shards(detect)
    shutil.copytree("found/shard-1-of-3", "copy")
    assert gather("found", "copy") == 2
    assert "copy: shard 1/3 is there twice, also as " in capsys.readouterr().err
    assert gather("found", "found/shard-1-of-3") == 3  # the same folder


def test_shards_of_two_runs_are_refused(detect: Detect, capsys: pytest.CaptureFixture[str]) -> None:
    detect_shards(detect)
    assert detect("--shard", "0/2") == 0
    assert gather() == 2
    assert "is a shard of 3, but " in capsys.readouterr().err


@pytest.mark.parametrize("is_early", [True, False])
def test_another_threshold_is_refused(detect: Detect, capsys: pytest.CaptureFixture[str], is_early: bool) -> None:
    detect_shards(detect)
    shutil.rmtree("found/shard-2-of-3")
    out = "found" if is_early else "other"
    assert detect("--shard", "2/3", conf="0.02", out=out) == (2 if is_early else 0)
    assert gather("found", out) == 2
    error = capsys.readouterr().err
    assert "other images, weights or options" in error
    assert "score_threshold: 0.01, now 0.02" in error


def test_another_list_of_images_is_refused(detect: Detect, images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    detect_shards(detect)
    shutil.rmtree("found/shard-2-of-3")
    (images / "20.png").rename(images / "21.png")
    assert detect("--shard", "2/3") == 2
    assert detect("--shard", "2/3", out="other") == 0
    assert gather("found", "other") == 2
    assert capsys.readouterr().err.count("list_sha256: ") == 2
    assert not Path("all").exists()


def test_a_changed_file_of_a_shard_is_noticed(detect: Detect, capsys: pytest.CaptureFixture[str]) -> None:
    detect_shards(detect)
    journal = Path("found/shard-0-of-3/detections.jsonl")
    first, *lines = journal.read_bytes().splitlines(keepends=True)
    for changed, message in (
        ([first, *lines[1:]], "image 1 of the list has no result; repeat shard 0/3 with --skip-done"),
        ([first, *lines, lines[0]], "images/00.png has two results"),
        ([first, lines[0].replace(b"00.png", b"xx.png"), *lines[1:]], "are not those of the list of images"),
        ([first, lines[0][:-9], *lines[1:]], "detections.jsonl:2: damaged line"),
        ([], "shard.json: damaged"),
    ):
        journal.write_bytes(b"".join(changed))
        assert gather() == 2
        assert message in capsys.readouterr().err
        assert not list(Path().glob("all/detections*"))
    shutil.rmtree("found/shard-0-of-3")
    Path("found/shard-0-of-3").mkdir()
    assert gather() == 2
    assert "shard-0-of-3: this shard is not finished" in capsys.readouterr().err


def test_gather_does_not_replace_files_of_the_user(detect: Detect, capsys: pytest.CaptureFixture[str]) -> None:
    detect_shards(detect)
    Path("all").mkdir()
    Path("all/detections.csv").write_text("mine")
    assert gather() == 2
    assert "detections.csv: was not written by this program" in capsys.readouterr().err
    assert Path("all/detections.csv").read_text() == "mine"
    assert main(["gather", "found", "--out", "found/shard-0-of-3"]) == 2
    assert "this is the folder of a shard" in capsys.readouterr().err


def test_gather_needs_shards(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gather", str(tmp_path), "--out", str(tmp_path / "all")]) == 2
    assert "no results of shards; expected a folder shard-I-of-N" in capsys.readouterr().err


def test_more_shards_than_batches_are_gathered(detect: Detect) -> None:
    assert detect(out="plain") == 3
    for _ in range(2):  # an empty shard can be repeated
        assert sorted(detect("--shard", f"{index}/5") for index in range(5)) == [0, 0, 0, 0, 3]
    assert gather() == 3
    assert contents("all") == contents("plain")


def test_two_processes_cannot_detect_in_the_same_shard(detect: Detect, capsys: pytest.CaptureFixture[str]) -> None:
    Path("found/shard-0-of-3").mkdir(parents=True)
    with locked(Path("found/shard-0-of-3"), "writing detections"):
        assert detect("--shard", "0/3") == 2
        assert detect("--shard", "1/3") == 3
    assert "another process is writing detections in this folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["images", "--shard", "0/2"], "--shard and --engine ray need --out"),
        (["-", "--shard", "0/2", "--out", "found"], "standard input cannot be divided"),
        (
            ["rtsp://door/live", "--shard", "0/2", "--out", "found"],
            "rtsp://door/live: --shard and --engine ray divide a list",
        ),
        (["0", "--shard", "0/2", "--out", "found"], "0: --shard and --engine ray divide a list of images"),
        (["images", "--shard", "0/2", "--out", "images"], "this folder with images is in the output folder"),
    ],
)
def test_inputs_that_cannot_be_divided_are_refused(
    arguments: list[str], message: str, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["detect", *arguments, "--weights", "scenes"]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "1", "3/3", "-1/3", "0/0", "1/2/3", "a/b", "0.5/2", "1 / 2"])
def test_a_wrong_shard_is_refused(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["detect", "images", "--weights", "scenes", f"--shard={text}"])
    assert "expected INDEX/COUNT with an index from 0, such as 0/8" in capsys.readouterr().err


def test_shards_are_numbered_from_0() -> None:
    assert parse_shard(" 2/3 ") == Shard(2, 3)
    for index, count in ((3, 3), (-1, 3), (0, 0)):
        with pytest.raises(ConfigError, match=r"^shard: "):
            Shard(index, count)


def source(name: str, origin: str = "") -> Source:
    return Source(Path(name), lambda: np.zeros((1, 1, 3), np.uint8), origin)


@given(st.integers(0, 60), st.integers(1, 9), st.integers(1, 12))
def test_shards_are_complete_batches_of_every_image(images: int, batch_size: int, count: int) -> None:
    sources = [source(f"{index}.png") for index in range(images)]
    shards = [take_shard(sources, Shard(index, count), batch_size) for index in range(count)]
    assert [source for shard in shards for source in shard.sources] == sources
    assert all(shard.start % batch_size == 0 or not shard.sources for shard in shards)
    batches = [-(-len(shard.sources) // batch_size) for shard in shards]
    assert max(batches) - min(batches) <= 1


def test_the_hash_depends_on_names_origins_and_order() -> None:
    lists = (["a"], ["b"], ["a", "b"], ["b", "a"], ["ab"], [os.fsdecode(b"\xff")])
    hashes = {take_shard([source(name) for name in names], Shard(0, 1), 8).list_sha256 for names in lists}
    hashes.add(take_shard([source("a", "url")], Shard(0, 1), 8).list_sha256)
    hashes.add(ListHash().hexdigest())
    assert len(hashes) == len(lists) + 2
