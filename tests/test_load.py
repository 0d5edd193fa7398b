"""Detection on many images: memory and open files stay constant, and a killed run can be continued."""

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from detector.cli.commands import main
from detector.files import LOCK_NAME
from detector.images import write_image
from detector.manifest import MANIFEST_NAME

IMAGES = 400
BAD = "0200.png"

DETECT_600_IMAGES = """
import sys, itertools
from pathlib import Path
from detector.images import find_images
from detector.predict.detector import Detector
from detector.detecting.writer import DetectionWriter

detector = Detector.load(sys.argv[1], runtime="onnxruntime")
writer = DetectionWriter(Path("found"), detector.info.category_ids, formats={"images", "txt"})
images = itertools.islice(itertools.cycle(find_images(Path(sys.argv[2]))), 601)
for count, result in enumerate(detector.detect_with_images(images)):
    if not isinstance(result, ValueError):
        writer.add(Path(f"{count % 50}.jpg"), *result)
    if count in (200, 600):
        resident = [line for line in open("/proc/self/status") if line.startswith("VmRSS")][0]
        print(resident.split()[1], len(list(Path("/proc/self/fd").iterdir())))
"""
"""A program that detects objects in 600 images, of which every tenth cannot be decoded. It prints the resident memory
in kB and the number of open files, after 200 images and at the end."""


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("graph") / "scenes.onnx"
    assert main(["export", "--weights", "scenes", "--imgsz", "32", "--out", str(path)]) == 0
    return path


@pytest.fixture(autouse=True)
def _in_a_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def noise(path: Path, side: int, seed: int) -> None:
    write_image(path, np.random.default_rng(seed).integers(0, 256, (side, side, 3)).astype(np.uint8))


def contents(folder: Path) -> dict[str, bytes]:
    """Return relative path → content, for all files in a folder except the lock and the manifest."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name not in (LOCK_NAME, MANIFEST_NAME)]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_a_run_killed_several_times_writes_the_same_files(graph: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("images").mkdir()
    for number in range(10):
        noise(Path(f"images/{number:04}.png"), 24, number)
    for number in range(10, IMAGES):
        Path(f"images/{number:04}.png").write_bytes(Path(f"images/{number % 10:04}.png").read_bytes())
    Path("images", BAD).write_bytes(b"\x89PNG\r\n\x1a\n")
    arguments = ["detect", "images", "--weights", str(graph), "--runtime", "onnxruntime", "--conf", "0.02"]
    arguments += ["--save-txt", "--csv", "--skip-done"]

    assert main([*arguments, "--out", "complete"]) == 3
    printed = capsys.readouterr()
    assert f"in {IMAGES - 1} images; see complete" in printed.out
    assert printed.err.count("skipped: ") == printed.err.count(BAD) == 1
    assert f"1 of {IMAGES} images could not be read" in printed.err

    journal, unfinished = Path("killed/detections.jsonl"), 0
    for lines in (0, 60, 250):
        with subprocess.Popen([sys.executable, "-m", "detector", *arguments, "--out", "killed"]) as process:
            while process.poll() is None and (not journal.exists() or journal.read_bytes().count(b"\n") < lines):
                time.sleep(0.001)
            process.kill()
        unfinished += not Path("killed/detections.json").exists()
    assert unfinished
    assert main([*arguments, "--out", "killed"]) == 3
    assert re.search(r"in \d+ images, \d+ were done before; see killed", capsys.readouterr().out)
    complete, killed = contents(Path("complete")), contents(Path("killed"))
    assert killed == complete
    # An annotated image and a label file per image, the journal and two tables.
    assert len(complete) == 2 * (IMAGES - 1) + 3
    assert len(json.loads(complete["detections.json"])) == complete["detections.csv"].count(b"\n") - 1 > IMAGES


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_and_open_files_do_not_grow_with_images(graph: Path) -> None:
    Path("images").mkdir()
    for number in range(10):
        noise(Path(f"images/{number}.jpg"), 100 + number, number)  # 30 kB each when decoded
    Path("images/5.jpg").write_bytes(Path("images/5.jpg").read_bytes()[:5000])
    early, end = (
        [int(number) for number in line.split()]
        for line in subprocess.run(
            [sys.executable, "-c", DETECT_600_IMAGES, graph, "images"], capture_output=True, text=True, check=True
        ).stdout.splitlines()
    )
    assert end[0] - early[0] < 2000  # detects a leak of every sixth image
    assert end[1] - early[1] <= 1  # one image is read in advance
