"""Tests of `detect --engine ray`. They start Ray, which takes up to a minute; without the package they are skipped."""

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detector.cli.commands import main
from detector.detecting.ray_engine import Worker, check_unreadable
from detector.errors import FileError, ImageError, InputError
from detector.images import read_image, write_image
from detector.media.sources import find_sources
from detector.options import DetectOptions
from detector.predict.detector import Detector
from detector.version import VERSION

TABLES = ("detections.jsonl", "detections.json", "detections.csv")

needs_ray = pytest.mark.skipif(find_spec("ray") is None, reason="needs the package ray: tools/test_extra.sh ray")

PROGRAM = """
import os, signal, sys, threading, time
from pathlib import Path

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
lost, arguments = sys.argv[1], sys.argv[2:]
journal = Path(arguments[arguments.index("--out") + 1]) / "shard-0-of-1" / "detections.jsonl"

def children(pid):
    own = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return own + [grandchild for child in own for grandchild in children(child)]

def workers():
    return [p for p in children(os.getpid()) if b"ray::MapWorker" in Path(f"/proc/{p}/cmdline").read_bytes()]

def lose():
    while not journal.exists() or len(journal.read_bytes().splitlines()) < 2 or not workers():
        time.sleep(0.02)
    if lost == "worker":
        os.kill(workers()[0], signal.SIGKILL)
    elif lost == "node":
        cluster.remove_node(node, allow_graceful=False)
    elif lost == "driver":
        os.kill(os.getpid(), signal.SIGKILL)
    print("lost", lost, file=sys.stderr, flush=True)

if lost == "node":
    from ray.cluster_utils import Cluster
    store = {"object_store_memory": 100 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False, **store})
    node = cluster.add_node(num_cpus=1, **store)
    arguments += ["--address", cluster.address]
if lost != "nothing":
    threading.Thread(target=lose, daemon=True).start()
from detector.cli.commands import main
status = main(arguments)
if lost == "node":
    cluster.shutdown()
sys.exit(status)
"""


@pytest.fixture
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Create a folder with 400 images, one of which is damaged, and change to the folder that contains it."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "images"
    folder.mkdir()
    rng = np.random.default_rng(0)
    write_image(folder / "000.png", rng.integers(90, 140, size=(64, 96, 3)).astype(np.uint8))
    for index in range(1, 400):
        os.link(folder / "000.png", folder / f"{index:03}.png")
    (folder / "009.png").unlink()
    (folder / "009.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    yield folder
    deadline = time.monotonic() + 60  # on a busy machine, workers end seconds after Ray
    while processes_of(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not processes_of(tmp_path), "processes of Ray are left"


def processes_of(folder: Path) -> list[str]:
    """Return the command lines of all processes of Ray that were started in a folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        if process.name == str(os.getpid()):
            continue
        try:
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if (process / "cwd").readlink() == folder and "ray" in command:
                found.append(command)
        except OSError:
            continue
    return found


@pytest.fixture
def flags(images: Path, tiny_weights: Path) -> list[str]:
    return ["detect", "images", "--weights", str(tiny_weights), "--conf", "0.01", "--no-images", "--csv", "--out"]


def run_ray(lost: str, flags: list[str]) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-c", PROGRAM, lost, *flags, "found", "--engine", "ray", "--skip-done"]
    return subprocess.run(command, capture_output=True, text=True, timeout=500)


def contents(folder: str) -> dict[str, bytes]:
    return {name: (Path(folder) / name).read_bytes() for name in TABLES}


@needs_ray
@pytest.mark.parametrize("lost", ["nothing", "worker", "node"])
def test_ray_gives_the_files_of_one_process(flags: list[str], lost: str) -> None:
    done = run_ray(lost, flags)
    assert done.returncode == 3, done.stderr
    assert ("lost" in done.stderr) == (lost != "nothing")
    assert "1 of 400 images could not be read" in done.stderr
    assert main([*flags, "plain"]) == 3
    assert contents("found") == contents("plain")


@needs_ray
def test_images_in_larger_files_are_detected_once(images: Path, tiny_weights: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    data = [(images / f"{index:03}.png").read_bytes() for index in range(200)]
    rows = {"image": [{"bytes": content, "path": None} for content in data]}
    pyarrow.parquet.write_table(pyarrow.table(rows), "a.parquet", row_group_size=30)
    for shard in range(2):
        with tarfile.open(f"shard-{shard}.tar", "w") as archive:
            for index in range(shard * 50, shard * 50 + 50):
                archive.add(images / f"{index:03}.png", f"{index:03}.png")
    flags = ["detect", "a.parquet", "shard-{0..1}.tar", "--weights", str(tiny_weights), "--no-images", "--csv", "--out"]
    done = run_ray("worker", flags)
    assert done.returncode == 3, done.stderr
    assert "lost worker" in done.stderr
    assert "2 of 300 images could not be read" in done.stderr
    assert main([*flags, "plain"]) == 3
    assert contents("found") == contents("plain")
    names = [json.loads(line)["file_name"] for line in Path("found/detections.jsonl").read_bytes().splitlines()[1:]]
    assert len(names) == len(set(names)) == 298
    assert names[0] == "a.parquet/0"
    assert names[-1] == "shard-1.tar/099.png"


@needs_ray
def test_a_killed_driver_continues(flags: list[str]) -> None:
    done = run_ray("driver", flags)
    assert done.returncode == -signal.SIGKILL
    before = Path("found/shard-0-of-1/detections.jsonl").read_bytes().splitlines()
    assert 1 < len(before) < 400
    done = run_ray("nothing", flags)
    assert done.returncode == 3, done.stderr
    after = Path("found/shard-0-of-1/detections.jsonl").read_bytes().splitlines()
    assert after[: len(before) - 1] == before[:-1]
    assert main([*flags, "plain"]) == 3
    assert contents("found") == contents("plain")


@needs_ray
def test_a_missing_cluster_is_an_error(flags: list[str]) -> None:
    done = run_ray("nothing", [*flags[:-1], "--address", "127.0.0.1:1", "--out"])
    assert done.returncode == 2
    assert "--address 127.0.0.1:1: no Ray cluster can be reached" in done.stderr


def results_of(worker: Worker, *images: Path) -> Any:
    """Return the results of a group of images."""
    group = {"start": [0], "images": [pickle.dumps([partial(read_image, image) for image in images])]}
    return pickle.loads(worker(group)["results"][0])


def test_a_worker_gives_the_detections_of_this_process(images: Path, tiny_weights: Path) -> None:
    detector, options = Detector.load(tiny_weights, threads=1), DetectOptions(score_threshold=0.01)
    worker = Worker(pickle.dumps(detector), detector.resolve_options(options), str(Path.cwd()), VERSION)
    (size, found), error = results_of(worker, images / "000.png", images / "009.png")
    assert size == (64, 96)
    assert isinstance(error, InputError)
    expected = detector.detect([images / "000.png"], score_threshold=0.01)[0]
    assert np.array_equal(found.boxes, expected.boxes)
    assert np.array_equal(found.scores, expected.scores)


def test_a_machine_with_other_files_is_refused(images: Path, tiny_weights: Path, tmp_path: Path) -> None:
    weights = tmp_path / "weights.safetensors"
    shutil.copy(tiny_weights, weights)
    pickled, options, folder = pickle.dumps(Detector.load(weights)), DetectOptions(), str(Path.cwd())
    error = results_of(Worker(pickled, options, folder, "0.0.0"), images / "000.png")
    assert "of detector, but 0.0.0 is needed" in str(error)
    error = results_of(Worker(pickled, options, str(tmp_path / "gone"), VERSION), images / "000.png")
    assert "gone: this folder does not exist on " in str(error)
    weights.unlink()
    error = results_of(Worker(pickled, options, folder, VERSION), images / "000.png")
    assert "weights.safetensors: a pickled detector cannot be loaded" in str(error)


def test_a_machine_without_the_images_is_refused(images: Path) -> None:
    good, damaged = find_sources(["images/000.png", "images/009.png"])
    check_unreadable(damaged, ImageError("damaged"), "node")
    with pytest.raises(FileError, match=r"images/000\.png: can be read here, but not on node \(no such file\)"):
        check_unreadable(good, FileError("no such file"), "node")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--engine", "ray"], "--engine ray writes detections only, no images; add --no-images"),
        (["--engine", "ray", "--no-images", "--save-crops"], "leave out --save-crops"),
        (["--engine", "ray", "--no-images"], "--shard and --engine ray need --out"),
        (["--engine", "ray", "--no-images", "--shard", "0/2"], "use one of them"),
        (["--address", "auto"], "add --engine ray"),
    ],
)
def test_options_that_ray_does_not_support_are_refused(
    arguments: list[str], message: str, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["detect", "images", "--weights", "scenes", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_missing_package_is_named(
    flags: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main([*flags, "found", "--engine", "ray"]) == 2
    assert "--engine ray needs the package ray: pip install 'grid-detector[ray]'" in capsys.readouterr().err
