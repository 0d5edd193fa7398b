"""Every setting of a training run with its default, type and range.

Flat in YAML and in Python: `Config(model="small", minutes=5)`. Inside, `Config` is composed of parts (network, loss,
optimizer, augmentation, run), and a function takes only the part it uses: a `Config` is a `LossConfig`, so it can be
passed where one is expected, and a function that takes a `LossConfig` cannot read the settings of the optimizer.

`configs/README.md` is generated from this module.
"""

import functools
import math
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml

from detector.errors import ConfigError, FileError, did_you_mean, location
from detector.letterbox import check_side
from detector.options import MAX_PIXELS, ReadOptions, SuppressionName

PLANNING_STEPS = 20
"""Steps after which a budget in minutes is converted to a number of steps; no schedule may depend on it before."""

_Settings = TypeVar("_Settings", bound="_Part")


def _setting(default: Any, doc: str, low: float | None = None, high: float | None = None, *, off: Any = None) -> Any:
    """Define a setting.

    Args:
        default: its default.
        doc: what it does, for `configs/README.md`.
        low: smallest value, where it is a number.
        high: largest value.
        off: the value that turns it off, for settings of randomness and regularization; see `turned_off`.
    """
    return field(default=default, metadata={"doc": doc, "low": low, "high": high, "off": off})


@dataclass(frozen=True, kw_only=True)
class _Part:
    """Checks the values of the settings of a subclass."""

    def __post_init__(self) -> None:
        for setting in fields(self):
            value = getattr(self, setting.name)
            parse_value(setting.name, value)
            low, high = setting.metadata["low"], setting.metadata["high"]
            for number in value if isinstance(value, tuple) else (value,):
                if not isinstance(number, int | float):
                    continue
                within = number <= high if high is not None else number < math.inf
                if not within or (low is not None and not low <= number):
                    bounds = f"at least {low}" if high is None else f"from {low} to {high}"
                    raise ConfigError(f"{setting.name}: must be {bounds}, got {number}")


@dataclass(frozen=True, kw_only=True)
class ScoreConfig(_Part):
    """How class scores are defined; a setting of both the network and the loss."""

    class_loss: Literal["quality_focal", "sigmoid", "softmax"] = _setting(
        "quality_focal",
        "loss of the class scores: quality focal loss, cross-entropy of a sigmoid per class, or of a softmax with a "
        "background class",
    )


@dataclass(frozen=True, kw_only=True)
class ArchitectureConfig(ScoreConfig):
    """The settings that weights belong to: with others they cannot be loaded."""

    model: Literal["pico", "nano", "small", "medium"] = _setting("nano", "network size")
    head: Literal["points", "yolo_v1"] = _setting(
        "points",
        "points: anchor-free, class scores and a box at every point of three grids; yolo_v1: one grid of cells, as in "
        "the first YOLO",
    )
    boxes_per_cell: int = _setting(2, "with head yolo_v1: boxes predicted per cell", 1, 16)
    activation: Literal[
        "relu", "identity", "sigmoid", "tanh", "hard_sigmoid", "leaky_relu", "prelu", "elu", "swish", "hard_swish"
    ] = _setting("relu", "activation function after each convolution; swish is also called SiLU")
    leaky_slope: float = _setting(0.1, "with leaky_relu: slope below zero; with prelu: its initial value", 0, 1)
    norm: Literal["batch", "group", "none"] = _setting("batch", "normalization between convolution and activation")
    residual: bool = _setting(True, "add the input of a block to its output where the shapes are equal")
    kernel: int = _setting(3, "kernel size of the backbone's convolutions, odd", 3, 9)
    padding: Literal["same", "valid"] = _setting(
        "same", "same: zero padding keeps the size of a feature map; valid: no padding in the backbone"
    )
    downsample: Literal["conv", "max_pool", "avg_pool"] = _setting(
        "conv", "how a feature map is halved: a convolution of stride 2, or one of stride 1 followed by 2x2 pooling"
    )
    input: Literal["standard", "pca", "zca"] = _setting(
        "standard",
        "input normalization: standard: each channel to mean 0 and standard deviation 1; pca, zca: channels also "
        "decorrelated (whitening)",
    )


@dataclass(frozen=True, kw_only=True)
class NetworkConfig(ArchitectureConfig):
    """The network and its initial weights."""

    init: Literal["he", "xavier", "lecun", "normal", "zeros"] = _setting(
        "he",
        "standard deviation of the initial weights: he sqrt(2/n), xavier sqrt(2/(n+m)), lecun sqrt(1/n), normal as "
        "init_std",
    )
    init_std: float = _setting(0.01, "with init normal: standard deviation of the initial weights", 1e-6, 10)
    dropout: float = _setting(
        0.0, "fraction of channels dropped at random before the last layer of each head", 0, 0.95, off=0.0
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kernel % 2 == 0:
            raise ConfigError(f"kernel: must be odd, so that it has a center, got {self.kernel}")
        if self.init == "zeros":
            raise ConfigError(
                "init: with zeros all channels of a layer get the same gradient and stay equal forever; "
                "use he, xavier, lecun or normal"
            )


@dataclass(frozen=True, kw_only=True)
class InputSizeConfig(_Part):
    """The size of the network input."""

    input_size: Literal["auto"] | int | tuple[int, int] = _setting(
        "auto",
        "network input size in pixels: the long side (the other side follows the aspect of the images), or "
        "[height, width]; multiples of 32",
        low=32,
        high=4096,
    )
    first_input_size: float = _setting(
        0.5,
        "side of the input in the first part of the run (progressive resizing), as a fraction of the full size; "
        "1: full size from the start",
        0.3,
        1,
        off=1.0,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for side in self.input_size if isinstance(self.input_size, tuple) else (self.input_size,):
            if isinstance(side, int):
                check_side(side)


@dataclass(frozen=True, kw_only=True)
class LossConfig(ScoreConfig):
    """The loss and the assignment of grid points to objects."""

    class_weight: float = _setting(2.0, "weight of the loss of the class scores", 0)
    iou_weight: float = _setting(2.5, "weight of the GIoU loss", 0)
    l1_weight: float = _setting(0.5, "weight of the L1 loss of distances, in strides", 0)
    squared_error_weight: float = _setting(
        0.0,
        "weight of the squared error of center and of the square roots of width and height, in strides, as in the "
        "first YOLO",
        0,
    )
    coord_weight: float = _setting(5.0, "with head yolo_v1: weight of the squared error of boxes", 0)
    noobj_weight: float = _setting(0.5, "with head yolo_v1: weight of the confidence of boxes without an object", 0)
    focal_power: float = _setting(2.0, "beta of the quality focal loss: how little easy points count", 0)

    assign_top_k: int = _setting(10, "largest number of positive points per object", 1)
    assign_score_power: float = _setting(0.5, "exponent of the score in the metric of the assigner", 0)
    assign_iou_power: float = _setting(4.0, "exponent of the IoU in the metric of the assigner", 0)
    assign_radius: float = _setting(
        1.0, "points within this many strides of the center of an object are candidates even outside its box", 0
    )


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig(_Part):
    """Optimizer, learning rate schedule, EMA and regularization."""

    optimizer: Literal["muon", "adamw", "adam", "rmsprop", "momentum", "sgd"] = _setting(
        "muon", "muon: Muon for convolutions, AdamW for all other parameters"
    )
    lr: Literal["auto"] | float = _setting(
        "auto",
        "peak learning rate; auto: muon 0.05, adamw and adam 0.003, rmsprop 0.001, momentum 0.02, sgd 0.1",
        0,
    )
    lr_adamw: float = _setting(0.003, "with muon: peak learning rate of AdamW", 0)
    weight_decay: float = _setting(
        0.05,
        "with muon and adamw: decay of convolution weights, times the learning rate; use l2 with the others",
        0,
        off=0.0,
    )
    warmup: float = _setting(0.1, "fraction of the run in which the learning rate rises (at most 300 steps)", 0, 1)
    lr_decay_start: float = _setting(0.5, "fraction of the run after which the learning rate falls", 0, 1)
    final_lr: float = _setting(0.02, "learning rate at the end, as a fraction of the peak", 0, 1)
    lr_schedule: Literal["linear", "cosine", "step", "inverse", "exponential", "root_epoch", "root_step"] = _setting(
        "linear",
        "how the learning rate falls after warmup: linear and cosine (from lr_decay_start to final_lr), step, "
        "inverse 1/(1+d*epoch), exponential b^epoch, root_epoch k/sqrt(epoch), root_step k/sqrt(step)",
    )
    lr_milestones: tuple[float, float] = _setting(
        (0.6, 0.85), "with step: fractions of the run at which it falls", 0, 1
    )
    lr_factor: float = _setting(0.1, "with step: factor at each milestone", 0, 1)
    lr_decay: float = _setting(0.1, "with inverse: d in 1/(1+d*epoch)", 0)
    lr_base: float = _setting(0.95, "with exponential: b in b^epoch", 0, 1)
    lr_k: float = _setting(1.0, "with root_epoch and root_step: k; the peak is never exceeded", 0)
    clip_norm: float = _setting(10.0, "gradient clipping: largest norm of all gradients together", 0)
    clip_value: float = _setting(0.0, "gradient clipping: largest absolute value, after clip_norm; 0: no limit", 0)
    ema: float = _setting(
        0.02, "time constant of the exponential moving average (EMA) of the weights, as a fraction of the run; 0: none",
        0, 1, off=0.0,
    )  # fmt: skip
    qat_start: float = _setting(
        1.0,
        "fraction of the run from which quantization-aware training (QAT) simulates the int8 export; 1: never",
        0,
        1,
    )

    l2: float = _setting(0.0, "L2 regularization: weight of half the sum of squared convolution weights", 0, off=0.0)
    l2_after: float = _setting(0.0, "epoch from which l2 is applied", 0)
    l1: float = _setting(0.0, "L1 regularization: weight of the sum of absolute convolution weights", 0, off=0.0)
    l1_after: float = _setting(0.0, "epoch from which l1 is applied", 0)
    max_norm: float = _setting(0.0, "largest norm of each convolution filter; 0: no limit", 0, off=0.0)
    max_norm_after: float = _setting(0.0, "epoch from which max_norm is applied", 0)
    dropout_after: float = _setting(0.0, "epoch from which dropout is applied", 0)

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_ordered("lr_milestones", self.lr_milestones)


@dataclass(frozen=True, kw_only=True)
class ColorConfig(_Part):
    """Augmentation of colors: no pixel moves."""

    color_gain: float = _setting(
        0.3, "largest random gain of each color channel: 0.3 is times 0.7 to 1.3", 0, 1, off=0.0
    )
    brightness: float = _setting(20.0, "largest random offset of all channels, in gray levels of 255", 0, 255, off=0.0)
    hue: float = _setting(0.0, "largest random shift of the hue, as a fraction of the color circle", 0, 0.5, off=0.0)
    saturation: float = _setting(0.0, "largest random gain of the saturation: 0.5 is times 0.5 to 1.5", 0, 1, off=0.0)
    value: float = _setting(0.0, "largest random gain of the value (of HSV)", 0, 1, off=0.0)
    pca_color: float = _setting(
        0.0, "standard deviation of random shifts along the principal colors of the training images (AlexNet: 0.1)",
        0, 10, off=0.0,
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class BlendConfig(_Part):
    """Augmentations that combine an image with another one."""

    style_shift: float = _setting(
        0.0, "fraction of images that take the colors and the low frequencies of another training image", 0, 1, off=0.0
    )
    copy_paste: float = _setting(0.0, "fraction of images into which objects of another one are pasted", 0, 1, off=0.0)
    mixup: float = _setting(0.0, "fraction of images blended with another one", 0, 1, off=0.0)


@dataclass(frozen=True, kw_only=True)
class AugmentConfig(ColorConfig, BlendConfig):
    """Data augmentation."""

    flip: float = _setting(0.5, "fraction of images flipped left-right", 0, 1, off=0.0)
    flip_vertical: float = _setting(0.0, "fraction of images flipped up-down", 0, 1, off=0.0)
    scale: tuple[float, float] = _setting((0.6, 1.4), "range of random scaling", 0.05, 20, off=(1.0, 1.0))
    shift: float = _setting(0.2, "largest random shift, as a fraction of the input size", 0, 1, off=0.0)
    rotate: float = _setting(
        0.0, "largest random rotation in degrees; boxes become the bounding boxes of the rotated boxes", 0, 180, off=0.0
    )
    crop: float = _setting(
        0.0, "fraction of images of which a random crop is stretched over the input, its aspect changed", 0, 1, off=0.0
    )
    augment_ramp: float = _setting(
        40.0, "epochs over which scale, shift and color changes grow from half to full strength", 0
    )
    mosaic: float = _setting(0.5, "fraction of images that are mosaics of four, in runs long enough", 0, 1, off=0.0)
    mosaic_from: float = _setting(60.0, "epoch from which mosaic is phased in; shorter runs have none", 0)
    mosaic_off: float = _setting(0.15, "last fraction of the run without mosaic", 0, 1)
    min_visible: float = _setting(0.25, "smallest visible fraction of an object at which its box is kept", 0, 1)

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_ordered("scale", self.scale)


@dataclass(frozen=True, kw_only=True)
class RunConfig(_Part):
    """Length, seed, machine and files of a run."""

    minutes: float | None = _setting(None, "length of the run as wall time, from the start to saved weights", 0.05)
    epochs: float | None = _setting(None, "length of the run in epochs: passes over the training images", 0.01)
    steps: int | None = _setting(None, "length of the run in optimizer steps", 1)
    seed: int = _setting(0, "seed of everything random", 0)
    batch: Literal["auto"] | int = _setting("auto", "batch size: images per step", 1, 4096)
    evaluations: Literal["auto"] | int = _setting(
        "auto", "number of evaluations on val during the run, the one at the end included", 1
    )
    patience: int = _setting(
        0, "early stopping: stop after this many evaluations without a better AP on val; 0: off", 0
    )
    precision: Literal["auto", "bf16", "fp32"] = _setting("auto", "floating-point type of the network in training")
    device: str = _setting("auto", "auto, cpu, cuda, cuda:1, mps")
    workers: int = _setting(1, "data loader threads; 0: batches are made between the steps", 0, 16)
    save_every: float = _setting(
        5.0, "minutes between checkpoints for resuming, besides one at each evaluation; 0: only there", 0
    )
    save_float16: bool = _setting(False, "save weights in float16: half the size, nearly equal results")
    allow_dropped: float = _setting(0.02, "largest fraction of boxes that may be dropped", 0, 1)
    allow_outside: bool = _setting(False, "allow the files of a data set to lead to files outside its folder")
    max_pixels: int = _setting(MAX_PIXELS, "pixels of the largest image that is decoded", 1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if sum(length is not None for length in (self.minutes, self.epochs, self.steps)) > 1:
            raise ConfigError("minutes, epochs, steps: give one length of the run, not several")

    @property
    def read_options(self) -> ReadOptions:
        """What a data set may read."""
        return ReadOptions(allow_outside=self.allow_outside, max_pixels=self.max_pixels)


@dataclass(frozen=True, kw_only=True)
class SuppressionConfig(_Part):
    """Non-maximum suppression (NMS) of the trained detector, unless the caller asks for another."""

    suppression: SuppressionName = _setting(  # noqa: RUF009 (ruff does not see through the alias)
        "classic",
        "classic: of boxes that overlap the best is kept; soft: the others get lower scores (Soft-NMS); diou: centers "
        "count (DIoU-NMS); weighted: boxes are averaged",
    )
    class_agnostic: bool = _setting(False, "boxes of different classes suppress each other")


@dataclass(frozen=True, kw_only=True)
class Config(NetworkConfig, InputSizeConfig, RunConfig, OptimizerConfig, LossConfig, AugmentConfig, SuppressionConfig):
    """All settings of a training run. "auto" is resolved from the data and the machine; `config.json` says to what."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.qat_start < 1 and self.norm == "group":
            raise ConfigError("qat_start: group norm cannot be folded into int8 convolutions; use norm=batch")


PARTS: Mapping[str, type[_Part]] = {
    "The network": NetworkConfig,
    "Input size": InputSizeConfig,
    "Length, batch, machine": RunConfig,
    "Optimizer and regularization": OptimizerConfig,
    "Loss and assigner": LossConfig,
    "Augmentation": AugmentConfig,
    "Non-maximum suppression": SuppressionConfig,
}
"""Heading in configs/README.md → the settings below it."""


def turned_off(config: _Settings, *parts: type[_Part]) -> _Settings:
    """Return the settings with randomness and regularization turned off.

    Args:
        config: any settings.
        parts: only turn off the settings of these parts; none: all that can be turned off.
    """
    names = {setting.name for part in parts or (type(config),) for setting in fields(part)}
    off = {s.name: s.metadata["off"] for s in fields(config) if s.name in names and s.metadata["off"] is not None}
    return replace(config, **off)


def _check_ordered(name: str, pair: tuple[float, float]) -> None:
    if pair[0] > pair[1]:
        raise ConfigError(f"{name}: the first number must not be above the second, got {list(pair)}")


def read_config(path: Path) -> Config:
    """Read a flat YAML file of settings; settings it does not name keep their defaults.

    Raises:
        FileError: the file is missing or cannot be read.
        ConfigError: not a flat mapping, an unknown key or an invalid value; the message names the line.
    """
    try:
        text = path.read_text(encoding="utf-8")
        values = yaml.safe_load(text)
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except FileNotFoundError:
        raise FileError(f"{path}: no such configuration file") from None
    except OSError as error:
        raise FileError(f"{path}: cannot be read ({error.strerror})") from None
    except (UnicodeDecodeError, RecursionError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: cannot be read as YAML: {error}") from None
    if not isinstance(node, yaml.MappingNode | None):
        raise ConfigError(f"{path}: expected lines of `key: value`")
    lines: dict[str, int] = {}
    for key, _ in node.value if node else ():
        if lines.setdefault(key.value, line := key.start_mark.line + 1) != line:
            raise ConfigError(f"{location(path, line)}: '{key.value}' is already set in line {lines[key.value]}")
    config = Config()
    for key, value in (values or {}).items():
        try:
            config = replace(config, **{str(key): parse_value(str(key), value)})
        except ConfigError as error:
            raise ConfigError(f"{location(path, lines.get(str(key)))}: {error}") from None
    return config


def config_of(values: Mapping[str, Any]) -> Config:
    """Return the configuration from a mapping as `dataclasses.asdict` makes it, possibly through JSON.

    Settings that are missing keep their defaults: they were added later, and their defaults change nothing.

    Raises:
        ConfigError: an unknown setting, or an invalid value.
    """
    return Config(**{key: parse_value(key, value) for key, value in values.items()})


def override(config: Config, assignments: Iterable[str]) -> Config:
    """Return the configuration with `key=value` assignments applied, values written as in YAML.

    Raises:
        ConfigError: an assignment is malformed, its key unknown or its value invalid.

    >>> override(Config(), ["seed=3", "scale=[0.5, 2]"]).scale
    (0.5, 2.0)
    """
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals:
            raise ConfigError(f"--set {assignment}: expected key=value")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            raise ConfigError(f"--set {assignment}: the value cannot be read") from None
        config = replace(config, **{key.strip(): parse_value(key.strip(), value)})
    return config


def parse_value(key: str, value: Any) -> Any:
    """Return `value` (as YAML gave it) in the type of setting `key`.

    Raises:
        ConfigError: no such setting, or an invalid value.
    """
    kinds = _kinds()
    if key not in kinds:
        raise ConfigError(f"unknown setting '{key}': {did_you_mean(key, kinds)}")
    try:
        return _fit(value, kinds[key])
    except TypeError:
        raise ConfigError(f"{key}: expected {_describe(kinds[key])}, got {value!r}") from None


@functools.cache
def _kinds() -> dict[str, Any]:
    return typing.get_type_hints(Config)


def _fit(value: Any, kind: Any) -> Any:
    """Convert a YAML value to a type, or raise TypeError."""
    origin, options = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        for option in options:
            try:
                return _fit(value, option)
            except TypeError:
                continue
    elif origin is Literal:
        if value in options:
            return value
    elif origin is tuple:
        if isinstance(value, list | tuple) and len(value) == len(options):
            return tuple(_fit(item, option) for item, option in zip(value, options, strict=True))
    elif kind is float:
        # YAML 1.1 reads 1e-3 (no dot) as text.
        if isinstance(value, int | float | str) and not isinstance(value, bool):
            try:
                return float(value)
            except (ValueError, OverflowError):
                raise TypeError from None
    elif type(value) is kind:
        return value
    raise TypeError


def _describe(kind: Any) -> str:
    origin, options = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_describe(option) for option in options)
    if origin is Literal:
        return " or ".join(str(option) for option in options)
    if origin is tuple:
        return "[" + ", ".join(_describe(option) for option in options) + "]"
    return {int: "a whole number", bool: "true or false", float: "a number", str: "text", types.NoneType: "nothing"}[
        kind
    ]
