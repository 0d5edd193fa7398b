"""Tests of the JSON schema of the settings: it accepts what `Config` accepts, and nothing else."""

import json
import typing
from dataclasses import fields
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from detector.config import Config, read_config
from detector.errors import ConfigError

ROOT = Path(__file__).parents[1]
SCHEMA = json.loads((ROOT / "configs" / "config.schema.json").read_text(encoding="utf-8"))
VALIDATOR = jsonschema.Draft7Validator(SCHEMA)
SHIPPED = sorted((ROOT / "configs").glob("*.yaml"))

VALUES = (None, True, False, "auto", "nonsense", "", -1, 0, 1, 2, 3, 32, 33, 64, 4096, 4128, -0.5, 0.0, 0.5, 1.5, 1e6)
PAIRS: tuple[list[Any], ...] = (
    [],
    [1],
    [0.5, 0.6],
    [64, 96],
    [64, 97],
    [0.6, 1.4, 2.0],
    ["auto", 1],
    [True, True],
    [32, 8192],
)


def is_accepted(values: dict[str, Any], path: Path) -> bool:
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    try:
        read_config(path)
    except ConfigError:
        return False
    return True


def test_schema_is_a_valid_json_schema() -> None:
    jsonschema.Draft7Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_shipped_configurations_fit_the_schema(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    VALIDATOR.validate(yaml.safe_load(text))
    assert text.startswith("# yaml-language-server: $schema=config.schema.json\n")


@pytest.mark.parametrize("setting", fields(Config), ids=lambda setting: setting.name)
def test_schema_and_config_accept_the_same_values(setting: Any, tmp_path: Path) -> None:
    low, high = setting.metadata["low"], setting.metadata["high"]
    limits = [limit + step for limit in (low, high) if limit is not None for step in (-1, -0.001, 0, 0.001, 1)]
    kind = typing.get_type_hints(Config)[setting.name]
    choices = [choice for part in (kind, *typing.get_args(kind)) for choice in typing.get_args(part)]
    for value in (*VALUES, *PAIRS, *limits, *(choice for choice in choices if isinstance(choice, str | int))):
        if isinstance(value, float) and value.is_integer():
            continue  # to JSON, 1.0 is a whole number; to `Config`, it is not
        values = {setting.name: value}
        assert VALIDATOR.is_valid(values) == is_accepted(values, tmp_path / "run.yaml"), values


@pytest.mark.parametrize(
    "values", [{"epoch": 3}, {"minutes": 1, "steps": 5}, {"epochs": 1, "steps": 5}, {"minutes": 1, "epochs": 1}]
)
def test_unknown_settings_and_two_lengths_are_refused(values: dict[str, Any], tmp_path: Path) -> None:
    assert not VALIDATOR.is_valid(values)
    assert not is_accepted(values, tmp_path / "run.yaml")


def test_one_length_and_null_are_accepted(tmp_path: Path) -> None:
    values = {"minutes": None, "epochs": 3, "steps": None}
    assert VALIDATOR.is_valid(values)
    assert is_accepted(values, tmp_path / "run.yaml")
