"""Runs on data without a val split: what is held back, stored, kept by later runs, and evaluated."""

import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from detector.cli.commands import main
from detector.config import Config
from detector.data.open_data import open_data
from detector.data.training_splits import read_training_splits
from detector.errors import InputError
from detector.evaluating.evaluate import evaluate
from detector.evaluating.evaluation_data import read_evaluation_split
from detector.exporting.export import export
from detector.image_hashes import ImageHashes, hash_file
from detector.model.checkpoint import load_weights
from detector.predict.detector import Detector
from detector.training.train import resume, train


@pytest.fixture(scope="module")
def lone_test(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A COCO folder whose only split is called test; it has 12 images."""
    folder = tmp_path_factory.mktemp("lone") / "data"
    shutil.copytree(tiny_data / "images", folder / "images")
    shutil.copy(tiny_data / "train.json", folder / "test.json")
    return folder


@pytest.fixture(scope="module")
def short(tiny_config: Config) -> Config:
    return replace(tiny_config, steps=4, evaluations=2)


@pytest.fixture(scope="module")
def run(lone_test: Path, short: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of a run on `lone_test`."""
    return train(lone_test, short, out=tmp_path_factory.mktemp("runs") / "run").folder


def weights_of(run: Path) -> Path:
    return run / "weights" / "best.safetensors"


def hashes_of(run: Path) -> ImageHashes:
    return load_weights(weights_of(run))[1].image_hashes


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records]


def test_run_and_weights_store_the_images_of_both_sides(run: Path) -> None:
    sides = json.loads((run / "split.json").read_text())
    assert sides["held_back"] is True
    assert (len(sides["train"]), len(sides["val"])) == (8, 4)
    for row in sides["train"] + sides["val"]:
        assert bytes.fromhex(row["hash"]) == hash_file(Path(row["image"]))
    stored = hashes_of(run)
    assert stored.train == {bytes.fromhex(row["hash"]) for row in sides["train"]}
    assert stored.val == {bytes.fromhex(row["hash"]) for row in sides["val"]}
    ledger = json.loads((run / "ledger.json").read_text())
    assert (ledger["train"]["found"], ledger["val"]["found"]) == (16, 8)


def test_log_says_what_is_used(
    lone_test: Path, short: Config, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "detector")
    result = train(lone_test, replace(short, patience=1), out=tmp_path / "run")
    assert result.best is not None
    assert lines(caplog)[2:4] == [
        "the only split, 'test', is used for training",
        "val: 4 of 12 images are held back for validation (no val split in the data; --val-fraction 0 turns this off)",
    ]


def test_nothing_is_held_back_with_fraction_0_or_trainval(
    tiny_data: Path, lone_test: Path, short: Config, tmp_path: Path
) -> None:
    assert train(lone_test, replace(short, val_fraction=0), out=tmp_path / "a").best is None
    assert train(tiny_data, short, out=tmp_path / "b", split="trainval").best is None
    assert (len(hashes_of(tmp_path / "a").train), len(hashes_of(tmp_path / "b").train)) == (12, 16)
    with pytest.raises(InputError, match="patience"):
        train(lone_test, replace(short, val_fraction=0, patience=1), out=tmp_path / "c")


def test_resumed_run_holds_back_the_same_images(lone_test: Path, short: Config, run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    for state in (tmp_path / "run" / "state").iterdir():
        if state.name.startswith("00000004"):
            state.unlink()
    before = (run / "results.csv").read_text(), hashes_of(run), (run / "split.json").read_text()
    resume(tmp_path / "run")
    again = tmp_path / "run"
    assert ((again / "results.csv").read_text(), hashes_of(again), (again / "split.json").read_text()) == before


def test_later_run_keeps_the_sides_of_its_initial_weights(run: Path, tiny_data: Path, tmp_path: Path) -> None:
    config = Config(model="pico", input_size=(64, 96), steps=2, batch=4, precision="fp32", device="cpu")
    # More images: those of the split test are new.
    data = tmp_path / "data"
    shutil.copytree(tiny_data / "images", data / "images")
    parts = [json.loads((tiny_data / f"{name}.json").read_text()) for name in ("train", "test")]
    merged = parts[0] | {"images": parts[0]["images"] + parts[1]["images"]}
    (data / "train.json").write_text(json.dumps(merged))
    train(data, config, out=tmp_path / "run", weights=weights_of(run))
    old, new = hashes_of(run), hashes_of(tmp_path / "run")
    assert old.val <= new.val
    assert old.train <= new.train
    assert len(new.train | new.val) == 16


def test_own_val_split_with_training_images_is_reported(
    run: Path, tiny_data: Path, short: Config, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = tmp_path / "data"
    shutil.copytree(tiny_data, data)
    shutil.copy(data / "train.json", data / "val.json")
    shutil.copy(data / "test.json", data / "train.json")
    train(data, short, out=tmp_path / "run", weights=weights_of(run))
    assert any(line.startswith("8 of 12 val images are TRAINING IMAGES") for line in lines(caplog))


def test_evaluation_uses_the_held_back_images(run: Path, lone_test: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "detector")
    expected = load_weights(weights_of(run))[1].facts["val"]["AP"]
    assert pytest.approx(expected, abs=1e-3) == evaluate(lone_test, weights_of(run), device="cpu").AP
    assert lines(caplog)[0].startswith("evaluated are the 4 of 12 images of the split 'test' that were held back")
    caplog.clear()
    evaluate(lone_test, weights_of(run), split="test", device="cpu")
    assert lines(caplog)[0].startswith("8 of 12 are TRAINING IMAGES")


def test_weights_with_other_held_back_images_are_not_compared(
    run: Path, lone_test: Path, tiny_data: Path, short: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # With fewer images, other images are held back.
    data = tmp_path / "data"
    shutil.copytree(tiny_data / "images", data / "images")
    values = json.loads((tiny_data / "train.json").read_text())
    values["images"] = values["images"][2:]
    kept = {image["id"] for image in values["images"]}
    values["annotations"] = [row for row in values["annotations"] if row["image_id"] in kept]
    (data / "train.json").write_text(json.dumps(values))
    other = train(data, short, out=tmp_path / "other").folder
    assert hashes_of(other).val != hashes_of(run).val
    arguments = ["evaluate", "--data", str(lone_test), "--weights", str(weights_of(run)), "--device", "cpu"]
    arguments += ["--against", str(weights_of(other))]
    assert main([*arguments, "--json", str(tmp_path / "ap.json")]) == 2
    errors = capsys.readouterr().err
    assert f"--against {weights_of(other)}: these weights were evaluated on other images" in errors
    assert "each held back other images from its training" in errors
    assert not (tmp_path / "ap.json").exists()
    assert main([*arguments, "--split", "test"]) == 0
    out = capsys.readouterr().out
    assert "on the same 12 images" in out
    assert out.count("are TRAINING IMAGES") == 2


def test_missing_split_is_replaced_by_held_back_images_only(run: Path, tiny_data: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_data / "images", tmp_path / "images")
    for source, name in (("train", "train"), ("test", "other")):
        shutil.copy(tiny_data / f"{source}.json", tmp_path / f"instances_{name}.json")
    (tmp_path / "annotations").mkdir()
    for path in tmp_path.glob("*.json"):
        path.rename(tmp_path / "annotations" / path.name)
    data_set = open_data(tmp_path)
    assert len(data_set.split_names) == 2
    requested: tuple[str | None, ...] = (None, "val", "test")
    for split_name in requested:
        assert len(read_evaluation_split(data_set, split_name, hashes_of(run)).annotations) == 4
        with pytest.raises(InputError, match="have held back none of the images"):
            read_evaluation_split(data_set, split_name, ImageHashes(train=frozenset({b"12345678"})))
    with pytest.raises(InputError, match="no split 'tset'"):
        read_evaluation_split(data_set, "tset", hashes_of(run))


def test_command_prints_training_images_first(run: Path, lone_test: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["evaluate", "--data", str(lone_test), "--weights", str(weights_of(run)), "--split", "test"]
    assert main([*arguments, "--device", "cpu"]) == 0
    assert capsys.readouterr().out.startswith("8 of 12 are TRAINING IMAGES")


@pytest.mark.parametrize("name", ["a.onnx", "a_openvino"])
def test_exports_keep_the_hashes(run: Path, tmp_path: Path, name: str) -> None:
    pytest.importorskip("openvino" if name == "a_openvino" else "onnxruntime")
    export(weights_of(run), tmp_path / name, format="onnx" if name == "a.onnx" else "openvino", certify=False)
    detector = Detector.load(tmp_path / name)
    assert detector.info.image_hashes == hashes_of(run) != ImageHashes()


def test_data_without_train_split_needs_a_name(tiny_data: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_data, tmp_path / "data")
    (tmp_path / "data" / "train.json").unlink()
    data_set = open_data(tmp_path / "data")
    with pytest.raises(InputError, match=r"no split 'train', only val, test; .* --split val"):
        read_training_splits(data_set, None, 0.15)
    named = read_training_splits(data_set, "test", 0.15)
    assert (named.train.name, named.val and named.val.name, named.val and named.val.held_back) == ("test", "val", False)


def test_built_in_data_is_left_as_it_is() -> None:
    splits = read_training_splits(open_data("scenes"), None, 0.15)
    assert splits.val is not None
    assert (splits.val.held_back, splits.notes, splits.image_hashes()) == (False, (), ImageHashes())
