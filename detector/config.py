"""Every setting of a run with its default, as one flat frozen dataclass; read from YAML, changed by key=value.

A YAML file names the settings it changes, all on one level; an unknown key or a wrong value is refused with its line.
`configs/README.md` explains every key.
"""

import math
import types
import typing
from collections.abc import Iterable
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

import yaml

from detector.errors import InputError, at, did_you_mean
from detector.letterbox import check_side

PLANNING_STEPS = 20
"""Steps after which a budget in minutes is turned into a number of steps; until then nothing may depend on it."""

RuntimeName = Literal["auto", "torch", "onnxruntime", "openvino", "openvino-fast"]
"""What computes a trained network; `runtime.load` says what each is."""


def _setting(default: Any, doc: str, low: float | None = None, high: float | None = None) -> Any:
    return field(default=default, metadata={"doc": doc, "low": low, "high": high})


@dataclass(frozen=True)
class Config:
    """The settings of a run. "auto" is settled from the data and the machine, and the log says how."""

    model: Literal["pico", "nano", "small", "medium"] = _setting("nano", "network size")
    canvas: Literal["auto"] | int | tuple[int, int] = _setting(
        "auto",
        "what the network sees, in pixels: a long side (the other follows the pictures' aspect), or [height, width]",
        low=32,
        high=4096,
    )
    first_canvas: float = _setting(
        0.5,
        "side of the canvas in the first part of the run, as a share of the full one; 1: full from the start",
        0.3,
        1,
    )

    minutes: float | None = _setting(None, "length of the run as wall time, from the command to saved weights", 0.05)
    epochs: float | None = _setting(None, "length of the run in passes over the training pictures", 0.01)
    steps: int | None = _setting(None, "length of the run in optimizer steps", 1)
    seed: int = _setting(0, "seed of everything random", 0)
    batch: Literal["auto"] | int = _setting("auto", "pictures per step", 1, 4096)
    evaluations: Literal["auto"] | int = _setting("auto", "how often the run is evaluated on val, the end included", 1)
    precision: Literal["auto", "bf16", "fp32"] = _setting("auto", "arithmetic of the network in training")
    device: str = _setting("auto", "auto, cpu, cuda, cuda:1, mps")
    allow_dropped: float = _setting(0.02, "largest share of boxes that may be dropped, 0..1", 0, 1)

    half: bool = _setting(False, "save weights in float16: half the size, all but the same answers")

    optimizer: Literal["muon", "adamw", "sgd"] = _setting("muon", "muon: Muon for convolutions, AdamW for the rest")
    lr: Literal["auto"] | float = _setting("auto", "peak learning rate; auto: muon 0.05, adamw 0.003, sgd 0.02", 0)
    lr_rest: float = _setting(0.003, "with muon: peak learning rate of AdamW, which trains all but convolutions", 0)
    weight_decay: float = _setting(0.05, "decoupled decay of convolution weights, times the learning rate", 0)
    warmup: float = _setting(0.1, "share of the run in which the learning rate rises (at most 300 steps)", 0, 1)
    flat: float = _setting(0.5, "share of the run after which the learning rate falls", 0, 1)
    final_lr: float = _setting(0.02, "learning rate at the end, as a share of the peak", 0, 1)
    clip_norm: float = _setting(10.0, "largest norm of the gradient; longer ones are scaled down", 0)
    ema: float = _setting(0.02, "reach of the weights' moving average, as a share of the run; 0: none", 0, 1)

    class_weight: float = _setting(2.0, "weight of the quality focal loss", 0)
    iou_weight: float = _setting(2.5, "weight of the GIoU loss", 0)
    l1_weight: float = _setting(0.5, "weight of the L1 loss of distances, in strides", 0)
    focal_power: float = _setting(2.0, "beta of the quality focal loss: how little easy points count", 0)

    assign_top_k: int = _setting(10, "points an object may have", 1)
    assign_score_power: float = _setting(0.5, "exponent of the score in the assigner's metric", 0)
    assign_iou_power: float = _setting(4.0, "exponent of the IoU in the assigner's metric", 0)
    assign_reach: float = _setting(
        1.0, "points within this many strides of an object's centre are candidates even outside its box", 0
    )

    mirror: float = _setting(0.5, "share of pictures mirrored left-right", 0, 1)
    mirror_vertical: float = _setting(0.0, "share of pictures mirrored up-down", 0, 1)
    scale: tuple[float, float] = _setting((0.6, 1.4), "range of random enlargement", 0.05, 20)
    shift: float = _setting(0.2, "largest random shift, as a share of the canvas", 0, 1)
    colour_gain: float = _setting(0.3, "largest random gain of each colour channel: 0.3 is times 0.7 to 1.3", 0, 1)
    brightness: float = _setting(20.0, "largest random offset of all channels, in grey levels of 255", 0, 255)
    augment_ramp: float = _setting(
        40.0, "epochs over which scale, shift and colour changes grow from half to full strength", 0
    )
    mosaic: float = _setting(0.5, "share of pictures made of four, where the run is long enough", 0, 1)
    mosaic_from: float = _setting(60.0, "epoch from which mosaic is phased in; shorter runs have none", 0)
    clean_end: float = _setting(0.15, "last share of the run without mosaic", 0, 1)
    min_visible: float = _setting(0.25, "least share of an object that must stay in view for its box to stay", 0, 1)

    def __post_init__(self) -> None:
        for setting in fields(self):
            low, high = setting.metadata["low"], setting.metadata["high"]
            value = getattr(self, setting.name)
            parse_value(setting.name, value)
            for number in value if isinstance(value, tuple) else (value,):
                if not isinstance(number, int | float):
                    continue
                within = number <= high if high is not None else number < math.inf
                if not within or (low is not None and not low <= number):
                    bounds = f"at least {low}" if high is None else f"from {low} to {high}"
                    raise InputError(f"{setting.name}: must be {bounds}, got {number}")
        if sum(length is not None for length in (self.minutes, self.epochs, self.steps)) > 1:
            raise InputError("minutes, epochs, steps: give one length of the run, not several")
        for side in self.canvas if isinstance(self.canvas, tuple) else (self.canvas,):
            if isinstance(side, int):
                check_side(side)
        if self.scale[0] > self.scale[1]:
            raise InputError(f"scale: the first number must not be above the second, got {list(self.scale)}")


def read_config(path: Path) -> Config:
    """Read a flat YAML file of settings; those it does not name keep their defaults.

    Raises:
        InputError: no such file, no flat mapping, an unknown key or a value that does not fit; names the line.
    """
    try:
        text = path.read_text(encoding="utf-8")
        values = yaml.safe_load(text)
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except FileNotFoundError:
        raise InputError(f"{path}: no such configuration file") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{path}: cannot be read as YAML: {error}") from None
    if not isinstance(node, yaml.MappingNode | None):
        raise InputError(f"{path}: expected lines of `key: value`")
    lines: dict[str, int] = {}
    for key, _ in node.value if node else ():
        if lines.setdefault(key.value, line := key.start_mark.line + 1) != line:
            raise InputError(f"{at(path, line)}: '{key.value}' stands in line {lines[key.value]} already")
    config = Config()
    for key, value in (values or {}).items():
        try:
            config = replace(config, **{str(key): parse_value(str(key), value)})
        except InputError as error:
            raise InputError(f"{at(path, lines.get(str(key)))}: {error}") from None
    return config


def override(config: Config, assignments: Iterable[str]) -> Config:
    """Return the configuration with `key=value` assignments applied, values written as in YAML.

    Raises:
        InputError: an assignment is malformed, its key unknown or its value does not fit.

    >>> override(Config(), ["seed=3", "scale=[0.5, 2]"]).scale
    (0.5, 2.0)
    """
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals:
            raise InputError(f"--set {assignment}: expected key=value")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            raise InputError(f"--set {assignment}: the value cannot be read") from None
        config = replace(config, **{key.strip(): parse_value(key.strip(), value)})
    return config


def parse_value(key: str, value: Any) -> Any:
    """Return `value` (as YAML gave it) in the type of setting `key`.

    Raises:
        InputError: no such setting, or the value does not fit it.
    """
    kinds = typing.get_type_hints(Config)
    if key not in kinds:
        raise InputError(f"unknown setting '{key}': {did_you_mean(key, kinds)}")
    try:
        return _fit(value, kinds[key])
    except TypeError:
        raise InputError(f"{key}: expected {_describe(kinds[key])}, got {value!r}") from None


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
