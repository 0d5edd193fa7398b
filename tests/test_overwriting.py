"""Files and links of the user at every path that a command writes: none is ever changed.

Each command runs once, to learn which paths it writes. Then a foreign file, link or folder is planted at one of these
paths, and the command runs again: it must stop with one message, or leave alone what was planted.
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest

from detector.checking.check import _IMAGE_NAMES
from detector.cli.commands import main
from detector.cli.console import print_error
from detector.detecting.detect_files import claim_videos, detect_images, detect_videos
from detector.detecting.formats import OutputFormat
from detector.errors import InputError
from detector.files import LOCK_NAME
from detector.images import write_image
from detector.manifest import MANIFEST_NAME
from detector.media.sources import find_sources
from detector.options import DetectOptions
from detector.output_folder import claim_folder
from detector.predict.detector import Detector
from detector.reviewing.review import review
from detector.reviewing.rows import rows_to_csv

Capture = pytest.CaptureFixture[str]


@dataclass(frozen=True)
class Place:
    """What a test has planted: `path` is the planted file, link or folder, and `target` is where a link leads to."""

    path: Path
    target: Path

    def plant(self, kind: str) -> None:
        if self.path.is_dir() and not self.path.is_symlink():
            shutil.rmtree(self.path)
        self.path.unlink(missing_ok=True)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if kind == "file":
            self.path.write_text("mine")
        elif kind == "folder":
            self.path.mkdir()
        else:
            if kind == "link":
                self.target.write_text("mine")
            elif kind == "link to a folder":
                self.target.mkdir()
            self.path.symlink_to(self.target)

    def is_untouched(self, kind: str) -> bool:
        if kind == "file":
            return not self.path.is_symlink() and self.path.read_text() == "mine"
        if kind == "folder":
            return not list(self.path.iterdir())
        links = self.path.is_symlink() and self.path.readlink() == self.target
        if kind == "link":
            return links and self.target.read_text() == "mine"
        if kind == "link to a folder":
            return links and not list(self.target.iterdir())
        return links and not self.target.exists()


def kinds_for(path: Path) -> tuple[str, ...]:
    """Return what can be planted at a path that a command writes: a file, or a folder of files."""
    if path.is_dir():
        return ("file", "link", "link to a folder", "link to nowhere")
    return ("file", "link", "link to nowhere", "folder")


def written(folder: Path) -> list[Path]:
    """Return the relative paths of all files and folders that a command wrote, also of its lock and its manifest."""
    return sorted(path.relative_to(folder) for path in folder.rglob("*"))


Command = Callable[[Path], int]
"""A function that writes to a folder and returns the exit status of a command."""


def command_line(*arguments: str) -> Command:
    """Return a function that runs a command; OUT in the arguments is replaced by the folder."""
    return lambda out: main([argument.replace("OUT", str(out)) for argument in arguments])


def check_every_path(command: Command, run: Path, tmp_path: Path, capsys: Capture, *, again: bool) -> int:
    """Plant something at every path that a command wrote, run the command again, and return the number of runs.

    Args:
        command: the command.
        run: the folder after the command has run.
        tmp_path: folder for copies of `run`.
        capsys: fixture.
        again: True: plant into the results of an earlier run. False: plant into a new folder.
    """
    runs = 0
    capsys.readouterr()
    for name in written(run):
        for kind in kinds_for(run / name):
            if kind == "folder" and name.parent.name == "state":
                continue  # the name of a checkpoint is never the same again
            out = tmp_path / str(runs) / "out"
            shutil.copytree(run, out) if again else out.mkdir(parents=True)
            place = Place(out / name, tmp_path / str(runs) / "target")
            place.plant(kind)
            status = command(out)
            errors = capsys.readouterr().err
            assert place.is_untouched(kind), f"{name}: the {kind} was changed"
            assert status == 2, f"{name}: the {kind} was not refused"
            assert errors.count("error: ") == 1, errors
            runs += 1
            shutil.rmtree(tmp_path / str(runs - 1))
    return runs


@pytest.fixture(scope="module")
def detector(tiny_weights: Path) -> Detector:
    return Detector.load(tiny_weights, device="cpu")


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an image and a video of two frames, in which the tiny weights detect objects."""
    folder = tmp_path_factory.mktemp("media")
    image = np.full((64, 96, 3), 115, np.uint8)
    image[10:40, 20:50] = (230, 20, 20)
    write_image(folder / "a.png", image)
    video = cv2.VideoWriter(str(folder / "clip.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 10, (96, 64))
    for _ in range(2):
        video.write(image[:, :, ::-1])
    video.release()
    return folder


ALL_FORMATS: frozenset[OutputFormat] = frozenset({"images", "txt", "conf", "csv", "counts", "crops", "json"})
IMAGE_OUTPUTS = ("a.png", "crops/red/a-1.png", "detections.csv", "detections.json", "json/a.json", "labels/a.txt")


@pytest.mark.parametrize("skip_done", [False, True])
def test_detect_changes_nothing_foreign(
    detector: Detector, media: Path, tmp_path: Path, capsys: Capture, skip_done: bool
) -> None:
    options = DetectOptions(score_threshold=0.05)

    def detect(out: Path) -> int:  # what the command does, without loading the weights each time
        try:
            with claim_folder(out, "testing") as folder:
                sources = find_sources([str(media / "a.png")])
                claim_videos([str(media / "clip.avi")], folder)
                detect_images(
                    detector, sources, folder, options, weights="tiny", formats=ALL_FORMATS, skip_done=skip_done
                )
                results = detect_videos(detector, [str(media / "clip.avi")], folder, options)
                return 2 * isinstance(results[0], InputError)
        except InputError as error:
            print_error(str(error))
            return 2

    assert detect(tmp_path / "run") == 0
    names = set(written(tmp_path / "run"))
    assert names >= {Path(name) for name in (*IMAGE_OUTPUTS, "clip.mp4", "clip.jsonl", MANIFEST_NAME)}
    if skip_done:
        (tmp_path / "run" / "detections.jsonl").write_text("")  # no image is done
    for again in (True, False):
        assert check_every_path(detect, tmp_path / "run", tmp_path, capsys, again=again) == 4 * len(names)


@pytest.mark.parametrize("name", ["model.onnx", "model_openvino"])
def test_export_changes_nothing_foreign(tiny_weights: Path, tmp_path: Path, capsys: Capture, name: str) -> None:
    export = command_line("export", "--weights", str(tiny_weights), "--out", f"OUT/{name}")
    run = tmp_path / "run"
    assert export(run) == 0
    assert len(written(run)) == (2 if name == "model.onnx" else 4)
    if name == "model_openvino":
        export = command_line("export", "--weights", str(tiny_weights), "--out", "OUT", "--format", "openvino")
        run = run / name
    for again in (True, False):
        assert check_every_path(export, run, tmp_path, capsys, again=again) >= 8


def test_evaluate_changes_nothing_foreign(tiny_weights: Path, tiny_data: Path, tmp_path: Path, capsys: Capture) -> None:
    outputs = ["--json", "OUT/ap.json", "--results", "OUT/found.json"]
    evaluate = command_line("evaluate", "--data", str(tiny_data), "--weights", str(tiny_weights), *outputs)
    run = tmp_path / "run"
    for _ in range(2):  # the same command twice works
        assert evaluate(run) == 0
    assert written(run) == [Path("ap.json"), Path("found.json")]
    for again in (True, False):
        assert check_every_path(evaluate, run, tmp_path, capsys, again=again) == 8


def test_evaluate_saves_over_nothing_foreign(
    tiny_weights: Path, tiny_data: Path, tmp_path: Path, capsys: Capture
) -> None:
    arguments = ["evaluate", "--data", str(tiny_data), "--weights", str(tiny_weights), "--no-intervals", "--calibrate"]
    evaluate = command_line(*arguments, "--save", "OUT/new.safetensors")
    assert evaluate(tmp_path / "run") == 0
    assert evaluate(tmp_path / "run") == 0  # it replaces its own file
    assert check_every_path(evaluate, tmp_path / "run", tmp_path, capsys, again=False) > 3


def test_explain_changes_nothing_foreign(tiny_weights: Path, tiny_data: Path, tmp_path: Path, capsys: Capture) -> None:
    images = [str(tiny_data / "images" / name) for name in ("17.png", "18.png")]
    arguments = ["--truth", str(tiny_data / "test.json"), "--weights", str(tiny_weights), "--out", "OUT"]
    explain = command_line("explain", *images, *arguments)
    run = tmp_path / "run"
    for _ in range(2):  # the same command twice works
        assert explain(run) == 0
    names = written(run)
    assert {Path("17.jpg"), Path("18.jpg"), Path("explanation.json")} <= set(names)
    for again in (True, False):
        assert check_every_path(explain, run, tmp_path, capsys, again=again) == 4 * len(names)


@pytest.mark.parametrize("again", [True, False])
def test_review_changes_nothing_foreign(
    detector: Detector, tiny_data: Path, tmp_path: Path, capsys: Capture, again: bool
) -> None:
    def write_review(out: Path) -> int:  # what the command does, without loading the weights each time
        try:
            review(tiny_data, weights=detector, split="val", min_score=0.0, out=out)
        except InputError as error:
            print_error(str(error))
            return 2
        return 0

    run = tmp_path / "run"
    assert [write_review(run), write_review(run)] == [0, 0]
    assert {Path("rows.csv"), Path("rows.json"), Path("sheets/missing-1.jpg")} < set(written(run))
    assert check_every_path(write_review, run, tmp_path, capsys, again=again) > 20


def test_folds_change_nothing_foreign(tiny_data: Path, tmp_path: Path, capsys: Capture) -> None:
    settings = ["model=pico", "input_size=[64, 96]", "steps=1", "batch=4", "precision=fp32"]
    flags = [flag for setting in settings for flag in ("--set", setting)]
    flags += ["--split", "test", "--folds", "2", "--device", "cpu", "--no-intervals", "--out", "OUT"]
    cross_validate = command_line("evaluate", "--data", str(tiny_data), *flags)
    run = tmp_path / "run"
    assert [cross_validate(run), cross_validate(run)] == [0, 0]
    names = set(written(run))
    assert {Path("folds.json"), Path("detections.json"), Path("fold-2/run/weights/best.safetensors")} <= names
    assert check_every_path(cross_validate, run, tmp_path, capsys, again=False) > 100
    (run / "detections.json").write_text("mine")
    assert cross_validate(run) == 2
    assert (run / "detections.json").read_text() == "mine"


@pytest.mark.parametrize("again", [True, False])
def test_corrected_labels_change_nothing_foreign(tiny_data: Path, tmp_path: Path, capsys: Capture, again: bool) -> None:
    rows = tmp_path / "rows.csv"
    rows.write_bytes(rows_to_csv([]))
    accept = command_line("review", "--data", str(tiny_data), "--accept", str(rows), "--out", "OUT")
    run = tmp_path / "run"
    assert [accept(run), accept(run)] == [0, 0]
    assert check_every_path(accept, run, tmp_path, capsys, again=again) > 12


def test_report_changes_nothing_foreign(tiny_weights: Path, tiny_data: Path, tmp_path: Path, capsys: Capture) -> None:
    evaluate = command_line("evaluate", "--data", str(tiny_data), "--weights", str(tiny_weights), "--report", "OUT")
    run = tmp_path / "run"
    for _ in range(2):  # the same command twice works
        assert evaluate(run) == 0
    names = written(run)
    assert {Path("report.html"), Path("report.json"), Path("plots/threshold.svg")} <= set(names)
    for again in (True, False):
        assert check_every_path(evaluate, run, tmp_path, capsys, again=again) == 4 * len(names)
    flags = ["--data", str(tiny_data), "--weights", str(tiny_weights), "--report", str(run)]
    assert main(["evaluate", *flags, "--json", str(run / "report.json")]) == 2, "both would write report.json"


def test_check_changes_nothing_foreign(tiny_data: Path, tmp_path: Path, capsys: Capture) -> None:
    run = tmp_path / "run"
    run.mkdir()
    for name in (*_IMAGE_NAMES, "findings.json", MANIFEST_NAME, LOCK_NAME):
        (run / name).touch()
    check = command_line("check", "--data", str(tiny_data), "--out", "OUT", "--json", "OUT/findings.json")
    assert check_every_path(check, run, tmp_path, capsys, again=False) > 40


@pytest.mark.parametrize("command", [["convert", "--to", "yolo"], ["convert", "--to", "coco"], ["split"]])
def test_convert_and_split_write_to_empty_folders_only(
    tiny_data: Path, tmp_path: Path, capsys: Capture, command: list[str]
) -> None:
    convert = command_line(command[0], str(tiny_data), *command[1:], "--out", "OUT")
    run = tmp_path / "run"
    assert [convert(run), convert(run)] == [0, 2]
    for image in (path for path in run.rglob("*.png") if path.name != "1.png"):
        image.unlink()
    assert check_every_path(convert, run, tmp_path, capsys, again=False) > 10


def test_train_changes_nothing_foreign(tiny_data: Path, tmp_path: Path, capsys: Capture) -> None:
    settings = ["model=pico", "input_size=[64, 96]", "steps=2", "batch=4", "evaluations=1", "precision=fp32"]
    flags = [flag for setting in settings for flag in ("--set", setting)]
    train = command_line("train", "--data", str(tiny_data), "--out", "OUT", "--device", "cpu", "--ignore-check", *flags)
    run = tmp_path / "run"
    assert [train(run), train(run)] == [0, 2]
    assert check_every_path(train, run, tmp_path, capsys, again=False) > 40
    (run / "ledger.json").write_text("mine")
    (run / "notes.txt").write_text("mine")
    before = (run / "weights" / "best.safetensors").read_bytes()
    weights = str(run / "weights" / "best.safetensors")
    assert train(run) == main(["train", "--resume", str(run)]) == 2
    overwrite = command_line("train", "--data", str(tiny_data), "--out", "OUT", "--weights", weights, "--overwrite")
    assert overwrite(run) == 2, "the initial weights would be removed"
    assert "best.safetensors: this file would be removed with the earlier run" in capsys.readouterr().err
    assert (run / "weights" / "best.safetensors").read_bytes() == before
    assert command_line("train", "--data", str(tiny_data), "--out", "OUT", "--overwrite", *flags)(run) == 0
    assert (run / "notes.txt").read_text() == "mine"
    assert len(list((run / "state").iterdir())) == 1
