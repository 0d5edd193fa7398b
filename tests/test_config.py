import math
from collections import Counter
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from detector.config import (
    PARTS,
    AugmentConfig,
    ColorConfig,
    Config,
    InputSizeConfig,
    LossConfig,
    NetworkConfig,
    OptimizerConfig,
    RunConfig,
    override,
    parse_value,
    read_config,
    turned_off,
)
from detector.errors import ConfigError, FileError, InputError
from detector.training.optimizer import peak_learning_rate
from detector.training.time_budget import choose_batch_size


def write_yaml(folder: Path, text: str) -> Path:
    path = folder / "run.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_every_setting_is_documented_and_its_default_valid() -> None:
    for setting in fields(Config):
        value = parse_value(setting.name, setting.default)
        assert value == setting.default
        assert type(value) is type(setting.default)
        assert setting.metadata["doc"]


def test_file_with_all_defaults_equals_the_default(tmp_path: Path) -> None:
    values = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(Config()).items()}
    assert read_config(write_yaml(tmp_path, yaml.safe_dump(values))) == Config()


def test_empty_file_changes_nothing(tmp_path: Path) -> None:
    assert read_config(write_yaml(tmp_path, "# no settings\n")) == Config()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("input_size: 320", Config(input_size=320)),
        ("input_size: [64, 96]", Config(input_size=(64, 96))),
        ("minutes: 3", Config(minutes=3.0)),
        ("lr: 1e-3", Config(lr=0.001)),
        ("scale: [1, 2]\nseed: 7", Config(scale=(1.0, 2.0), seed=7)),
        ("epochs: null\nsteps: 5", Config(steps=5)),
        ("device: cuda:1", Config(device="cuda:1")),
        ("flip: 1", Config(flip=1.0)),
    ],
)
def test_settings_are_converted_to_their_types(tmp_path: Path, text: str, expected: Config) -> None:
    config = read_config(write_yaml(tmp_path, text))
    assert config == expected
    for setting in fields(Config):
        assert type(getattr(config, setting.name)) is type(getattr(expected, setting.name))


INVALID_LINES = [
    ("model: huge", "model: expected pico or nano or small or medium, got 'huge'"),
    ("model: [nano]", "model: expected pico or nano"),
    ("input_size: 100", "input_size: 100 is not a multiple of 32; use 96 or 128"),
    ("input_size: [64, 100]", "input_size: 100 is not a multiple of 32; use 96 or 128"),
    ("input_size: [64]", "input_size: expected auto or a whole number or"),
    ("input_size: 31", "input_size: must be from 32 to 4096, got 31"),
    ("input_size: 4128", "input_size: must be from 32 to 4096, got 4128"),
    ("input_size: [64, 0]", "input_size: must be from 32 to 4096, got 0"),
    ("input_size: true", "input_size: expected auto or a whole number or"),
    ("input_size: 320.0", "input_size: expected auto or a whole number or"),
    ("minutes: ten", "minutes: expected a number or null, got 'ten'"),
    ("minutes: 0", r"minutes: must be at least 0\.05, got 0\.0"),
    ("steps: 0", "steps: must be at least 1, got 0"),
    ("steps: 1.5", "steps: expected a whole number or null, got 1.5"),
    ("seed: -1", "seed: must be at least 0, got -1"),
    ("seed:", "seed: expected a whole number, got None"),
    ("seed: true", "seed: expected a whole number, got True"),
    ("seed: {a: 1}", "seed: expected a whole number"),
    ("batch: 0", "batch: must be from 1 to 4096, got 0"),
    ("precision: fp16", "precision: expected auto or bf16 or fp32, got 'fp16'"),
    ("device: 0", "device: expected text, got 0"),
    ("lr: -1", r"lr: must be at least 0, got -1\.0"),
    ("lr: 0,01", r"lr: expected auto or a number, got '0,01' with a decimal comma; write 0\.01"),
    ("lr: .nan", "lr: must be at least 0, got nan"),
    ("lr: true", "lr: expected auto or a number, got True"),
    ("flip: 1.01", r"flip: must be from 0 to 1, got 1\.01"),
    ("allow_dropped: .nan", "allow_dropped: must be from 0 to 1, got nan"),
    ("scale: 1", r"scale: expected \[a number, a number\], got 1"),
    ("scale: [2, 1]", "scale: the first number must not be above the second"),
    ("scale: [.nan, 1]", "scale: must be from 0.05 to 20, got nan"),
    ("scale: [1, 21]", r"scale: must be from 0\.05 to 20, got 21"),
    ("epocs: 3", "unknown setting 'epocs': did you mean 'epochs'?"),
    ("12: 2", "unknown setting '12'"),
    ("mirror: 0.5", "unknown setting 'mirror'"),
    ("lr_rest: 1e-4", "unknown setting 'lr_rest'"),
]


@pytest.mark.parametrize(("line", "message"), INVALID_LINES)
def test_wrong_line_is_refused_with_its_location(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(ConfigError, match=rf"run\.yaml:3: {message}"):
        read_config(write_yaml(tmp_path, f"# a run\nclip_norm: 5\n{line}\n"))


@pytest.mark.parametrize("pair", ["minutes: 1\nepochs: 2", "epochs: 2\nsteps: 3", "steps: 3\nminutes: 1"])
def test_two_lengths_are_refused_at_the_second_line(tmp_path: Path, pair: str) -> None:
    with pytest.raises(ConfigError, match=r"run\.yaml:2: minutes, epochs, steps: set only one of them"):
        read_config(write_yaml(tmp_path, pair))


@pytest.mark.parametrize(
    "text",
    ["- a\n- b", "just text", "seed: [1", "\tseed: 1", "seed: 1\n---\nseed: 2", "seed: !!python/object:os.system 1"],
)
def test_file_that_is_not_a_flat_mapping_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=r"run\.yaml"):
        read_config(write_yaml(tmp_path, text))


def test_unreadable_settings_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"none\.yaml: no such"):
        read_config(tmp_path / "none.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"device: caf\xe9")
    for path in (tmp_path, tmp_path / "latin.yaml"):
        with pytest.raises(InputError, match=str(path)):
            read_config(path)


@pytest.mark.parametrize("text", ["[]", "false", "0", "''"])
def test_empty_list_or_scalar_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match="key: value"):
        read_config(write_yaml(tmp_path, text))


def test_duplicate_setting_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"run\.yaml:2"):
        read_config(write_yaml(tmp_path, "seed: 1\nseed: 2"))


def test_number_too_large_for_a_float_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="lr"):
        read_config(write_yaml(tmp_path, f"lr: {10**400}"))


@pytest.mark.parametrize("setting", ["minutes", "epochs", "lr", "clip_norm", "class_weight"])
def test_infinity_is_refused(setting: str) -> None:
    with pytest.raises(ConfigError, match=setting):
        override(Config(), [f"{setting}=.inf"])


def test_override_changes_only_the_named_settings() -> None:
    original = Config(seed=5, flip=0.25)
    changed = override(original, ["lr=1e-3", "input_size=[64, 96]", " batch = 4"])
    assert changed == Config(seed=5, flip=0.25, lr=0.001, input_size=(64, 96), batch=4)
    assert original == Config(seed=5, flip=0.25)


def test_last_override_of_a_setting_wins() -> None:
    assert override(Config(), ["seed=1", "seed=2"]).seed == 2


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("seed", "--set seed: expected key=value"),
        ("lr=[", r"--set lr=\[: the value is not valid YAML"),
        ("=3", "unknown setting ''"),
        ("epoch=3", "did you mean 'epochs'?"),
        ("seed=", "seed: expected a whole number, got None"),
        ("seed=3=4", "seed: expected a whole number, got '3=4'"),
        ("flip=2", "flip: must be from 0 to 1"),
    ],
)
def test_wrong_override_is_refused(assignment: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        override(Config(), [assignment])


def test_wrong_values_are_refused_in_python() -> None:
    with pytest.raises(ConfigError, match="seed"):
        Config(seed=-1)
    with pytest.raises(ConfigError, match="warmup"):
        Config(warmup=math.nan)
    with pytest.raises(ConfigError, match="set only one"):
        Config(minutes=1, steps=1)
    with pytest.raises(ConfigError, match="input_size"):
        Config(input_size=(64, 100))


def test_config_is_accepted_where_a_part_is_expected() -> None:
    config = Config(optimizer="sgd", lr=0.5, batch=3)
    assert all(isinstance(config, part) for part in PARTS.values())
    assert peak_learning_rate(config) == peak_learning_rate(OptimizerConfig(optimizer="sgd", lr=0.5)) == 0.5
    assert choose_batch_size(config, 5000) == choose_batch_size(RunConfig(batch=3), 5000) == 3


def test_parts_contain_every_setting_once() -> None:
    count = Counter(setting.name for part in PARTS.values() for setting in fields(part))
    assert set(count) == {setting.name for setting in fields(Config)}
    # The loss of the class scores also determines the outputs of the network.
    assert {name for name, times in count.items() if times > 1} == {"class_loss"}


@pytest.mark.parametrize("part", PARTS.values(), ids=PARTS.keys())
def test_part_has_the_defaults_of_config(part: type[Any]) -> None:
    assert asdict(part()).items() <= asdict(Config()).items()


@pytest.mark.parametrize(
    ("part", "values", "message"),
    [
        (InputSizeConfig, {"input_size": 100}, "input_size: 100 is not a multiple of 32"),
        (NetworkConfig, {"kernel": 4}, "kernel: must be odd"),
        (NetworkConfig, {"init": "zeros"}, "init: with zeros all channels"),
        (OptimizerConfig, {"lr_milestones": (0.9, 0.1)}, "lr_milestones: the first number must not be above"),
        (LossConfig, {"iou_weight": -1.0}, "iou_weight: must be at least 0"),
        (RunConfig, {"steps": 1, "epochs": 1.0}, "minutes, epochs, steps: set only one of them"),
    ],
)
def test_part_checks_its_values(part: type[Any], values: dict[str, Any], message: str) -> None:
    for kind in (part, Config):
        with pytest.raises(ConfigError, match=message):
            kind(**values)


OFF = {
    "dropout": 0.0,
    "first_input_size": 1.0,
    "multi_scale": 0.0,
    "weight_decay": 0.0,
    "ema": 0.0,
    "l2": 0.0,
    "l1": 0.0,
    "max_norm": 0.0,
    "color_gain": 0.0,
    "brightness": 0.0,
    "hue": 0.0,
    "saturation": 0.0,
    "value": 0.0,
    "pca_color": 0.0,
    "style_shift": 0.0,
    "copy_paste": 0.0,
    "mixup": 0.0,
    "flip": 0.0,
    "flip_vertical": 0.0,
    "scale": (1.0, 1.0),
    "shift": 0.0,
    "rotate": 0.0,
    "crop": 0.0,
    "mosaic": 0.0,
    "repeat_factor": 0.0,
    "max_background": 1.0,
}
"""Every setting of randomness and regularization, and the value that turns it off."""


def changed_settings(before: Config, after: Config) -> dict[str, Any]:
    """Return the settings in which `after` differs, with their values in `after`."""
    old = asdict(before)
    return {name: value for name, value in asdict(after).items() if value != old[name]}


def test_turned_off_changes_only_settings_with_an_off_value() -> None:
    values: dict[str, Any] = {name: (0.5, 2.0) if name == "scale" else 0.4 for name in OFF}
    config = replace(Config(seed=3, lr=0.5, mosaic_from=7.0), **values)
    assert {s.name: s.metadata["off"] for s in fields(Config) if s.metadata["off"] is not None} == OFF
    assert changed_settings(config, turned_off(config)) == OFF
    colors = {setting.name for setting in fields(ColorConfig)}
    assert changed_settings(config, turned_off(config, ColorConfig)) == {name: OFF[name] for name in colors}
    two_parts = {setting.name for part in (AugmentConfig, InputSizeConfig) for setting in fields(part)} & OFF.keys()
    off = turned_off(config, AugmentConfig, InputSizeConfig)
    assert changed_settings(config, off) == {name: OFF[name] for name in two_parts}


def test_a_part_alone_can_be_turned_off() -> None:
    assert turned_off(ColorConfig(hue=0.5)) == ColorConfig(color_gain=0, brightness=0)
