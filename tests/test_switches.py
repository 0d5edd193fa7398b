"""Every switch goes through training, saving, loading and detecting, and as a graph where it shapes the network."""

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
from detector.model.checkpoint import load_weights, save_weights
from detector.model.fuse import fuse
from detector.model.grid import CellPredictions
from detector.model.network import GridNetwork, check_canvas
from detector.predict.detector import Detector
from detector.training.train import train
from detector.training.trainer import Trainer
from detector.weights_info import WeightsInfo

ROOT = Path(__file__).parents[1]

NETWORKS = [
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
]

TRAINING = [
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


def settings(words: str) -> Config:
    """A small network with these switches on; "valid" padding needs an input it does not eat up."""
    input_size = "[224, 224]" if "valid" in words else "[64, 96]"
    return override(Config(model="pico"), [f"input_size={input_size}", *words.split()])


def batch(input_hw: tuple[int, int]) -> Batch:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (2, 3, *input_hw), dtype=torch.uint8, generator=generator)
    boxes = torch.tensor([[[8.0, 8.0, 40.0, 30.0]], [[20.0, 4.0, 60.0, 60.0]]])
    there = torch.ones(2, 1, dtype=torch.bool)
    return Batch(images, boxes, torch.tensor([[0], [2]]), there, ~there, (1, 2))


def trained(config: Config, steps: int = 3) -> tuple[GridNetwork, tuple[int, int]]:
    assert isinstance(config.input_size, tuple)
    torch.manual_seed(0)
    covariance = np.array([[3000, 1500, 900], [1500, 2500, 1200], [900, 1200, 2000]], np.float32)
    network = GridNetwork(config, 3, np.array([110, 100, 90], np.float32), covariance)
    trainer = Trainer(network, config, torch.device("cpu"), torch.float32)
    for step in range(steps):
        trainer.step(step, steps, batch(config.input_size))
    return network.eval(), config.input_size


@pytest.mark.parametrize("words", [*NETWORKS, "norm=none input=zca activation=swish kernel=5 residual=false"])
def test_a_network_with_the_switch_trains_folds_is_saved_and_comes_back_the_same(words: str, tmp_path: Path) -> None:
    config = settings(words)
    network, input_hw = trained(config)
    info = WeightsInfo("pico", ("a", "b", "c"), (1, 2, 3), input_hw, asdict(config), {})
    save_weights(tmp_path / "w.safetensors", network, info)
    loaded, said = load_weights(tmp_path / "w.safetensors")
    assert config_of(said.config) == config
    images = batch(input_hw).images
    with torch.inference_mode():
        one, other, folded = network(images), loaded(images), fuse(network)(images)
    assert torch.equal(one.boxes(), other.boxes())
    assert torch.equal(one.scores(), other.scores())
    assert 0 <= one.scores().min() <= one.scores().max() <= 1
    torch.testing.assert_close(folded.boxes(), one.boxes(), rtol=1e-4, atol=2e-3)
    torch.testing.assert_close(folded.scores(), one.scores(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("words", NETWORKS)
def test_a_network_with_the_switch_answers_the_same_as_a_graph(words: str, tmp_path: Path) -> None:
    config = settings(words)
    network, input_hw = trained(config, steps=1)
    info = WeightsInfo("pico", ("a", "b", "c"), (1, 2, 3), input_hw, asdict(config), {})
    save_weights(tmp_path / "w.safetensors", network, info)
    image = batch(input_hw).images[0].permute(1, 2, 0).numpy()
    torch_answer, graph_answer = (
        Detector.load(tmp_path / "w.safetensors", "cpu", runtime=runtime).runtime.predict([image])
        for runtime in ("torch", "onnxruntime")
    )
    np.testing.assert_allclose(graph_answer.boxes, torch_answer.boxes, rtol=1e-4, atol=2e-2)
    np.testing.assert_allclose(graph_answer.scores, torch_answer.scores, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("words", TRAINING)
def test_a_run_with_the_switch_ends_with_weights_that_detect(
    words: str, tiny_data: Path, tiny_config: Config, tmp_path: Path
) -> None:
    config = override(replace(tiny_config, steps=2, evaluations=1), words.split())
    result = train(tiny_data, config, tmp_path)
    assert result.best is not None
    model = Detector.load(tmp_path / "weights" / "last.safetensors", "cpu")
    assert config_of(model.info.config) == config
    model.detect(read_image(tiny_data / "images" / "1.png"))


def test_every_setting_that_is_a_choice_has_each_of_its_values_tried() -> None:
    tried = {word for words in [*NETWORKS, *TRAINING] for word in words.split()}
    covered_elsewhere = {"model", "precision", "input_size", "batch", "evaluations"}
    for setting in fields(Config):
        kind = get_type_hints(Config)[setting.name]
        if setting.name not in covered_elsewhere and all(isinstance(value, str) for value in get_args(kind)):
            for value in get_args(kind):
                if value not in (setting.default, "zeros"):
                    assert f"{setting.name}={value}" in tried


def test_switches_change_nothing_where_they_are_off() -> None:
    plain, _ = trained(settings(""))
    spelled_out, _ = trained(settings("l2_after=1 dropout_after=2 leaky_slope=0.3 boxes_per_cell=5 lr_decay=0.5"))
    for name, tensor in plain.state_dict().items():
        assert torch.equal(tensor, spelled_out.state_dict()[name]), name


@pytest.mark.parametrize("words", ["l2=0.5", "l1=0.5", "max_norm=0.01", "dropout=0.5"])
def test_regularization_waits_for_its_epoch(words: str) -> None:
    plain, _ = trained(settings(""))
    name = words.split("=")[0]
    later, _ = trained(settings(f"{words} {name}_after=1"))
    now, _ = trained(settings(words))
    weight = "backbone.stem.0.conv.weight"
    assert torch.equal(plain.state_dict()[weight], later.state_dict()[weight])
    assert not torch.equal(plain.state_dict()[weight], now.state_dict()[weight])


def test_dropout_is_a_function_of_seed_and_step() -> None:
    torch.manual_seed(1)
    one, _ = trained(settings("dropout=0.5"))
    torch.rand(7)
    other, _ = trained(settings("dropout=0.5"))
    third, _ = trained(settings("dropout=0.5 seed=1"))
    weight = "heads.0.output.weight"
    assert torch.equal(one.state_dict()[weight], other.state_dict()[weight])
    assert not torch.equal(one.state_dict()[weight], third.state_dict()[weight])


def test_no_filter_is_longer_than_max_norm() -> None:
    network, _ = trained(settings("max_norm=0.3"))
    for name, parameter in network.named_parameters():
        if parameter.ndim == 4 and "output" not in name:
            assert parameter.flatten(1).norm(dim=1).max() <= 0.3 + 1e-6


def test_zeros_as_first_weights_are_refused_with_the_reason() -> None:
    with pytest.raises(InputError, match="alike for ever"):
        settings("init=zeros")


@pytest.mark.parametrize(("input_hw", "fits"), [((224, 224), True), ((192, 224), False), ((224, 96), False)])
def test_a_canvas_that_valid_padding_eats_up_is_refused(input_hw: tuple[int, int], fits: bool) -> None:
    config = Config(model="pico", padding="valid")
    if fits:
        check_canvas(input_hw, config)
        return
    with pytest.raises(InputError, match="padding: valid leaves nothing"):
        check_canvas(input_hw, config)


def test_training_refuses_it_before_it_starts(tiny_data: Path, tiny_config: Config, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="padding: valid leaves nothing"):
        train(tiny_data, replace(tiny_config, padding="valid"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_patience_stops_a_run_that_gets_no_better(tiny_data: Path, tiny_config: Config, tmp_path: Path) -> None:
    stuck = replace(tiny_config, steps=40, evaluations=20, optimizer="sgd", lr=0.0, patience=3)
    result = train(tiny_data, stuck, tmp_path / "run")
    with (tmp_path / "run" / "results.csv").open(newline="") as file:
        scores = [float(row["AP"]) for row in csv.DictReader(file)]
    assert result.steps == 2 * len(scores) < 40
    assert max(scores[-3:]) <= max(scores[:-3])
    assert all(max(scores[n : n + 3]) > max(scores[:n]) for n in range(1, len(scores) - 3))
    with pytest.raises(InputError, match="patience: there is no val split"):
        train(tiny_data, replace(stuck, patience=1), tmp_path / "other", split="trainval")


@pytest.mark.parametrize("name", ["classic", "yolo_v1"])
def test_the_shipped_styles_train_and_detect(name: str, tiny_data: Path, tmp_path: Path) -> None:
    config = read_config(ROOT / "configs" / f"{name}.yaml")
    config = replace(config, model="pico", input_size=(64, 96), steps=2, batch=4, device="cpu", precision="fp32")
    train(tiny_data, config, tmp_path)
    network, _ = load_weights(tmp_path / "weights" / "last.safetensors")
    predictions = network(torch.zeros(1, 3, 64, 96, dtype=torch.uint8))
    assert isinstance(predictions, CellPredictions) == (name == "yolo_v1")
