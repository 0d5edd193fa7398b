import csv
import json
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detector import images
from detector.detections import Detections
from detector.draw import draw
from detector.engine.save_detections import DetectionWriter
from detector.errors import InputError

IMAGE = np.full((100, 200, 3), 90, np.uint8)
NAMES = ("cat", "dog")


def found(*boxes: tuple[float, float, float, float]) -> Detections:
    n = len(boxes)
    scores = np.linspace(0.9, 0.5, n).astype(np.float32)
    return Detections(np.array(boxes, np.float32).reshape(n, 4), scores, np.arange(n) % 2, NAMES)


TWO = found((20, 10, 60, 50), (100, 0, 200, 100))


def test_the_tables_hold_every_detection_in_their_own_formats(tmp_path: Path) -> None:
    writer = DetectionWriter(tmp_path / "out", (3, 17), txt=True, table=True)
    writer.add(Path("x/a.png"), IMAGE, TWO)
    writer.add(Path("x/b.png"), IMAGE, found((1, 2, 3, 5)))
    writer.close()
    out = tmp_path / "out"
    rows = json.loads((out / "detections.json").read_text())
    assert rows[1] == {
        "image_id": 1,
        "file_name": "x/a.png",
        "category_id": 17,
        "bbox": [100, 0, 100, 100],
        "score": 0.5,
    }
    assert [(row["image_id"], row["category_id"]) for row in rows] == [(1, 3), (1, 17), (2, 3)]
    assert (out / "labels" / "a.txt").read_text() == (
        "0 0.200000 0.300000 0.200000 0.400000 0.900000\n1 0.750000 0.500000 0.500000 1.000000 0.500000\n"
    )
    with (out / "detections.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert lines[1] == dict(
        file="x/a.png", **{"class": "dog"}, score="0.5", x1="100.0", y1="0.0", x2="200.0", y2="100.0"
    )
    assert len(lines) == 3


def test_pictures_are_drawn_and_keep_their_size(tmp_path: Path) -> None:
    writer = DetectionWriter(tmp_path, (3, 17))
    writer.add(Path("a.png"), IMAGE, TWO)
    assert np.array_equal(images.read(tmp_path / "a.png"), draw(IMAGE, TWO))


def test_only_what_is_asked_for_is_written(tmp_path: Path) -> None:
    writer = DetectionWriter(tmp_path / "out", (3, 17), pictures=False)
    writer.add(Path("a.png"), IMAGE, TWO)
    writer.close()
    assert sorted(path.name for path in (tmp_path / "out").rglob("*")) == ["detections.json", "detections.jsonl"]


def test_a_picture_without_objects_has_an_empty_label_file_and_no_rows(tmp_path: Path) -> None:
    writer = DetectionWriter(tmp_path, (3, 17), txt=True, table=True)
    writer.add(Path("a.png"), IMAGE, found())
    writer.close()
    assert json.loads((tmp_path / "detections.json").read_text()) == []
    assert (tmp_path / "labels" / "a.txt").read_text() == ""
    assert (tmp_path / "detections.csv").read_text().splitlines() == ["file,class,score,x1,y1,x2,y2"]
    assert np.array_equal(images.read(tmp_path / "a.png"), IMAGE)


def test_pictures_of_one_name_from_several_folders_all_stay(tmp_path: Path) -> None:
    writer = DetectionWriter(tmp_path, (3, 17), txt=True)
    for name in ("x/a.png", "y/a.png", "z/a-2.png", "z/a.jpg"):
        writer.add(Path(name), IMAGE, TWO)
    writer.close()
    assert len(list(tmp_path.glob("*.png")) + list(tmp_path.glob("*.jpg"))) == 4
    assert len(list((tmp_path / "labels").iterdir())) == 4
    files = [row["file_name"] for row in json.loads((tmp_path / "detections.json").read_text())]
    assert files == [name for name in ("x/a.png", "y/a.png", "z/a-2.png", "z/a.jpg") for _ in range(2)]


@pytest.mark.parametrize(("name", "written"), [("a.tiff", "a.jpg"), ("a.webp", "a.jpg"), ("A.PNG", "A.png")])
def test_formats_that_browsers_do_not_show_become_jpeg(tmp_path: Path, name: str, written: str) -> None:
    DetectionWriter(tmp_path, (3, 17)).add(Path(name), IMAGE, TWO)
    assert {path.name for path in tmp_path.iterdir()} == {written, "detections.jsonl"}


def test_a_folder_with_files_of_the_users_is_left_alone(tmp_path: Path) -> None:
    images.write(tmp_path / "a.png", IMAGE)
    with pytest.raises(InputError, match="holds files that are not detections; give another --out"):
        DetectionWriter(tmp_path, (3, 17))
    assert np.array_equal(images.read(tmp_path / "a.png"), IMAGE)


def test_a_second_run_replaces_the_results_of_the_first(tmp_path: Path) -> None:
    for answer in (TWO, found()):
        writer = DetectionWriter(tmp_path, (3, 17), txt=True)
        writer.add(Path("x/a.png"), IMAGE, answer)
        writer.close()
    assert (tmp_path / "labels" / "a.txt").read_text() == ""
    assert json.loads((tmp_path / "detections.json").read_text()) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "a.png",
        "detections.json",
        "detections.jsonl",
        "labels",
    ]


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file/out: cannot be written"):
        DetectionWriter(tmp_path / "file" / "out", (3, 17))


# --- the journal, and going on behind it

ANSWERS = {
    Path("x/a.png"): TWO,
    Path("x/b.png"): found(),
    Path("y/a.png"): found((1, 2, 3, 5)),
    Path('y/"c,\n' + os.fsdecode(b"\xff.png")): TWO,
}
SETTINGS = {"weights": "w", "score_threshold": 0.3, "suppression": None}


def write(folder: Path, answers: dict[Path, Detections] = ANSWERS, **options: Any) -> DetectionWriter:
    """Add what is not done, without `close`."""
    writer = DetectionWriter(folder, (3, 17), txt=True, table=True, settings=SETTINGS, **options)
    for name, answer in answers.items():
        if str(name) not in writer.done:
            writer.add(name, IMAGE, answer)
    return writer


def contents(folder: Path) -> dict[Path, bytes]:
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def whole(tmp_path: Path) -> dict[Path, bytes]:
    """The files of a run that was never stopped."""
    write(tmp_path / "whole").close()
    return contents(tmp_path / "whole")


def test_the_journal_has_a_line_per_picture_as_soon_as_it_is_added(tmp_path: Path) -> None:
    writer = DetectionWriter(tmp_path, (3, 17), pictures=False, settings=SETTINGS)
    for count, (name, answer) in enumerate(ANSWERS.items(), 1):
        writer.add(name, IMAGE, answer)
        head, *lines = map(json.loads, (tmp_path / "detections.jsonl").read_text().splitlines())
        assert head == {"settings": {**SETTINGS, "pictures": False, "txt": False}}
        assert len(lines) == count
    assert [line["file_name"] for line in lines] == [str(name) for name in ANSWERS]
    assert lines[0] == {
        "image_id": 1,
        "file_name": "x/a.png",
        "height": 100,
        "width": 200,
        "detections": [
            {"class": "cat", "category_id": 3, "bbox": [20, 10, 40, 40], "score": pytest.approx(0.9)},
            {"class": "dog", "category_id": 17, "bbox": [100, 0, 100, 100], "score": 0.5},
        ],
    }
    assert lines[1]["detections"] == []


def test_wherever_the_journal_is_cut_off_going_on_gives_the_files_of_an_unbroken_run(
    tmp_path: Path, whole: dict[Path, bytes]
) -> None:
    journal = whole[Path("detections.jsonl")]
    out = tmp_path / "out"
    write(out)
    for end in [*range(0, len(journal), 37), len(journal) - 1, len(journal)]:
        (out / "detections.jsonl").write_bytes(journal[:end])
        writer = write(out, skip_done=True)
        assert len(writer.done) == max(0, journal[:end].count(b"\n") - 1)
        writer.close()
        assert contents(out) == whole


def test_a_run_that_begins_anew_leaves_no_tables_of_the_one_before(tmp_path: Path) -> None:
    write(tmp_path).close()
    write(tmp_path, skip_done=True)
    assert {"detections.json", "detections.csv"} <= {path.name for path in tmp_path.iterdir()}
    write(tmp_path, {})
    assert not {"detections.json", "detections.csv"} & {path.name for path in tmp_path.iterdir()}


def test_a_damaged_line_is_said_and_what_stands_behind_it_is_done_again(
    tmp_path: Path, whole: dict[Path, bytes], caplog: pytest.LogCaptureFixture
) -> None:
    for damaged in (b"\0\0\n", b"[1]\n", b"{}\n", b"\xff\n"):
        write(tmp_path / "out").close()
        lines = (tmp_path / "out" / "detections.jsonl").read_bytes().splitlines(keepends=True)
        (tmp_path / "out" / "detections.jsonl").write_bytes(b"".join([*lines[:2], damaged, *lines[3:]]))
        writer = write(tmp_path / "out", skip_done=True)
        assert writer.done == {"x/a.png"}
        assert "detections.jsonl:3: damaged; this picture and the 2 behind it are done again" in caplog.text
        writer.close()
        assert contents(tmp_path / "out") == whole


def test_pictures_that_came_later_are_added_behind_the_others_and_take_nothing_from_them(tmp_path: Path) -> None:
    write(tmp_path).close()
    before = contents(tmp_path)
    writer = write(tmp_path, {Path("w/a.png"): TWO} | ANSWERS, skip_done=True)
    assert writer.done == {str(name) for name in ANSWERS}
    writer.close()
    after = contents(tmp_path)
    assert after.keys() - before.keys() == {Path("a-3.png"), Path("labels/a-3.txt")}
    assert json.loads(after[Path("detections.json")])[-1]["image_id"] == 5
    for name in ("detections.json", "detections.csv", "detections.jsonl"):
        assert after[Path(name)].startswith(before[Path(name)].removesuffix(b"]\n"))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"settings": SETTINGS | {"score_threshold": 0.4}}, r"score_threshold: 0\.3, now 0\.4"),
        (
            {"settings": SETTINGS | {"weights": "v", "suppression": "soft"}},
            "weights: 'w', now 'v'; suppression: None, now",
        ),
        ({"settings": {}}, "weights: 'w', now None"),
        ({"pictures": False}, "pictures: True, now False"),
    ],
)
def test_answers_of_other_settings_are_not_mixed(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    write(tmp_path).close()
    before = contents(tmp_path)
    options: dict[str, Any] = {"txt": True, "settings": SETTINGS} | changed
    with pytest.raises(InputError, match=rf"detections\.jsonl: was made with other settings \({message}"):
        DetectionWriter(tmp_path, (3, 17), skip_done=True, **options)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("foreign", [b"notes\n", b"[]\n", b'{"a": 1}\n', b"\xff\n"])
def test_a_journal_of_another_program_is_left_alone(tmp_path: Path, foreign: bytes) -> None:
    (tmp_path / "detections.jsonl").write_bytes(foreign)
    with pytest.raises(InputError, match=r"was not written by `detector detect`"):
        DetectionWriter(tmp_path, (3, 17), skip_done=True)
    assert contents(tmp_path) == {Path("detections.jsonl"): foreign}


def test_a_file_name_keeps_bytes_that_are_no_utf_8(tmp_path: Path, whole: dict[Path, bytes]) -> None:
    name = list(ANSWERS)[-1]
    rows = json.loads(whole[Path("detections.json")])
    assert Path(rows[-1]["file_name"]) == name
    assert b"\xff.png" in whole[Path("detections.csv")]
    assert Path("labels", name.stem + ".txt") in whole


def test_ten_thousand_pictures_of_one_name_each_have_a_file(tmp_path: Path) -> None:
    writer = DetectionWriter(tmp_path, (3, 17))
    stems = {writer._free_stem(Path(f"{index}/a.png")) for index in range(10_000)}
    assert stems == {"a"} | {f"a-{number}" for number in range(2, 10_001)}


# --- what the disk refuses


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Let no file grow beyond `size` bytes: a disk that fills up in the middle of a write."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_that_fills_up_is_an_error_that_names_the_file_and_what_was_written_stays_valid(
    tmp_path: Path, whole: dict[Path, bytes]
) -> None:
    out = tmp_path / "out"
    one, two, three, _ = ANSWERS
    write(out, {one: ANSWERS[one]})
    size = (out / "detections.jsonl").stat().st_size
    for room in (0, 1, 60):
        writer = write(out, {}, skip_done=True)
        with largest_file(size + room), pytest.raises(InputError, match=r"detections\.jsonl: cannot be written \(File"):
            writer.add(two, IMAGE, ANSWERS[two])
        assert (out / "detections.jsonl").stat().st_size == size
    writer = write(out, {}, skip_done=True)
    with largest_file(40), pytest.raises(InputError, match=r"a-2\.png: cannot be written"):
        writer.add(three, IMAGE, ANSWERS[three])
    writer = write(out, skip_done=True)
    assert writer.done == {str(one)}
    with largest_file(300), pytest.raises(InputError, match=r"detections\.json: cannot be written"):
        writer.close()
    assert not list(out.rglob("*.part"))
    write(out, skip_done=True).close()
    assert contents(out) == whole


@pytest.mark.parametrize("name", ["a.png", "labels/a.txt", "detections.json", "detections.csv", "detections.jsonl"])
def test_a_file_that_cannot_be_written_is_an_error_that_names_it(tmp_path: Path, name: str) -> None:
    write(tmp_path, {}).close()
    (tmp_path / name).unlink(missing_ok=True)
    (tmp_path / name).mkdir()
    with pytest.raises(InputError, match=f"{name}: cannot be written"):
        write(tmp_path).close()
    assert not list(tmp_path.rglob("*.part"))
