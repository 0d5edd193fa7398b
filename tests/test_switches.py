"""Every value of every setting with a list of values works.

A network with this value is trained, saved, loaded and run. If the value changes the network, it is also exported.
"""

import csv
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import get_args, get_type_hints

import numpy as np
import pytest
import torch

from detector.config import Config, config_of, override, read_config
from detector.errors import InputError
from detector.images import read_image
from detector.loader.batch import Batch
from detector.loader.dataset import copy_paste_fraction
from detector.model.checkpoint import load_weights, save_weights
from detector.model.fuse import fuse
from detector.model.make_network import make_network
from detector.model.network import GridNetwork, check_padding
from detector.model.yolo_v1 import CellPredictions
from detector.options import RuntimeName
from detector.predict.detector import Detector
from detector.runtime.base import PointPredictions
from detector.training.train import train
from detector.training.trainer import Trainer
from detector.weights_info import WeightsInfo

ROOT = Path(__file__).parents[1]

NETWORK_SETTINGS = [
    *(f"activation={name}" for name in get_args(get_type_hints(Config)["activation"])),
    "norm=group",
    "norm=none",
    "residual=false",
    "kernel=5",
    "padding=valid",
    "downsample=max_pool",
    "downsample=avg_pool",
    "init=xavier",
    "init=lecun",
    "init=normal",
    "input=pca",
    "input=zca",
    "dropout=0.3",
    "class_loss=softmax",
    "head=yolo_v1",
    "head=yolo_v1 cell_output=dense dense_units=16 dropout=0.3",
]

TRAINING_SETTINGS = [
    *(f"optimizer={name}" for name in get_args(get_type_hints(Config)["optimizer"])),
    *(f"lr_schedule={name}" for name in get_args(get_type_hints(Config)["lr_schedule"])),
    "l2=0.01",
    "l1=0.001",
    "max_norm=0.5",
    "clip_value=0.001",
    "class_loss=sigmoid",
    "squared_error_weight=1",
    "rotate=30",
    "crop=1",
    "hue=0.2",
    "saturation=0.5",
    "value=0.5",
    "pca_color=1",
    "style_shift=1",
    "copy_paste=1",
    "mixup=1",
    "ema=0",
    "qat_start=0.5",
    "suppression=soft",
    "suppression=diou",
    "suppression=weighted",
    "class_agnostic=true",
]


def small_config(assignments: str) -> Config:
    """Return the configuration of a small network with these settings; with "valid" padding, the input is larger."""
    input_size = "[224, 224]" if "valid" in assignments else "[64, 96]"
    return override(Config(model="pico"), [f"input_size={input_size}", *assignments.split()])


def batch(input_hw: tuple[int, int]) -> Batch:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (2, 3, *input_hw), dtype=torch.uint8, generator=generator)
    boxes = torch.tensor([[[8.0, 8.0, 40.0, 30.0]], [[20.0, 4.0, 60.0, 60.0]]])
    is_object = torch.ones(2, 1, dtype=torch.bool)
    return Batch(images, boxes, torch.tensor([[0], [2]]), is_object, ~is_object, (1, 2))


def trained(config: Config, steps: int = 3) -> tuple[GridNetwork, tuple[int, int]]:
    """Return a network after a few training steps, and its input size (height, width)."""
    assert isinstance(config.input_size, tuple)
    torch.manual_seed(0)
    covariance = np.array([[3000, 1500, 900], [1500, 2500, 1200], [900, 1200, 2000]], np.float32)
    network = make_network(config, 3, np.array([110, 100, 90], np.float32), covariance, config.input_size)
    trainer = Trainer(network, config, torch.device("cpu"), torch.float32)
    for step in range(steps):
        trainer.step(step, steps, batch(config.input_size))
    return network.eval(), config.input_size


def info_of(config: Config, input_hw: tuple[int, int]) -> WeightsInfo:
    return WeightsInfo("pico", ("a", "b", "c"), (1, 2, 3), input_hw, asdict(config), {})


@pytest.mark.parametrize(
    "assignments", [*NETWORK_SETTINGS, "norm=none input=zca activation=swish kernel=5 residual=false"]
)
def test_saved_and_fused_networks_predict_like_the_trained_network(assignments: str, tmp_path: Path) -> None:
    config = small_config(assignments)
    network, input_hw = trained(config)
    save_weights(tmp_path / "w.safetensors", network, info_of(config, input_hw))
    loaded, info = load_weights(tmp_path / "w.safetensors")
    assert config_of(info.config) == config
    images = batch(input_hw).images
    with torch.inference_mode():
        exact, reloaded, fused = network(images), loaded(images), fuse(network)(images)
    assert torch.equal(exact.boxes(), reloaded.boxes())
    assert torch.equal(exact.scores(), reloaded.scores())
    assert 0 <= exact.scores().min() <= exact.scores().max() <= 1
    torch.testing.assert_close(fused.boxes(), exact.boxes(), rtol=1e-4, atol=2e-3)
    torch.testing.assert_close(fused.scores(), exact.scores(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("assignments", NETWORK_SETTINGS)
def test_exported_network_predicts_like_the_weights(assignments: str, tmp_path: Path) -> None:
    config = small_config(assignments)
    network, input_hw = trained(config, steps=1)
    save_weights(tmp_path / "w.safetensors", network, info_of(config, input_hw))
    image = batch(input_hw).images[0].permute(1, 2, 0).numpy()

    def predict(runtime: RuntimeName) -> PointPredictions:
        detector = Detector.load(tmp_path / "w.safetensors", device="cpu", runtime=runtime)
        return detector.runtime.predict([image])

    expected, exported = predict("torch"), predict("onnxruntime")
    np.testing.assert_allclose(exported.boxes, expected.boxes, rtol=1e-4, atol=2e-2)
    np.testing.assert_allclose(exported.scores, expected.scores, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("assignments", TRAINING_SETTINGS)
def test_run_with_the_setting_gives_weights_that_detect(
    assignments: str, tiny_data: Path, tiny_config: Config, tmp_path: Path
) -> None:
    config = override(replace(tiny_config, steps=2, evaluations=1), assignments.split())
    result = train(tiny_data, config, out=tmp_path)
    assert result.best is not None
    detector = Detector.load(tmp_path / "weights" / "last.safetensors", device="cpu")
    assert config_of(detector.info.config) == replace(config, spp=False, copy_paste=copy_paste_fraction(config, 1))
    detector.detect(read_image(tiny_data / "images" / "1.png"))


def test_every_value_of_every_choice_setting_is_tested() -> None:
    tested = {assignment for row in [*NETWORK_SETTINGS, *TRAINING_SETTINGS] for assignment in row.split()}
    tested_elsewhere = {"model", "precision", "input_size", "batch", "evaluations", "class_balance", "missing_classes"}
    for setting in fields(Config):
        kind = get_type_hints(Config)[setting.name]
        if setting.name not in tested_elsewhere and all(isinstance(value, str) for value in get_args(kind)):
            for value in get_args(kind):
                if value not in (setting.default, "zeros"):
                    assert f"{setting.name}={value}" in tested


def test_settings_that_do_not_apply_change_nothing() -> None:
    plain, _ = trained(small_config(""))
    with_unused, _ = trained(small_config("l2_after=1 dropout_after=2 leaky_slope=0.3 boxes_per_cell=5 lr_decay=0.5"))
    for name, tensor in plain.state_dict().items():
        assert torch.equal(tensor, with_unused.state_dict()[name]), name


@pytest.mark.parametrize("assignment", ["l2=0.5", "l1=0.5", "max_norm=0.01", "dropout=0.5"])
def test_regularization_starts_at_its_epoch(assignment: str) -> None:
    plain, _ = trained(small_config(""))
    name = assignment.split("=")[0]
    later, _ = trained(small_config(f"{assignment} {name}_after=1"))
    now, _ = trained(small_config(assignment))
    weight = "backbone.stem.0.conv.weight"
    assert torch.equal(plain.state_dict()[weight], later.state_dict()[weight])
    assert not torch.equal(plain.state_dict()[weight], now.state_dict()[weight])


def test_dropout_depends_on_seed_and_step_only() -> None:
    torch.manual_seed(1)
    first, _ = trained(small_config("dropout=0.5"))
    torch.rand(7)
    repeated, _ = trained(small_config("dropout=0.5"))
    other_seed, _ = trained(small_config("dropout=0.5 seed=1"))
    weight = "heads.0.output.weight"
    assert torch.equal(first.state_dict()[weight], repeated.state_dict()[weight])
    assert not torch.equal(first.state_dict()[weight], other_seed.state_dict()[weight])


def test_no_filter_exceeds_max_norm() -> None:
    network, _ = trained(small_config("max_norm=0.3"))
    for name, parameter in network.named_parameters():
        if parameter.ndim == 4 and "output" not in name:
            assert parameter.flatten(1).norm(dim=1).max() <= 0.3 + 1e-6


def test_zero_initial_weights_are_refused_with_the_reason() -> None:
    with pytest.raises(InputError, match="stay equal forever"):
        small_config("init=zeros")


@pytest.mark.parametrize(
    ("input_hw", "too_small"),
    [((224, 224), ""), ((192, 224), "the input height of 192 pixels"), ((224, 96), "the input width of 96 pixels")],
)
def test_input_too_small_for_valid_padding_is_refused(input_hw: tuple[int, int], too_small: str) -> None:
    config = Config(model="pico", padding="valid")
    if not too_small:
        check_padding(input_hw, config)
        return
    with pytest.raises(InputError, match=f"padding: {too_small} is too small for valid padding"):
        check_padding(input_hw, config)


def test_training_refuses_an_input_too_small_for_valid_padding(
    tiny_data: Path, tiny_config: Config, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="too small for valid padding"):
        train(tiny_data, replace(tiny_config, padding="valid"), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_patience_stops_a_run_that_no_longer_improves(tiny_data: Path, tiny_config: Config, tmp_path: Path) -> None:
    constant = replace(tiny_config, steps=40, evaluations=20, optimizer="sgd", lr=0.0, patience=3)
    result = train(tiny_data, constant, out=tmp_path / "run")
    with (tmp_path / "run" / "results.csv").open(newline="") as file:
        scores = [float(row["AP"]) for row in csv.DictReader(file)]
    assert result.steps == 2 * len(scores) < 40
    assert max(scores[-3:]) <= max(scores[:-3])
    assert all(max(scores[n : n + 3]) > max(scores[:n]) for n in range(1, len(scores) - 3))
    with pytest.raises(InputError, match="patience: early stopping needs the AP on a val split"):
        train(tiny_data, replace(constant, patience=1), out=tmp_path / "other", split="trainval")


@pytest.mark.parametrize("name", ["classic", "yolo_v1"])
def test_shipped_configurations_train_and_detect(name: str, tiny_data: Path, tmp_path: Path) -> None:
    config = read_config(ROOT / "configs" / f"{name}.yaml")
    config = replace(config, model="pico", input_size=(64, 96), steps=2, batch=4, device="cpu", precision="fp32")
    train(tiny_data, config, out=tmp_path)
    network, _ = load_weights(tmp_path / "weights" / "last.safetensors")
    predictions = network(torch.zeros(1, 3, 64, 96, dtype=torch.uint8))
    assert isinstance(predictions, CellPredictions) == (name == "yolo_v1")
    Detector.load(tmp_path / "weights" / "last.safetensors", device="cpu").detect(tiny_data / "images" / "1.png")
