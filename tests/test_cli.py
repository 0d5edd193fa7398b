import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import detector
from detector.cli.commands import main
from detector.config import Config
from detector.data.open_data import open_data
from detector.images import read_image, write_image
from detector.model.checkpoint import save_weights
from detector.model.make_network import make_network
from detector.options import DrawOptions
from detector.predict.detector import Detector
from detector.weights_info import WeightsInfo

TRAIN = ["--model", "pico", "--set", "input_size=[64, 96]", "--set", "steps=2", "--batch", "4", "--device", "cpu"]

Capture = pytest.CaptureFixture[str]


def run(*arguments: object) -> int:
    """Run a command and return its exit status; argparse exits by SystemExit."""
    try:
        return main([str(argument) for argument in arguments])
    except SystemExit as exit_:
        return int(exit_.code or 0)


def refused(capsys: Capture, *arguments: object) -> str:
    """Run a command that must fail with status 2 and one message; return what it printed to stderr."""
    assert run(*arguments) == 2
    _, errors = capsys.readouterr()
    assert "Traceback" not in errors
    assert "error: " in errors
    return errors


@pytest.fixture(scope="session")
def scenes_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights with the classes of the built-in dataset."""
    classes = open_data("scenes").read("test").class_names
    torch.manual_seed(0)
    network = make_network(
        Config(model="pico"), len(classes), np.full(3, 110, np.float32), np.eye(3, dtype=np.float32) * 3600
    )
    path = tmp_path_factory.mktemp("weights") / "scenes.safetensors"
    save_weights(path, network, WeightsInfo("pico", classes, tuple(range(len(classes))), (96, 128), {}, {}))
    return path


@pytest.fixture(autouse=True)
def _run_in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def image(path: Path, level: int = 120) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_image(path, np.full((64, 96, 3), level, np.uint8))
    return path


# --- in general


def test_file_name_that_is_not_utf8_is_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stderr", terminal)
    assert main(["train", "--data", os.fsdecode("é".encode() + b"\xff")]) == 2
    terminal.seek(0)
    assert "\\xe9\\udcff" in terminal.read()


def test_help_and_version_do_not_import_torch() -> None:
    code = (
        "import sys, detector, detector.cli.commands\n"
        "for arguments in (['--help'], ['--version'], ['detect', '--help'], ['train', '--data', 'x', '--set', 'a']):\n"
        "    try: detector.cli.commands.main(arguments)\n"
        "    except SystemExit: pass\n"
        "detector.Config, detector.Detections, detector.drawing\n"
        "sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    for text in ("train", "detect", "evaluate", "--save-txt", "--weights", detector.__version__):
        assert text in done.stdout


def test_python_m_detector_is_the_command() -> None:
    command = [sys.executable, "-m", "detector", "detect", "missing.png", "--weights", "missing"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stderr == "error: missing.png: no such file, folder or pattern\n"


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["tarin"],
        ["compare"],
        ["detect", "a.png"],
        ["evaluate", "--data", "scenes", "--weights", "a", "--detections", "b"],
        ["train", "--data", "scenes", "--minutes", "3", "--epochs", "3"],
        ["detect", "a.png", "--weights", "w", "--conf", "1.5"],
        ["detect", "a.png", "--weights", "w", "--iou", "nan"],
        ["detect", "a.png", "--weights", "w", "--max-det", "many"],
    ],
)
def test_wrong_command_line_prints_usage(capsys: Capture, arguments: list[str]) -> None:
    assert "usage: detector" in refused(capsys, *arguments)


# --- train


def test_train_writes_a_run_and_prints_its_folder(capsys: Capture, tiny_data: Path, tmp_path: Path) -> None:
    assert run("train", "--data", tiny_data, *TRAIN) == 0
    out, errors = capsys.readouterr()
    assert (tmp_path / "runs" / "train" / "weights" / "best.safetensors").is_file()
    assert str(Path("runs/train/weights")) in out
    assert "24 boxes found = 24 used" in out
    assert errors == ""
    assert run("train", "--data", tiny_data, *TRAIN) == 0
    assert (tmp_path / "runs" / "train-2" / "weights" / "best.safetensors").is_file()


def test_flags_override_the_settings_file(tiny_data: Path, tmp_path: Path) -> None:
    (tmp_path / "some.yaml").write_text("model: nano\nminutes: 60\nseed: 4\ninput_size: [64, 96]\nlr_adamw: 1e-4\n")
    arguments = ["--config", "some.yaml", "--model", "pico", "--epochs", "0.4", "--batch", "4", "--out", "run"]
    assert run("train", "--data", tiny_data, *arguments) == 0
    settings = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (settings["model"], settings["seed"], settings["lr_adamw"], settings["steps"]) == ("pico", 4, 1e-4, 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "missing"], "missing: no such file or folder; read are COCO JSON"),
        (["--data", "scenes", "--split", "trian"], "did you mean 'train'?"),
        (["--data", "scenes", "--set", "epoch=3"], "unknown setting 'epoch': did you mean 'epochs'?"),
        (["--data", "scenes", "--set", "epochs"], "--set epochs: expected key=value"),
        (["--data", "scenes", "--set", "batch=four"], "batch: expected auto or a whole number, got 'four'"),
        (["--data", "scenes", "--imgsz", "333"], "input_size: 333 is not a multiple of 32; use 320 or 352"),
        (
            ["--data", "scenes", "--set", "input_size=[320, 300]"],
            "input_size: 300 is not a multiple of 32; use 288 or 320",
        ),
        (["--data", "scenes", "--minutes", "0"], "minutes: must be at least 0.05, got 0"),
        (["--data", "scenes", "--model", "large"], "model: expected pico or nano or small or medium, got 'large'"),
        (["--data", "scenes", "--device", "abacus"], "device 'abacus' is not available here"),
        (["--data", "scenes", "--config", "missing.yaml"], "missing.yaml: no such configuration file"),
    ],
)
def test_train_refuses_wrong_input_with_one_message(capsys: Capture, arguments: list[str], message: str) -> None:
    assert message in refused(capsys, "train", *arguments)
    assert not Path("runs").exists()


def test_wrong_line_in_a_settings_file_is_named(capsys: Capture, tmp_path: Path) -> None:
    (tmp_path / "some.yaml").write_text("seed: 1\n\nepohcs: 3\n")
    message = refused(capsys, "train", "--data", "scenes", "--config", "some.yaml")
    assert "some.yaml:3: unknown setting 'epohcs': did you mean 'epochs'?" in message


def test_train_does_not_write_into_another_run(capsys: Capture, tiny_data: Path, tiny_run: Path) -> None:
    message = refused(capsys, "train", "--data", tiny_data, *TRAIN, "--out", tiny_run)
    assert f"{tiny_run}: the folder already holds a run; choose another --out" in message


def yolo(folder: Path) -> Path:
    """Write a YOLO dataset with three images and four label rows, one of them with a class id out of range."""
    rows = {"a": "0 0.5 0.5 0.2 0.3\n7 0.5 0.5 0.1 0.1\n", "b": "1 0.4 0.4 0.2 0.2\n", "c": "0 0.4 0.4 0.2 0.2\n"}
    for name, text in rows.items():
        image(folder / "images" / f"{name}.png")
        (folder / "labels").mkdir(exist_ok=True)
        (folder / "labels" / f"{name}.txt").write_text(text)
    (folder / "data.yaml").write_text("train: images\nnames: [cat, dog]\n")
    return folder


def test_class_id_out_of_range_is_refused_unless_allowed(capsys: Capture, tmp_path: Path) -> None:
    data = yolo(tmp_path / "mine")
    message = refused(capsys, "train", "--data", data, *TRAIN, "--allow-dropped", "0")
    assert "1 of 4 boxes would be dropped, more than the allowed 0.0%" in message
    assert f"{Path('labels') / 'a.txt'}:2: dropped: class 7 is not a whole number from 0 to 1" in message
    assert "--allow-dropped" in message
    assert run("train", "--data", data, *TRAIN, "--allow-dropped", "0.25") == 0


# --- detect


def test_detect_writes_images_and_every_format(capsys: Capture, tiny_data: Path, tiny_weights: Path) -> None:
    arguments = ["--weights", tiny_weights, "--out", "out", "--save-txt", "--save-conf", "--csv", "--conf", "0.3"]
    arguments += ["--device", "cpu"]
    assert run("detect", tiny_data / "images", *arguments) == 0
    out, errors = capsys.readouterr()
    assert errors == ""
    rows = json.loads(Path("out/detections.json").read_text())
    assert f"{len(rows)} objects in 20 images; see out" in out
    assert {row["category_id"] for row in rows} == {3, 17}
    assert min(row["score"] for row in rows) >= 0.3
    with Path("out/detections.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == len(rows)
    assert len(list(Path("out").glob("*.png"))) == len(list(Path("out/labels").glob("*.txt"))) == 20

    found = Detector.load(tiny_weights, device="cpu").detect(tiny_data / "images" / "1.png", score_threshold=0.3)
    lines = Path("out/labels/1.txt").read_text().splitlines()
    assert len(lines) == len(found) > 0
    for line, (_, score, (x1, y1, x2, y2)) in zip(lines, found, strict=True):
        expected = [(x1 + x2) / 2 / 96, (y1 + y2) / 2 / 64, (x2 - x1) / 96, (y2 - y1) / 64, score]
        np.testing.assert_allclose([float(value) for value in line.split()[1:]], expected, atol=1e-3)


def test_detect_runs_on_the_built_in_scenes(capsys: Capture, scenes_weights: Path) -> None:
    assert run("detect", "scenes", "--weights", scenes_weights, "--conf", "0.9", "--device", "cpu") == 0
    assert "in 12 images; see found" in capsys.readouterr().out
    assert len(list(Path("found").glob("*.png"))) == 12


def test_results_without_objects_are_valid(capsys: Capture, tiny_weights: Path, tmp_path: Path) -> None:
    image(tmp_path / "a.png")
    arguments = ["--weights", tiny_weights, "--conf", "1", "--save-txt", "--csv", "--no-images"]
    assert run("detect", "a.png", *arguments) == 0
    assert "0 objects in 1 image" in capsys.readouterr().out
    assert json.loads(Path("found/detections.json").read_text()) == []
    assert Path("found/labels/a.txt").read_text() == ""
    assert len(Path("found/detections.csv").read_text().splitlines()) == 1
    assert not Path("found/a.png").exists()


def test_drawing_options_reach_the_annotated_images(tiny_weights: Path, tmp_path: Path) -> None:
    image(tmp_path / "a.png")
    arguments = ["--weights", tiny_weights, "--conf", "0", "--max-det", "4", "--device", "cpu"]
    assert run("detect", "a.png", *arguments, "--hide-labels", "--line-width", "2", "--out", "hidden") == 0
    found = Detector.load(tiny_weights, device="cpu").detect("a.png", score_threshold=0, max_detections=4)
    expected = found.draw_on(read_image("a.png"), DrawOptions(labels=False, line_width=2))
    np.testing.assert_array_equal(read_image("hidden/a.png"), expected)
    # Thirty captions cover an image of 96 x 64 pixels, so a legend is added below it.
    assert run("detect", "a.png", *arguments, "--max-det", "30", "--out", "legend") == 0
    assert read_image("legend/a.png").shape[0] > 64


def test_tiles_allow_more_detections_by_default(tiny_weights: Path, tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", np.random.default_rng(0).integers(0, 256, (320, 480, 3)).astype(np.uint8))
    arguments = ["--weights", tiny_weights, "--conf", "0", "--iou", "0.95", "--no-images", "--tile", "96"]
    for name, more in (("default", []), ("given", ["--max-det", "300"])):
        assert run("detect", "a.png", *arguments, *more, "--out", name) == 0
    counts = {name: len(json.loads(Path(name, "detections.json").read_text())) for name in ("default", "given")}
    assert counts["given"] == 300
    assert counts["default"] > 300


def test_equal_file_names_in_two_folders_are_numbered(tiny_weights: Path, tmp_path: Path) -> None:
    for name in ("x/a.png", "y/a.png", "y/b.png"):
        image(tmp_path / name)
    assert run("detect", "*/*.png", "--weights", tiny_weights, "--device", "cpu") == 0
    assert sorted(path.name for path in Path("found").glob("*.png")) == ["a-2.png", "a.png", "b.png"]


def test_each_run_without_out_gets_a_new_folder(tiny_weights: Path, tmp_path: Path, capsys: Capture) -> None:
    image(tmp_path / "a.png")
    for _ in range(2):
        assert run("detect", "a.png", "--weights", tiny_weights) == 0
    assert "--skip-done needs --out" in refused(capsys, "detect", "a.png", "--weights", tiny_weights, "--skip-done")
    assert "add --save-txt" in refused(capsys, "detect", "a.png", "--weights", tiny_weights, "--save-conf")
    assert "there is no such weights file" in refused(capsys, "detect", "a.png", "--weights", "missing")
    assert {path.name for path in Path().iterdir()} == {"a.png", "found", "found-2"}


def test_source_option_and_imgsz(capsys: Capture, tiny_weights: Path, tmp_path: Path) -> None:
    image(tmp_path / "a.png")
    image(tmp_path / "b.png")
    assert run("detect", "--source", "a.png", "b.png", "--weights", tiny_weights, "--imgsz", "128") == 0
    assert "in 2 images" in capsys.readouterr().out


def test_exit_status_for_unreadable_images(capsys: Capture, tiny_weights: Path, tmp_path: Path) -> None:
    image(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes()[:40])
    assert run("detect", "b.png", "--weights", tiny_weights) == 2
    errors = capsys.readouterr().err
    assert "skipped: b.png: " in errors
    assert "1 of 1 image could not be read" in errors
    assert run("detect", "b.png", "a.png", "--weights", tiny_weights, "--out", "out") == 3
    out, errors = capsys.readouterr()
    assert "objects in 1 image" in out
    assert "skipped: b.png: " in errors
    assert "Traceback" not in errors
    assert Path("out/a.png").is_file()
    assert not Path("out/b.png").exists()


def test_skip_done_processes_only_new_and_failed_images(
    capsys: Capture, tiny_weights: Path, tiny_data: Path, tmp_path: Path
) -> None:
    (tmp_path / "p").mkdir()
    for number in range(1, 11):
        (tmp_path / "p" / f"{number}.png").write_bytes((tiny_data / "images" / f"{number}.png").read_bytes())
    good = (tmp_path / "p" / "3.png").read_bytes()
    (tmp_path / "p" / "3.png").write_bytes(good[:40])
    arguments = ["detect", "p", "--weights", tiny_weights, "--device", "cpu", "--skip-done", "--csv", "--out", "found"]
    assert run(*arguments) == 3
    before = Path("found/detections.jsonl").read_bytes()
    assert run(*arguments) == 3
    out, errors = capsys.readouterr()
    assert "0 objects in 0 images, 9 were done before; see found" in out
    assert errors.count("skipped: p/3.png: ") == 2
    assert Path("found/detections.jsonl").read_bytes() == before

    (tmp_path / "p" / "3.png").write_bytes(good)
    image(tmp_path / "p" / "4a.png")
    Path("p/5.png").unlink()
    assert run(*arguments) == 0
    assert "in 2 images, 9 were done before" in capsys.readouterr().out
    after = Path("found/detections.jsonl").read_bytes()
    assert after.startswith(before)
    new = [json.loads(line) for line in after.removeprefix(before).splitlines()]
    assert [(line["image_id"], line["file_name"]) for line in new] == [(10, "p/3.png"), (11, "p/4a.png")]
    assert len(list(Path("found").glob("*.png"))) == 11

    assert "score_threshold: 0.25, now 0.5" in refused(capsys, *arguments, "--conf", "0.5")
    Path("other.safetensors").write_bytes(Path(tiny_weights).read_bytes())  # the same weights under another name
    assert run(*arguments, "--weights", "other.safetensors") == 0
    assert "(weights: " in refused(capsys, *arguments, "--weights", "scenes", "--imgsz", "96")
    assert Path("found/detections.jsonl").read_bytes() == after


def test_options_without_effect_on_images_are_reported(
    tiny_weights: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    image(tmp_path / "a.png")
    arguments = ("detect", "a.png", "--weights", tiny_weights, "--device", "cpu")
    caplog.set_level("INFO")
    assert run(*arguments, "--out", "found", "--every", 2) == 0
    assert "--track and --every work on videos only, and no video is given" in caplog.text
    assert "of an earlier run" not in caplog.text
    assert run(*arguments, "--out", "found") == 0
    assert "found: 3 files of an earlier run replaced" in caplog.text


def test_unknown_export_suffix_is_refused(capsys: Capture, tiny_weights: Path) -> None:
    message = refused(capsys, "export", "--weights", tiny_weights, "--out", "model.pt")
    assert "model.pt: expected a name that ends in .onnx, .tflite, .mlpackage, _openvino or _ncnn" in message
    assert "to write a folder of this name, add --format openvino or --format ncnn" in message


def test_write_error_stops_detect_and_keeps_earlier_results(
    capsys: Capture, tiny_weights: Path, tmp_path: Path
) -> None:
    for name in ("a.png", "b.png", "c.png"):
        image(tmp_path / "p" / name)
    arguments = ("detect", "p", "--weights", tiny_weights, "--device", "cpu", "--out", "found")
    assert run("detect", "p/a.png", *arguments[2:]) == 0
    Path("found/b.png").mkdir()
    assert "found/b.png: is a folder, so nothing is written there" in refused(capsys, *arguments, "--skip-done")
    Path("found/b.png").rmdir()
    assert run(*arguments, "--skip-done") == 0
    assert "in 2 images, 1 was done before" in capsys.readouterr().out


def test_detect_does_not_overwrite_the_source_image(capsys: Capture, tiny_weights: Path, tmp_path: Path) -> None:
    before = image(tmp_path / "a.png").read_bytes()
    message = refused(capsys, "detect", "a.png", "--weights", tiny_weights, "--out", ".")
    assert "a.png: this image is in the output folder; pass another --out" in message
    assert (tmp_path / "a.png").read_bytes() == before


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        (["x/a.png", "y/a.png"], "y/a.png: this image is in the output folder"),
        (["x/a.png"], "y: the folder contains files that are not detections"),
        (["y/a.webp"], "y/a.webp: this image is in the output folder"),
    ],
)
def test_detect_does_not_overwrite_other_images(
    capsys: Capture, tiny_weights: Path, tmp_path: Path, sources: list[str], message: str
) -> None:
    for name in ("x/a.png", "y/a.webp"):
        image(tmp_path / name, 120)
    existing = [image(tmp_path / "y" / name, 50) for name in ("a.png", "a.jpg")]
    before = [path.read_bytes() for path in existing]
    assert message in refused(capsys, "detect", *sources, "--weights", tiny_weights, "--out", "y")
    assert [path.read_bytes() for path in existing] == before


def test_detect_does_not_overwrite_labels_of_a_data_set(capsys: Capture, tiny_weights: Path, tmp_path: Path) -> None:
    before = (yolo(tmp_path / "mine") / "labels" / "b.txt").read_text()
    message = refused(capsys, "detect", "mine/images", "--weights", tiny_weights, "--out", "mine", "--save-txt")
    assert "this image is in the output folder; pass another --out" in message
    assert (tmp_path / "mine" / "labels" / "b.txt").read_text() == before


def test_detect_does_not_overwrite_a_source_among_results(capsys: Capture, tiny_weights: Path, tmp_path: Path) -> None:
    image(tmp_path / "a.png")
    assert run("detect", "a.png", "--weights", tiny_weights) == 0
    before = image(tmp_path / "found" / "mine.png").read_bytes()
    message = refused(capsys, "detect", "found/mine.png", "--weights", tiny_weights, "--out", "found")
    assert "found/mine.png: this image is in the output folder; pass another --out" in message
    assert (tmp_path / "found" / "mine.png").read_bytes() == before


def test_negative_max_det_is_refused(capsys: Capture, tiny_weights: Path, tmp_path: Path) -> None:
    image(tmp_path / "a.png")
    message = refused(capsys, "detect", "a.png", "--weights", tiny_weights, "--max-det", "-1")
    assert "argument --max-det: must be at least 1, got -1" in message


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing.png"], "nothing.png: no such file, folder or pattern"),
        (["a.png", "*.gif"], "*.gif: no such file, folder or pattern"),
        (
            ["a.png", "--weights", "missing"],
            "missing: there is no such weights file; pass a path, or the name of shipped weights: cells, everyday, "
            "scenes",
        ),
        (["a.png", "--weights", "other.safetensors"], "other.safetensors: written by another program or version"),
        (["--classes", "red", "a.png"], "--classes uses all arguments after it, so give the images before --classes"),
        (["a.png", "--weights", "a.png"], "a.png: this is not a readable safetensors file"),
        ([], "no image is given; pass files, folders or glob patterns, or `scenes`"),
        (["a.png", "--imgsz", "100"], "input_size: 100 is not a multiple of 32; use 96 or 128"),
        (["a.png", "--device", "abacus"], "device 'abacus' is not available here"),
        (["a.png", "--out", "a.png/found"], "a.png/found: the folder cannot be created"),
    ],
)
def test_detect_refuses_wrong_input_with_one_message(
    capsys: Capture, tiny_weights: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    image(tmp_path / "a.png")
    save_file({"layer.weight": torch.zeros(3)}, tmp_path / "other.safetensors")
    assert message in refused(capsys, "detect", "--weights", tiny_weights, *arguments)


# --- evaluate


def test_evaluate_prints_numbers_and_its_results_score_equally(
    capsys: Capture, tiny_data: Path, tiny_weights: Path
) -> None:
    arguments = ["--results", "results.json", "--json", "own.json", "--device", "cpu"]
    assert run("evaluate", "--data", tiny_data, "--weights", tiny_weights, *arguments) == 0
    own = capsys.readouterr()
    assert own.err == ""
    assert run("evaluate", "--data", tiny_data, "--detections", "results.json", "--json", "again.json") == 0
    again = capsys.readouterr().out
    assert again in own.out
    numbers = json.loads(Path("own.json").read_text())
    assert json.loads(Path("again.json").read_text()) == numbers
    low, high = numbers["intervals"]["metrics"]["AP"]
    assert f"AP     {numbers['AP']:.3f} [{low:.3f}, {high:.3f}]" in again
    assert [line.split()[0] for line in again.splitlines()[-2:]] == ["red", "blue"]
    assert len(numbers) == 15  # with the signature and the intervals


def test_evaluate_compares_two_results_on_the_same_images(capsys: Capture, tiny_data: Path, tiny_weights: Path) -> None:
    data = ("evaluate", "--data", str(tiny_data), "--split", "train")
    assert run(*data, "--weights", tiny_weights, "--results", "good.json", "--device", "cpu", "--no-intervals") == 0
    assert "[" not in capsys.readouterr().out.split("AP ")[1]
    rows = json.loads(Path("good.json").read_text())
    Path("bad.json").write_text(json.dumps([row | {"bbox": [0, 0, 1, 1]} for row in rows]))
    assert run(*data, "--detections", "good.json", "--against", "bad.json", "--json", "both.json") == 0
    out = capsys.readouterr().out
    assert "good.json minus bad.json, on the same 12 images:" in out
    assert "verdict: better, because" in out
    against = json.loads(Path("both.json").read_text())["against"]
    assert (against["name"], against["ap"]["AP"], against["difference"]["verdict"]) == ("bad.json", 0, "better")
    assert "bad.json" in refused(
        capsys, *data, "--detections", "good.json", "--against", "bad.json", "--json", "bad.json"
    )
    assert run(*data, "--weights", tiny_weights, "--against", tiny_weights, "--device", "cpu") == 0
    assert "verdict: the same AP" in capsys.readouterr().out


def test_intervals_with_classes_in_few_images_are_marked(capsys: Capture, tiny_data: Path, tiny_weights: Path) -> None:
    flags = ("--weights", tiny_weights, "--device", "cpu", "--split", "train")
    assert run("evaluate", "--data", tiny_data, *flags) == 0
    assert "*" not in capsys.readouterr().out, "both classes are in many images"
    shutil.copytree(tiny_data, "set")
    truth = json.loads(Path("set/train.json").read_text())
    blue = [row["id"] for row in truth["annotations"] if row["category_id"] == 17]
    truth["annotations"] = [row for row in truth["annotations"] if row["id"] not in blue[2:]]
    Path("set/train.json").write_text(json.dumps(truth))
    Path("nothing.json").write_text("[]")
    assert run("evaluate", "--data", "set", *flags, "--json", "ap.json", "--results", "found.json") == 0
    out = capsys.readouterr().out
    assert re.search(r"^AP     0\.\d+ \[[^]]+\] \*$", out, re.MULTILINE)
    note = r"^\* too narrow, because objects of a class are in fewer than 5 images: the intervals of AP, .* \(blue\)$"
    assert len(re.findall(note, out, re.MULTILINE)) == 1
    assert json.loads(Path("ap.json").read_text())["intervals"]["few_images"]["AP"] == ["blue"]
    data = ("evaluate", "--data", "set", "--split", "train", "--detections", "found.json")
    assert run(*data, "--against", "nothing.json", "--report", "page") == 0
    assert len(re.findall(note, capsys.readouterr().out, re.MULTILINE)) == 2  # of the metrics, and of the differences
    assert "Too narrow, because objects of a class" in Path("page/report.html").read_text()


@pytest.mark.parametrize(
    ("images", "text"), [(1, "they need at least two images"), (4, "all halves of the images give the same values")]
)
def test_evaluate_without_intervals_says_why(capsys: Capture, tiny_data: Path, images: int, text: str) -> None:
    shutil.copytree(tiny_data, "set")
    truth = json.loads(Path("set/test.json").read_text())
    ids = [image["id"] for image in truth["images"][:images]]
    truth["images"] = truth["images"][:images]
    truth["annotations"] = [row for row in truth["annotations"] if row["image_id"] in ids]
    Path("set/test.json").write_text(json.dumps(truth))
    Path("nothing.json").write_text("[]")
    assert run("evaluate", "--data", "set", "--detections", "nothing.json") == 0
    out = capsys.readouterr().out
    assert "AP     0.000\n" in out
    assert f"confidence intervals: n/a, because {text}" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "missing", "--weights", "w"], "missing: no such file or folder"),
        (["--data", "DATA", "--weights", "missing"], "missing: there is no such weights file"),
        (["--data", "DATA", "--weights", "WEIGHTS", "--split", "tset"], "did you mean 'test'?"),
        (["--data", "DATA", "--detections", "missing.json"], "missing.json: no such file"),
        (["--data", "DATA", "--detections", "bad.json"], "result 0: the field 'image_id' is missing"),
        (["--data", "scenes", "--weights", "WEIGHTS"], "the classes of the weights are ['red', 'blue']"),
    ],
)
def test_evaluate_refuses_wrong_input_with_one_message(
    capsys: Capture, tiny_data: Path, tiny_weights: Path, arguments: list[str], message: str
) -> None:
    Path("bad.json").write_text('[{"score": 1}]')
    paths = {"DATA": str(tiny_data), "WEIGHTS": str(tiny_weights)}
    assert message in refused(capsys, "evaluate", *(paths.get(argument, argument) for argument in arguments))


def test_evaluate_reports_an_unwritable_output(
    capsys: Capture, tiny_data: Path, tiny_weights: Path, tmp_path: Path
) -> None:
    (tmp_path / "folder").mkdir()
    message = refused(capsys, "evaluate", "--data", tiny_data, "--weights", tiny_weights, "--json", "folder")
    assert "folder: cannot be written" in message


def test_export_detects_and_scores_like_its_weights(tiny_weights: Path, tiny_data: Path, capsys: Capture) -> None:
    assert run("export", "--weights", tiny_weights, "--out", "tiny.onnx") == 0
    assert "tiny.onnx: " in capsys.readouterr().out
    numbers = []
    for weights, runtime in ((tiny_weights, "torch"), ("tiny.onnx", "auto"), ("tiny.onnx", "onnxruntime")):
        arguments = ("--data", tiny_data, "--weights", weights, "--runtime", runtime, "--json", "ap.json")
        assert run("evaluate", *arguments) == 0
        numbers.append(json.loads(Path("ap.json").read_text())["AP"])
    assert numbers[1:] == pytest.approx(numbers[:1] * 2, abs=1e-3)
    assert run("detect", tiny_data / "images" / "1.png", "--weights", "tiny.onnx", "--no-images") == 0


def test_missing_graph_file_is_refused(capsys: Capture) -> None:
    assert "missing.onnx: cannot be read" in refused(capsys, "detect", "scenes", "--weights", "missing.onnx")


def test_summary_prints_layers_and_totals(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["summary", "--model", "pico", "--classes", "3"]) == 0
    *layers, total = capsys.readouterr().out.splitlines()
    assert layers[1].split()[:3] == ["backbone.stem.0", "conv", "3x3/2"]
    assert "GFLOP for an input of 320x256 (width x height)" in total
    assert main(["summary", "--weights", "cells"]) == 0
    assert main(["summary", "--set", "padding=valid", "--imgsz", "160"]) == 2


def test_max_pixels_limits_the_image_size(tiny_data: Path, tiny_weights: Path, tmp_path: Path, capsys: Capture) -> None:
    image = str(tiny_data / "images" / "1.png")
    arguments = ["detect", image, "--weights", str(tiny_weights), "--device", "cpu", "--out", str(tmp_path / "found")]
    assert main([*arguments, "--max-pixels", "6143"]) == 2
    assert "allow more pixels with --max-pixels" in capsys.readouterr().err
    assert main([*arguments, "--max-pixels", "6144"]) == 0


def test_files_outside_the_data_set_need_permission(
    tiny_data: Path, tiny_weights: Path, tmp_path: Path, capsys: Capture
) -> None:
    data = json.loads((tiny_data / "test.json").read_text())
    for row in data["images"]:
        row["file_name"] = str(tiny_data / "images" / row["file_name"])
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "test.json").write_text(json.dumps(data))
    arguments = ["evaluate", "--data", str(tmp_path / "set" / "test.json"), "--weights", str(tiny_weights)]
    assert main([*arguments, "--device", "cpu"]) == 2
    assert "--allow-outside" in capsys.readouterr().err
    assert main([*arguments, "--device", "cpu", "--allow-outside"]) == 0


def test_control_characters_of_a_file_name_are_not_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["detect", "a\x1b[2J.png", "--weights", "scenes"]) == 2
    assert r"error: a\x1b[2J.png" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        "train --data scenes --config s3://b/d",
        "check --data scenes --json s3://b/d",
        "check --data scenes --out s3://b/d",
        "compare --data s3://b/d --settings lr=0.1 --steps 1",
        "compare --data scenes --settings lr=0.1 --steps 1 --out s3://b/d",
        "detect scenes --weights hf://b/d",
        "evaluate --data scenes --weights scenes --results s3://b/d",
        "evaluate --data scenes --detections s3://b/d",
        "export --weights scenes --out s3://b/d",
        "verify s3://b/d",
    ],
)
def test_a_url_is_refused_instead_of_a_path(
    arguments: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    try:
        status = main(arguments.split())
    except SystemExit as exit:  # argparse
        status = exit.code  # type: ignore[assignment]
    assert status == 2
    assert "://b/d: this is a URL" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("option", ["--seed 0", "--val-fraction 0", "--split train", "--allow-dropped 0", "--batch 4"])
def test_settings_of_a_resumed_run_are_refused(option: str, tiny_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--resume", str(tiny_run), *option.split()]) == 2
    assert f"--resume uses all settings of the run; leave out {option.split()[0]}" in capsys.readouterr().err


def test_resume_anyway_without_a_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--data", "scenes", "--resume-anyway", "--out", str(tmp_path / "run")]) == 2
    assert "--resume-anyway needs --resume" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
