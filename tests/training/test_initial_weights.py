import json
import logging
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from detector.config import Config
from detector.cross_validating.cross_validate import cross_validate
from detector.errors import ConfigError
from detector.model.checkpoint import load_weights
from detector.training.initial_weights import default_start
from detector.training.train import train


@pytest.mark.parametrize(
    ("settings", "start"),
    [
        ({}, "everyday"),
        ({"spp": False}, "everyday"),
        ({"input_size": 640}, "everyday"),
        ({"dropout": 0.1}, "everyday"),
        ({"init": "xavier"}, None),
        ({"model": "pico"}, None),
        ({"activation": "swish"}, None),
        ({"head": "yolo_v1"}, None),
        ({"input": "pca"}, None),
        ({"spp": True}, None),
    ],
)
def test_default_start_fits_the_architecture(settings: dict[str, object], start: str | None) -> None:
    assert default_start(replace(Config(), **settings)) == start  # type: ignore[arg-type]


def test_default_run_starts_from_shipped_weights(
    tiny_data: Path, tiny_config: Config, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    config = replace(tiny_config, model="nano", steps=1, lr=0, lr_adamw=0, ema=0)
    train(tiny_data, config, out=tmp_path / "run")
    assert caplog.messages[0].startswith("initial weights: everyday, shipped weights")
    assert "--weights none" in caplog.messages[0]
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING], caplog.text
    start, _ = load_weights("everyday")
    network, info = load_weights(tmp_path / "run" / "weights" / "last.safetensors")
    for name, parameter in network.backbone.named_parameters():
        assert torch.equal(parameter, start.backbone.get_parameter(name)), name
    assert info.facts["initial_weights"] == "everyday"
    assert "CC BY" in info.facts["attribution"]
    assert info.config["lr_backbone"] == "by_steps"


@pytest.mark.parametrize("weights", ["none", None])
def test_none_starts_from_random_weights(
    weights: str | None, tiny_data: Path, tiny_config: Config, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    config = replace(tiny_config, model="nano", steps=1)
    train(tiny_data, config, out=tmp_path / "run", weights=weights)
    assert caplog.messages[0] == "initial weights: random"
    _, info = load_weights(tmp_path / "run" / "weights" / "last.safetensors")
    assert not {"initial_weights", "attribution"} & set(info.facts)
    assert info.config["lr_backbone"] == "auto"


def test_other_architecture_starts_from_random_weights(
    tiny_data: Path, tiny_config: Config, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    train(tiny_data, replace(tiny_config, steps=1), out=tmp_path / "run")
    assert caplog.messages[0] == "initial weights: random (no shipped weights fit these settings)"


def test_attribution_is_inherited(tiny_data: Path, tiny_config: Config, tmp_path: Path) -> None:
    config = replace(tiny_config, model="nano", steps=1)
    train(tiny_data, config, out=tmp_path / "first")
    train(tiny_data, config, out=tmp_path / "second", weights=tmp_path / "first" / "weights" / "last.safetensors")
    _, info = load_weights(tmp_path / "second" / "weights" / "last.safetensors")
    assert info.facts["initial_weights"] == "last.safetensors"
    assert info.facts["attribution"] == load_weights("everyday")[1].facts["attribution"]


def test_folds_do_not_start_from_weights_that_were_trained_on_their_images(
    tiny_data: Path,
    tiny_config: Config,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = replace(tiny_config, model="nano", steps=1)
    train(tiny_data, config, out=tmp_path / "own", weights=None)
    own = tmp_path / "own" / "weights" / "last.safetensors"
    monkeypatch.setattr("detector.shipped_weights.shipped_weights", lambda: {"everyday": own})
    cross_validate(tiny_data, config, folds=2, out=tmp_path / "folds", split="train")
    assert "initial weights: random, because the shipped weights were trained on 12 of the images" in caplog.text
    _, info = load_weights(tmp_path / "folds" / "fold-1" / "run" / "weights" / "last.safetensors")
    assert "initial_weights" not in info.facts


def test_random_weights_cannot_be_frozen(tiny_data: Path, tiny_config: Config, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="freeze: the backbone has random weights"):
        train(tiny_data, replace(tiny_config, freeze=0.5), out=tmp_path / "run", weights=None)


def test_run_from_shipped_weights_names_them_without_a_path(
    tiny_data: Path, tiny_config: Config, tmp_path: Path
) -> None:
    train(tiny_data, replace(tiny_config, model="nano", steps=1), out=tmp_path / "run")
    assert json.loads((tmp_path / "run" / "run.json").read_text())["weights"] == "everyday"
