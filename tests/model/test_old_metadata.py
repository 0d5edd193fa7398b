import json
from dataclasses import fields

import pytest

from detector.config import Config, config_of
from detector.model import old_metadata
from detector.model.checkpoint import load_weights
from detector.model.old_metadata import upgrade_metadata, upgrade_tensors
from detector.weights_info import FORMAT, WeightsInfo, from_metadata

OLD = {
    "format": "detector-weights-1",
    "model": '"pico"',
    "class_names": '["cat"]',
    "category_ids": "[1]",
    "canvas_hw": "[64, 96]",  # old name of input_hw
    "config": json.dumps({"lr_rest": 0.125, "seed": 3}),
    "facts": json.dumps({"pictures": 12, "steps": 5}),  # old name of "images"
}


def test_old_names_become_existing_settings() -> None:
    settings = {setting.name for setting in fields(Config)}
    assert set(old_metadata._SETTINGS.values()) <= settings
    assert not set(old_metadata._SETTINGS) & settings
    assert len(set(old_metadata._SETTINGS.values())) == len(old_metadata._SETTINGS)


def test_old_metadata_is_read_with_its_values() -> None:
    info = from_metadata(upgrade_metadata(OLD), "a.safetensors")
    assert info == WeightsInfo(
        "pico", ("cat",), (1,), (64, 96), {"lr_adamw": 0.125, "seed": 3}, {"images": 12, "steps": 5}
    )
    assert config_of(info.config) == Config(lr_adamw=0.125, seed=3, qat_weight_bits=8)


def test_current_metadata_is_unchanged() -> None:
    current = {**OLD, "format": FORMAT}
    assert upgrade_metadata(current) == current
    assert upgrade_metadata({}) == {}


@pytest.mark.parametrize("text", ["{", "[]", "3", "null"])
@pytest.mark.parametrize("key", ["config", "facts"])
def test_damaged_old_metadata_is_unchanged(key: str, text: str) -> None:
    damaged = {**OLD, key: text}
    assert upgrade_metadata(damaged) == damaged


def test_old_tensor_names_are_replaced() -> None:
    old = {"colour_mean": 1, "colour_deviation": 2, "colour_mixing": 3, "stem.weight": 4}  # old names
    assert upgrade_tensors(old) == {"color_mean": 1, "color_std": 2, "color_mixing": 3, "stem.weight": 4}


@pytest.mark.parametrize("name", ["cells", "scenes"])
def test_settings_of_shipped_weights_are_valid(name: str) -> None:
    _, info = load_weights(name)
    assert config_of(info.config).model == info.model
