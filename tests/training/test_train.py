import csv
import json
import logging
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from detector.config import PLANNING_STEPS, Config, override
from detector.data.open_data import open_data
from detector.data.scenes import scenes
from detector.errors import ConfigError, InputError, LabelError
from detector.evaluating.evaluate import detect_split, evaluate, score_split
from detector.files import LOCK_NAME
from detector.images import find_images
from detector.loader.dataset import DetectionDataset
from detector.loader.loader import training_batch, training_batches
from detector.manifest import MANIFEST_NAME
from detector.model.checkpoint import load_weights
from detector.model.make_network import make_network
from detector.model.network import GridNetwork
from detector.predict.detector import Detector
from detector.runtime.pytorch import TorchRuntime
from detector.step_plan import StepPlan
from detector.training.time_budget import choose_batch_size
from detector.training.train import make_request, start_run, train
from detector.training.trainer import Trainer
from detector.weights_info import WeightsInfo


def test_network_overfits_a_few_images() -> None:
    split = scenes.read_split("train")
    split = replace(split, annotations=tuple(a for a in split.annotations if len(a.boxes))[:6])
    input_hw, steps, batch_size = (192, 256), 90, 6
    config = Config(model="pico", flip=0, scale=(1, 1), shift=0, color_gain=0, brightness=0, ema=0.1)
    dataset = DetectionDataset(split, input_hw, config)
    torch.manual_seed(0)
    network = make_network(config, len(split.class_names), *dataset.color_statistics())
    trainer = Trainer(network, config, torch.device("cpu"), torch.float32)
    for step, batch in training_batches(dataset, batch_size, StepPlan.fixed(steps), 0, steps):
        trainer.step(step, steps, batch)
    info = WeightsInfo("pico", split.class_names, split.category_ids, input_hw, {}, {})
    runtime = TorchRuntime(trainer.ema.network, input_hw, torch.device("cpu"))
    ap = score_split(*detect_split(Detector(runtime, info), split))
    assert ap.AP50 > 0.9


def test_run_writes_weights_results_settings_and_ledger(tiny_run: Path, tiny_config: Config, tiny_data: Path) -> None:
    files = sorted(path.relative_to(tiny_run).as_posix() for path in tiny_run.rglob("*") if path.is_file())
    weights = ["weights/best.safetensors", "weights/last.safetensors"]
    states = [name for name in files if name.startswith("state/")]
    assert [name.split("-")[0] for name in states] == ["state/00000040", "state/00000080"]
    others = [
        LOCK_NAME,
        MANIFEST_NAME,
        "config.json",
        "ledger.json",
        "results.csv",
        "run.json",
        "split.json",
        "timing.csv",
    ]
    assert files == sorted([*others, *states, *weights])

    settings = json.loads((tiny_run / "config.json").read_text())
    expected = json.loads(json.dumps(asdict(tiny_config))) | {"lr": 0.05, "lr_backbone": 1.0, "spp": False}
    assert {key: settings[key] for key in expected} == expected

    ledger = json.loads((tiny_run / "ledger.json").read_text())
    assert (ledger["train"]["found"], ledger["train"]["used"], ledger["val"]["used"]) == (24, 24, 8)

    with (tiny_run / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == [40, 80]
    _, info = load_weights(tiny_run / "weights" / "best.safetensors")
    assert (info.model, info.class_names, info.category_ids) == ("pico", ("red", "blue"), (3, 17))
    assert (info.input_hw, info.config["seed"], info.facts["images"]) == ((64, 96), 0, 12)
    best = max(float(row["AP"]) for row in rows)
    ap = evaluate(tiny_data, tiny_run / "weights" / "best.safetensors", split="val", device="cpu")
    assert pytest.approx(best, abs=1e-3) == ap.AP
    assert pytest.approx(info.facts["val"]["AP"], abs=1e-3) == ap.AP


def test_best_and_last_weights_match_their_evaluations(tiny_data: Path, tiny_config: Config, tmp_path: Path) -> None:
    unstable = replace(tiny_config, steps=40, evaluations=8, ema=0, lr=0.3, lr_adamw=0.06, final_lr=1)
    train(tiny_data, unstable, out=tmp_path)
    with (tmp_path / "results.csv").open(newline="") as file:
        scores = {int(row["step"]): float(row["AP"]) for row in csv.DictReader(file)}
    best = max(scores, key=lambda step: scores[step])
    assert scores[40] < scores[best]
    for name, step in (("best", best), ("last", 40)):
        weights = tmp_path / "weights" / f"{name}.safetensors"
        ap = evaluate(tiny_data, weights, split="val", device="cpu")
        assert pytest.approx(scores[step], abs=1e-3) == ap.AP
        facts = load_weights(weights)[1].facts
        assert (facts["step"], facts["steps"]) == (step, 40)


def same_weights(one: Path, other: Path) -> bool:
    networks = [load_weights(path / "weights" / "last.safetensors")[0].state_dict() for path in (one, other)]
    return all(torch.equal(networks[0][name], networks[1][name]) for name in networks[0])


def test_same_seed_gives_bit_equal_weights(tiny_data: Path, tiny_config: Config, tmp_path: Path) -> None:
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        train(tiny_data, replace(tiny_config, steps=25, evaluations=1, seed=seed), out=tmp_path / name)
    assert same_weights(tmp_path / "a", tmp_path / "b")
    assert not same_weights(tmp_path / "a", tmp_path / "c")


def test_number_of_evaluations_does_not_change_training(tiny_data: Path, tiny_config: Config, tmp_path: Path) -> None:
    for name, evaluations in (("a", 1), ("b", 5)):
        train(tiny_data, replace(tiny_config, steps=25, evaluations=evaluations), out=tmp_path / name)
    assert same_weights(tmp_path / "a", tmp_path / "b")


def test_exhausted_budget_still_gives_weights_and_can_be_repeated(
    tiny_data: Path, tiny_config: Config, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    # A run that started long ago has no time left: it does the planning steps and one more.
    short = replace(tiny_config, steps=None, minutes=0.05, evaluations="auto")
    request = make_request(tiny_data, short, split="train", weights=None, reuse_backbone=False)
    result = start_run(request, tmp_path / "minutes", started=time.monotonic() - 1e6)
    assert result.steps == PLANNING_STEPS + 1
    assert result.best is not None
    (line,) = (line for line in caplog.messages if line.startswith("to repeat this run: "))
    assert line.endswith(" instead of --minutes")
    config = override(replace(short, minutes=None), re.findall(r"--set (\S+)", line))
    train(tiny_data, config, out=tmp_path / "steps")
    assert same_weights(tmp_path / "minutes", tmp_path / "steps")
    assert (tmp_path / "minutes/results.csv").read_bytes() == (tmp_path / "steps/results.csv").read_bytes()


def test_budget_in_minutes_becomes_steps(tiny_data: Path, tiny_config: Config, tmp_path: Path) -> None:
    result = train(tiny_data, replace(tiny_config, steps=None, minutes=0.06), out=tmp_path / "run")
    assert result.steps > PLANNING_STEPS
    assert json.loads((tmp_path / "run" / "config.json").read_text())["steps"] == result.steps


def test_epochs_are_passes_over_the_images(tiny_data: Path, tiny_config: Config, tmp_path: Path) -> None:
    result = train(tiny_data, replace(tiny_config, steps=None, epochs=1.5), out=tmp_path)
    assert result.steps == round(1.5 * 12 / 4)


def test_folder_with_a_run_is_refused_and_unchanged(tiny_run: Path, tiny_data: Path, tiny_config: Config) -> None:
    before = {path: path.read_bytes() for path in tiny_run.rglob("*") if path.is_file()}
    with pytest.raises(InputError, match="already holds a run; choose another --out"):
        train(tiny_data, tiny_config, out=tiny_run)
    assert {path: path.read_bytes() for path in tiny_run.rglob("*") if path.is_file()} == before


def test_non_finite_loss_stops_and_names_the_images(tiny_data: Path, tiny_config: Config, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the loss is not finite at step") as caught:
        train(tiny_data, replace(tiny_config, optimizer="sgd", lr=1e30, clip_norm=1e30), out=tmp_path)
    message = str(caught.value)
    named = [line.strip() for line in message.splitlines() if line.strip().endswith(".png")]
    assert len(named) == 4
    assert all(Path(name).is_file() for name in named)
    assert "--set lr=" in message


def test_last_weights_are_the_best_without_val_split(tiny_data: Path, tiny_config: Config, tmp_path: Path) -> None:
    result = train(tiny_data / "train.json", replace(tiny_config, steps=4, val_fraction=0), out=tmp_path)
    assert result.best is None
    best, last = (load_weights(tmp_path / "weights" / f"{name}.safetensors") for name in ("best", "last"))
    assert best[1] == last[1]
    assert all(torch.equal(tensor, last[0].state_dict()[name]) for name, tensor in best[0].state_dict().items())


def test_trainval_trains_on_both_and_evaluates_on_nothing(tiny_data: Path, tiny_config: Config, tmp_path: Path) -> None:
    result = train(tiny_data, replace(tiny_config, steps=2), out=tmp_path, split="trainval")
    assert result.best is None
    assert load_weights(tmp_path / "weights" / "best.safetensors")[1].facts["images"] == 16


def copy_of(tiny_data: Path, folder: Path, change: Callable[[dict[str, list[dict[str, object]]]], None]) -> Path:
    """Copy the images and the training split of the tiny dataset, and change the content of its JSON file."""
    (folder / "images").mkdir(parents=True)
    for path in find_images(tiny_data / "images"):
        (folder / "images" / path.name).write_bytes(path.read_bytes())
    data = json.loads((tiny_data / "train.json").read_text())
    change(data)
    (folder / "train.json").write_text(json.dumps(data))
    return folder


def test_too_many_dropped_boxes_stop_the_run_unless_allowed(
    tiny_data: Path, tiny_config: Config, tmp_path: Path
) -> None:
    def remove_widths(data: dict[str, list[dict[str, object]]]) -> None:
        for row in data["annotations"][:4]:
            row["bbox"] = [10, 10, 0, 5]

    data = copy_of(tiny_data, tmp_path / "data", remove_widths)
    config = replace(tiny_config, steps=2, val_fraction=0)
    with pytest.raises(InputError, match=r"4 of 24 boxes would be dropped(.|\n)*train.json: dropped: annotation 1: "):
        train(data, config, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    train(data, replace(config, allow_dropped=0.2), out=tmp_path / "run")
    assert json.loads((tmp_path / "run" / "ledger.json").read_text())["train"]["dropped"] == 4


def test_undecodable_image_is_missing_and_its_boxes_dropped(
    tiny_data: Path, tiny_config: Config, tmp_path: Path
) -> None:
    data = copy_of(tiny_data, tmp_path / "data", lambda data: None)
    content = (data / "images" / "1.png").read_bytes()
    (data / "images" / "1.png").write_bytes(content[: len(content) // 2])
    config = replace(tiny_config, steps=2, val_fraction=0)
    with pytest.raises(InputError, match=r"2 of 24 boxes would be dropped(.|\n)*1\.png"):
        train(data, replace(config, allow_dropped=0), out=tmp_path / "run")
    train(data, replace(config, allow_dropped=0.1), out=tmp_path / "run")
    ledger = json.loads((tmp_path / "run" / "ledger.json").read_text())["train"]
    assert (ledger["used"], ledger["dropped"], len(ledger["missing_images"])) == (22, 2, 1)


def test_background_images_alone_are_refused(tiny_data: Path, tiny_config: Config, tmp_path: Path) -> None:
    data = copy_of(tiny_data, tmp_path / "data", lambda data: data["annotations"].clear())
    with pytest.raises(LabelError, match="no label was found for its 12 images"):
        train(data, replace(tiny_config, steps=3, val_fraction=0), out=tmp_path / "run")


@pytest.mark.parametrize("count", [1, 2])
def test_fewer_images_than_a_batch_are_enough(tiny_data: Path, tiny_config: Config, tmp_path: Path, count: int) -> None:
    def keep_first(data: dict[str, list[dict[str, object]]]) -> None:
        del data["images"][count:], data["annotations"][2 * count :]

    data = copy_of(tiny_data, tmp_path / "data", keep_first)
    assert train(data, replace(tiny_config, steps=3), out=tmp_path / "run").steps == 3


def first_batches(tiny_data: Path, images: int, steps: int) -> list[torch.Tensor]:
    split = open_data(tiny_data).read("train")
    split = replace(split, annotations=split.annotations[:images])
    dataset = DetectionDataset(split, (64, 96), Config())
    return [training_batch(dataset, step, 8, steps).images for step in range(PLANNING_STEPS)]


@pytest.mark.parametrize("images", [2, 12])
def test_first_batches_do_not_depend_on_the_length(tiny_data: Path, images: int) -> None:
    short, long = (first_batches(tiny_data, images, steps) for steps in (PLANNING_STEPS, 1000))
    assert all(torch.equal(a, b) for a, b in zip(short, long, strict=True))


def test_small_data_sets_get_small_batches() -> None:
    assert [choose_batch_size(Config(), count) for count in (1, 999, 1000, 4999, 5000)] == [8, 8, 16, 16, 32]
    assert choose_batch_size(Config(batch=3), 5000) == 3
    assert np.all(np.diff([choose_batch_size(Config(), count) for count in range(1, 6000, 50)]) >= 0)


def test_run_from_weights_has_their_architecture(
    tiny_data: Path, tiny_weights: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    start, info = load_weights(tiny_weights)
    config = Config(steps=1, batch=4, evaluations=1, precision="fp32", device="cpu", lr=0, lr_adamw=0, ema=0)
    result = train(tiny_data, config, out=tmp_path, weights=tiny_weights)
    assert "network: " not in caplog.text  # checks of the network are only valid for random weights
    network, new_info = load_weights(result.folder / "weights" / "last.safetensors")
    assert (new_info.model, new_info.input_hw) == ("pico", info.input_hw)
    for name, parameter in network.named_parameters():
        assert torch.equal(parameter, start.get_parameter(name)), name
    assert result.best is not None
    assert result.best.AP > 0.1


def test_reuse_backbone_takes_all_but_the_last_layers(tiny_data: Path, tiny_weights: Path, tmp_path: Path) -> None:
    def add_class(data: dict[str, list[dict[str, object]]]) -> None:
        data["categories"].append({"id": 21, "name": "green"})

    data = copy_of(tiny_data, tmp_path / "data", add_class)
    config = Config(steps=1, batch=4, precision="fp32", device="cpu", lr=0, lr_adamw=0, ema=0)
    with pytest.raises(InputError, match=r"the weights have the classes .*--reuse-backbone"):
        train(data, config, out=tmp_path / "run", weights=tiny_weights)
    train(data, config, out=tmp_path / "run", weights=tiny_weights, reuse_backbone=True)
    start, _ = load_weights(tiny_weights)
    network, info = load_weights(tmp_path / "run" / "weights" / "last.safetensors")
    assert info.class_names == ("red", "blue", "green")
    for name, parameter in network.named_parameters():
        given = start.get_parameter(name)
        if "output" in name:  # boxes start from the weights, classes from random weights
            assert torch.equal(parameter[-4:], given[-4:]), name
            assert not torch.equal(parameter[: len(given) - 4], given[:-4]), name
        else:
            assert torch.equal(parameter, given), name
    assert network.outputs[0].out_channels == 3 + 4


def test_a_run_has_spp_if_its_initial_weights_have_it(tiny_data: Path, tiny_weights: Path, tmp_path: Path) -> None:
    config = Config(steps=1, batch=4, input_size=(416, 416), precision="fp32", device="cpu", lr=0, lr_adamw=0, ema=0)
    train(tiny_data, config, out=tmp_path / "large", weights=tiny_weights)
    network, info = load_weights(tmp_path / "large" / "weights" / "last.safetensors")
    assert info.input_hw == (416, 416)
    assert info.config["spp"] is False
    assert not has_spp(network)
    own = replace(config, model="pico")
    train(tiny_data, own, out=tmp_path / "own", weights=None)
    assert has_spp(load_weights(tmp_path / "own" / "weights" / "last.safetensors")[0])
    small = replace(own, input_size=(64, 96))
    train(tiny_data, small, out=tmp_path / "small", weights=tmp_path / "own" / "weights" / "last.safetensors")
    assert has_spp(load_weights(tmp_path / "small" / "weights" / "last.safetensors")[0])


def has_spp(network: GridNetwork) -> bool:
    return any(name.startswith("backbone.context.") for name, _ in network.named_parameters())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": "small"}, "model: small does not fit"),
        ({"spp": True}, "spp: True does not fit"),
    ],
)
def test_settings_that_do_not_fit_the_weights_are_refused(
    settings: dict[str, object], message: str, tiny_data: Path, tiny_weights: Path, tmp_path: Path
) -> None:
    config = replace(Config(steps=1, device="cpu"), **settings)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=message):
        train(tiny_data, config, out=tmp_path, weights=tiny_weights)


def edit_labels(folder: Path, split: str, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the COCO file of a split."""
    path = folder / f"{split}.json"
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def mark_all_as_crowd(values: dict[str, Any]) -> None:
    for annotation in values["annotations"]:
        annotation["iscrowd"] = 1


def test_training_without_objects_is_refused_at_once(tiny_data: Path, tiny_config: Config, tmp_path: Path) -> None:
    shutil.copytree(tiny_data, tmp_path / "data")
    edit_labels(tmp_path / "data", "train", mark_all_as_crowd)
    with pytest.raises(LabelError, match="no object to learn from: all 24 boxes are marked"):
        train(tmp_path / "data", tiny_config, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_ap_without_val_objects_is_reported_as_missing(
    tiny_data: Path, tiny_config: Config, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    shutil.copytree(tiny_data, tmp_path / "data")
    edit_labels(tmp_path / "data", "val", mark_all_as_crowd)
    result = train(tmp_path / "data", replace(tiny_config, steps=2, evaluations=1), out=tmp_path / "run")
    assert result.best is not None
    assert result.best.AP == -1
    assert "val: the split has no objects" in caplog.text
    assert "val AP n/a AP50 n/a AP75 n/a" in caplog.text
    with pytest.raises(ConfigError, match=r"patience: .* the val split has no objects"):
        train(tmp_path / "data", replace(tiny_config, patience=2), out=tmp_path / "run2")


def test_a_damaged_val_image_is_left_out_of_a_run(
    tiny_data: Path, tiny_config: Config, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    shutil.copytree(tiny_data, tmp_path / "data")
    first = open_data(tmp_path / "data").read("val").annotations[0]
    first.image_path.write_bytes(first.image_path.read_bytes()[:200])
    short = replace(tiny_config, steps=2, evaluations=1)
    train(tmp_path / "data", short, out=tmp_path / "run")
    ledger = json.loads((tmp_path / "run" / "ledger.json").read_text())["val"]
    assert (ledger["found"], ledger["dropped"]) == (8, len(first.boxes))
    assert ledger["missing_images"] == [str(first.image_path)]
    assert "val: 3 images, 8 boxes found = " in caplog.text
    with pytest.raises(LabelError, match="of 8 boxes would be dropped"):
        train(tmp_path / "data", replace(short, allow_dropped=0.0), out=tmp_path / "strict")
