"""Resuming after a change: changes of data, settings or weights are noticed; what has no effect is accepted."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from detector.config import Config
from detector.errors import ConfigError, FileError
from detector.images import read_image, write_image
from detector.model.checkpoint import load_weights
from detector.shipped_weights import find_weights
from detector.training.environment import environment_facts
from detector.training.run_state import read_state
from detector.training.train import resume, train

STEPS, CUT = 12, 6


def weights_of(path: Path) -> dict[str, bytes]:
    """Return name → bytes of each tensor of a weights file."""
    return {name: tensor.numpy().tobytes() for name, tensor in load_weights(path)[0].state_dict().items()}


def results_of(run: Path) -> dict[str, object]:
    """Return the results of a run: hashes of the tensors of its state, its weights, and results.csv."""
    state = read_state(run / "state")
    assert state is not None
    hashes = {name: hashlib.sha256(tensor.numpy().tobytes()).hexdigest() for name, tensor in state[1].items()}
    weights = {name: weights_of(run / "weights" / f"{name}.safetensors") for name in ("best", "last")}
    return {"state": hashes, **weights, "results": (run / "results.csv").read_text()}


def cut(run: Path) -> None:
    """Turn a finished run into one that was killed after its first checkpoint."""
    for path in (run / "state").iterdir():
        if int(path.name.split("-")[0]) > CUT:
            path.unlink()


@pytest.fixture(scope="module")
def finished(tiny_data: Path, tiny_config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a copy of the tiny data, and with a finished run on this copy."""
    folder = tmp_path_factory.mktemp("changes")
    shutil.copytree(tiny_data, folder / "data")
    rows = json.loads((folder / "data" / "val.json").read_text())
    rows["annotations"][0]["iscrowd"] = 1
    (folder / "data" / "val.json").write_text(json.dumps(rows))
    train(folder / "data", replace(tiny_config, steps=STEPS), out=folder / "run")
    return folder


@pytest.fixture
def killed(finished: Path, tmp_path: Path) -> Path:
    """A folder with a copy of the data, and with a copy of the run that was killed after its first checkpoint."""
    shutil.copytree(finished / "run", tmp_path / "run")
    shutil.copytree(finished / "data", tmp_path / "data")
    cut(tmp_path / "run")
    return tmp_path


def edit(path: Path, change: Callable[[Any], object]) -> None:
    """Change the value of a JSON file."""
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def in_files(*names: str, change: Callable[[Any], object]) -> Callable[[Path], None]:
    """Return a function that changes JSON files of a dataset."""

    def apply(data: Path) -> None:
        for name in names:
            edit(data / name, change)

    return apply


def in_train(change: Callable[[Any], object]) -> Callable[[Path], None]:
    return in_files("train.json", change=change)


def in_val(change: Callable[[Any], object]) -> Callable[[Path], None]:
    return in_files("val.json", change=change)


def in_all(change: Callable[[Any], object]) -> Callable[[Path], None]:
    return in_files("train.json", "val.json", "test.json", change=change)


def change_pixel(number: int) -> Callable[[Path], None]:
    """Return a function that changes one bit of one pixel of an image."""

    def apply(data: Path) -> None:
        path = data / "images" / f"{number}.png"
        image = read_image(path).copy()
        image[5, 5, 1] ^= 1
        write_image(path, image)

    return apply


def move_to_train(data: Path) -> None:
    """Move the last image of val to train."""
    val, train_rows = (json.loads((data / f"{name}.json").read_text()) for name in ("val", "train"))
    image = val["images"].pop()
    train_rows["images"].append(image)
    moved = [row for row in val["annotations"] if row["image_id"] == image["id"]]
    val["annotations"] = [row for row in val["annotations"] if row not in moved]
    train_rows["annotations"] += [row | {"id": row["id"] + 1000} for row in moved]
    for name, value in (("val", val), ("train", train_rows)):
        (data / f"{name}.json").write_text(json.dumps(value))


def swap_names(value: Any) -> None:
    first, second = value["categories"]
    first["name"], second["name"] = second["name"], first["name"]


def shift_category_ids(value: Any) -> None:
    for category in value["categories"]:
        category["id"] += 10
    for row in value["annotations"]:
        row["category_id"] += 10


CHANGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "box": (in_train(lambda v: v["annotations"][0]["bbox"].__setitem__(0, v["annotations"][0]["bbox"][0] + 1)), "data"),
    "crowd flag": (in_train(lambda v: v["annotations"][3].update(iscrowd=1)), "data"),
    "order of boxes": (in_train(lambda v: v["annotations"].reverse()), "data"),
    "image left out": (in_train(lambda v: v["images"].pop()), "data"),
    "pixel": (change_pixel(3), "data"),
    "val area": (in_val(lambda v: [row.update(area=row["area"] * 3) for row in v["annotations"]]), "val"),
    "val box": (
        in_val(lambda v: v["annotations"][0]["bbox"].__setitem__(2, v["annotations"][0]["bbox"][2] - 1e-7)),
        "val",
    ),
    "val crowd flag": (in_val(lambda v: v["annotations"][0].update(iscrowd=0)), "val"),
    "val pixel": (change_pixel(14), "val"),
    "membership": (move_to_train, "val"),
    "renamed class": (in_all(lambda v: v["categories"][0].update(name="green")), "classes"),
    "swapped names": (in_all(swap_names), "classes"),
    "shifted category ids": (in_all(shift_category_ids), "classes"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_change_of_the_data_is_noticed(name: str, killed: Path) -> None:
    change, fact = CHANGES[name]
    change(killed / "data")
    with pytest.raises(ConfigError, match=rf"(?s)\n  {fact}: \S+ before, \S+ now: .*--resume-anyway"):
        resume(killed / "run", data=killed / "data")


def write_differently(data: Path) -> None:
    """Change everything in a dataset that has no effect on a run: times, formatting, order of keys, ids of rows."""
    for path in data.glob("*.json"):
        value = json.loads(path.read_text())
        for number, row in enumerate(value["annotations"], start=5000):
            row["id"] = number
        reordered = {key: value[key] for key in reversed(value)}
        reordered["annotations"] = [{key: row[key] for key in reversed(row)} for row in value["annotations"]]
        path.write_text(json.dumps(reordered | {"info": {"year": 2020}}, indent=3))
    for path in data.rglob("*"):
        os.utime(path, (1e9, 1e9))


@pytest.mark.posix
def test_moved_data_with_the_same_content_is_accepted(finished: Path, killed: Path) -> None:
    (killed / "elsewhere").mkdir()
    (killed / "data").rename(killed / "elsewhere" / "moved")
    write_differently(killed / "elsewhere" / "moved")
    for path in (killed / "run" / "state").iterdir():
        path.chmod(0o444)
    resume(killed / "run", data=killed / "elsewhere" / "moved")
    assert results_of(killed / "run") == results_of(finished / "run")
    stored = json.loads((killed / "run" / "run.json").read_text())
    assert stored["data"] == str(killed / "elsewhere" / "moved")


def test_missing_data_set_is_named_with_the_way_out(killed: Path) -> None:
    edit(killed / "run" / "run.json", lambda value: value.update(data=str(killed / "gone")))
    with pytest.raises(
        FileError, match=r"gone: the dataset of the run does not exist.*--resume \S*run --data NEW_PATH"
    ):
        resume(killed / "run")


@pytest.mark.parametrize("change", [{"lr": 0.06}, {"seed": 1}, {"steps": 13}, {"flip": 0.51}, {"allow_outside": True}])
def test_edited_setting_is_noticed(change: dict[str, object], killed: Path) -> None:
    edit(killed / "run" / "run.json", lambda value: value["config"].update(change))
    with pytest.raises(ConfigError, match=r"run\.json: its content was changed, or it is damaged.*--resume-anyway"):
        resume(killed / "run")


def test_edited_settings_are_used_if_requested(killed: Path) -> None:
    edit(killed / "run" / "run.json", lambda value: value["config"].update(lr=0.06))
    resume(killed / "run", anyway=True)
    assert json.loads((killed / "run" / "config.json").read_text())["lr"] != 0.06  # of the start of the run
    assert "0.06" in json.dumps(load_weights(killed / "run" / "weights" / "last.safetensors")[1].config["lr"])


def test_record_of_another_run_is_noticed(killed: Path, tiny_run: Path) -> None:
    shutil.copy(tiny_run / "run.json", killed / "run" / "run.json")
    with pytest.raises(ConfigError, match=r"run\.json: it does not belong to the last checkpoint"):
        resume(killed / "run")


def flip_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-100] ^= 1
    path.write_bytes(data)


def other_weights(path: Path) -> None:
    shutil.copy(find_weights("cells"), path)


@pytest.mark.parametrize("damage", [flip_bit, lambda path: path.write_bytes(b""), Path.unlink, other_weights])
def test_damaged_best_weights_are_written_again(
    damage: Callable[[Path], object], finished: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(finished / "run", tmp_path / "run")
    best = tmp_path / "run" / "weights" / "best.safetensors"
    expected = load_weights(best)[1]
    damage(best)
    with pytest.raises(FileError, match="this run is finished after 12 steps"):
        resume(tmp_path / "run")
    assert f"{best}: missing, or not the file of the last checkpoint; written again" in caplog.text
    assert weights_of(best) == weights_of(finished / "run" / "weights" / "best.safetensors")
    assert load_weights(best)[1] == expected


def test_undamaged_best_weights_stay_as_they_are(finished: Path) -> None:
    best = finished / "run" / "weights" / "best.safetensors"
    before = best.stat().st_mtime_ns
    with pytest.raises(FileError, match="this run is finished"):
        resume(finished / "run")
    assert best.stat().st_mtime_ns == before


@pytest.mark.parametrize("damage", [flip_bit, lambda path: path.write_bytes(b""), Path.unlink, other_weights])
def test_finished_run_names_damaged_last_weights(
    damage: Callable[[Path], object], finished: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(finished / "run", tmp_path / "run")
    last = tmp_path / "run" / "weights" / "last.safetensors"
    damage(last)
    for _ in range(2):
        caplog.clear()
        with pytest.raises(FileError, match=r"--weights \S*/weights/best\.safetensors"):
            resume(tmp_path / "run")
        assert f"{last}: missing, or was changed after it was written" in caplog.text


def test_missing_tables_of_a_finished_run_are_written_again(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished / "run", tmp_path / "run")
    for name in ("results.csv", "timing.csv"):
        (tmp_path / "run" / name).unlink()
    with pytest.raises(FileError, match=r"--weights \S*/weights/last\.safetensors"):
        resume(tmp_path / "run")
    for name in ("results.csv", "timing.csv"):
        assert (tmp_path / "run" / name).read_bytes() == (finished / "run" / name).read_bytes()


def test_changed_table_of_a_killed_run_is_not_replaced(killed: Path) -> None:
    table = killed / "run" / "results.csv"
    table.write_text("step;AP")
    with pytest.raises(FileError, match=r"results\.csv: was changed after .*; move the file away$"):
        resume(killed / "run")
    assert table.read_text() == "step;AP"


@pytest.fixture(scope="module")
def tuned(tiny_data: Path, tiny_config: Config, tiny_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with initial weights, and with a finished run that started from them."""
    folder = tmp_path_factory.mktemp("tuned")
    shutil.copy(tiny_weights, folder / "initial.safetensors")
    config = replace(tiny_config, steps=STEPS, input_size="auto")
    train(tiny_data, config, out=folder / "run", weights=folder / "initial.safetensors")
    return folder


def test_initial_weights_are_not_needed_after_a_checkpoint(tuned: Path, tmp_path: Path) -> None:
    shutil.copytree(tuned, tmp_path / "copy")
    run = tmp_path / "copy" / "run"
    cut(run)
    (tuned / "initial.safetensors").rename(tuned / "hidden.safetensors")
    try:
        resume(run)
    finally:
        (tuned / "hidden.safetensors").rename(tuned / "initial.safetensors")
    assert results_of(run) == results_of(tuned / "run")


def test_initial_weights_must_be_the_same_before_a_checkpoint(tuned: Path, finished: Path, tmp_path: Path) -> None:
    shutil.copytree(tuned / "run", tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "state")
    initial = tuned / "initial.safetensors"
    original = initial.read_bytes()
    try:
        initial.unlink()
        with pytest.raises(
            FileError, match="the initial weights of the run do not exist, and the run has no checkpoint"
        ):
            resume(tmp_path / "run")
        shutil.copy(finished / "run" / "weights" / "last.safetensors", initial)
        with pytest.raises(ConfigError, match=r"weights: \S+ before, \S+ now: the run would start from other weights"):
            resume(tmp_path / "run")
    finally:
        initial.write_bytes(original)
    resume(tmp_path / "run")
    assert results_of(tmp_path / "run") == results_of(tuned / "run")


@pytest.mark.parametrize("variable", ["ONEDNN_MAX_CPU_ISA", "MKL_CBWR"])
def test_other_instructions_are_another_machine(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(variable, raising=False)
    before = environment_facts(torch.device("cpu"))
    monkeypatch.setenv(variable, "SSE41")
    now = environment_facts(torch.device("cpu"))
    assert [name for name in now if now[name] != before[name]] == ["machine"]
