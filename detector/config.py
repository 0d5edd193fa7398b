"""Every setting of a run with its default, as one flat frozen dataclass; read from YAML, changed by key=value.

A YAML file names the settings it changes, all on one level; an unknown key or a wrong value is refused with its line.
`configs/README.md` explains every key.
"""

import functools
import math
import types
import typing
from collections.abc import Iterable, Mapping
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
    head: Literal["points", "yolo_v1"] = _setting(
        "points",
        "points: a score per class and a box at every point of three grids; yolo_v1: one grid, as the first YOLO",
    )
    boxes_per_cell: int = _setting(2, "with head yolo_v1: boxes a cell predicts", 1, 16)
    activation: Literal[
        "relu", "identity", "sigmoid", "tanh", "hard_sigmoid", "leaky_relu", "prelu", "elu", "swish", "hard_swish"
    ] = _setting("relu", "function after each convolution; swish is also called SiLU")
    leaky_slope: float = _setting(0.1, "with leaky_relu: slope below zero; with prelu: its first value", 0, 1)
    norm: Literal["batch", "group", "none"] = _setting("batch", "normalisation between convolution and activation")
    residual: bool = _setting(True, "add a block's input to its output where the sizes agree")
    kernel: int = _setting(3, "side of the kernels of the backbone, odd", 3, 9)
    padding: Literal["same", "valid"] = _setting(
        "same", "same: zeros around a map keep its size; valid: none, every kernel of the backbone shortens the map"
    )
    downsample: Literal["conv", "max_pool", "avg_pool"] = _setting(
        "conv", "what halves a map: a convolution of stride 2, or one of stride 1 and a 2x2 pooling"
    )
    init: Literal["he", "xavier", "lecun", "normal", "zeros"] = _setting(
        "he",
        "deviation of the first weights: he sqrt(2/n), xavier sqrt(2/(n+m)), lecun sqrt(1/n), normal as init_deviation",
    )
    init_deviation: float = _setting(0.01, "with init normal: deviation of the first weights", 1e-6, 10)
    input: Literal["standard", "pca", "zca"] = _setting(
        "standard", "standard: each channel to mean 0, deviation 1; pca, zca: channels also decorrelated"
    )
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

    allow_outside: bool = _setting(False, "let the data set's files lead to files outside of its folder")
    workers: int = _setting(1, "threads that prepare batches ahead; 0: between the steps", 0, 16)
    save_every: float = _setting(
        5.0, "minutes between states saved to go on from, besides one at each evaluation; 0: only there", 0
    )
    half: bool = _setting(False, "save weights in float16: half the size, all but the same answers")

    optimizer: Literal["muon", "adamw", "adam", "rmsprop", "momentum", "sgd"] = _setting(
        "muon", "muon: Muon for convolutions, AdamW for the rest"
    )
    lr: Literal["auto"] | float = _setting(
        "auto",
        "peak learning rate; auto: muon 0.05, adamw and adam 0.003, rmsprop 0.001, momentum 0.02, sgd 0.1",
        0,
    )
    lr_rest: float = _setting(0.003, "with muon: peak learning rate of AdamW, which trains all but convolutions", 0)
    weight_decay: float = _setting(
        0.05, "with muon and adamw: decay of convolution weights, times the learning rate; the others know l2", 0
    )
    warmup: float = _setting(0.1, "share of the run in which the learning rate rises (at most 300 steps)", 0, 1)
    flat: float = _setting(0.5, "share of the run after which the learning rate falls", 0, 1)
    final_lr: float = _setting(0.02, "learning rate at the end, as a share of the peak", 0, 1)
    lr_schedule: Literal["linear", "cosine", "step", "inverse", "exponential", "root_epoch", "root_step"] = _setting(
        "linear",
        "how the learning rate falls after the warm-up: linear and cosine (from flat on, to final_lr), step, "
        "inverse 1/(1+d*epoch), exponential b^epoch, root_epoch k/sqrt(epoch), root_step k/sqrt(step)",
    )
    lr_milestones: tuple[float, float] = _setting((0.6, 0.85), "with step: shares of the run at which it falls", 0, 1)
    lr_factor: float = _setting(0.1, "with step: what it is multiplied by there", 0, 1)
    lr_decay: float = _setting(0.1, "with inverse: d in 1/(1+d*epoch)", 0)
    lr_base: float = _setting(0.95, "with exponential: b in b^epoch", 0, 1)
    lr_k: float = _setting(1.0, "with root_epoch and root_step: k; the peak is never exceeded", 0)
    clip_norm: float = _setting(10.0, "largest norm of the gradient; longer ones are scaled down", 0)
    clip_value: float = _setting(0.0, "largest size of each number of the gradient, after clip_norm; 0: any", 0)
    ema: float = _setting(0.02, "reach of the weights' moving average, as a share of the run; 0: none", 0, 1)

    int8_from: float = _setting(
        1.0,
        "share of the run from which the network learns to compute in eight bits, as export --int8 has it; 1: never",
        0,
        1,
    )
    patience: int = _setting(0, "stop after this many evaluations without a better AP on val; 0: never", 0)

    l2: float = _setting(0.0, "weight of half the sum of the squared convolution weights in the loss", 0)
    l2_after: float = _setting(0.0, "epoch from which l2 counts", 0)
    l1: float = _setting(0.0, "weight of the sum of the absolute convolution weights in the loss", 0)
    l1_after: float = _setting(0.0, "epoch from which l1 counts", 0)
    max_norm: float = _setting(0.0, "largest norm of each filter of a convolution; longer ones are cut; 0: any", 0)
    max_norm_after: float = _setting(0.0, "epoch from which max_norm holds", 0)
    dropout: float = _setting(0.0, "share of channels left out at random before each head's last layer", 0, 0.95)
    dropout_after: float = _setting(0.0, "epoch from which dropout is on", 0)

    class_loss: Literal["quality_focal", "sigmoid", "softmax"] = _setting(
        "quality_focal",
        "loss of the scores: quality focal or plain cross-entropy of sigmoids, or of a softmax with background",
    )
    class_weight: float = _setting(2.0, "weight of the loss of the scores", 0)
    iou_weight: float = _setting(2.5, "weight of the GIoU loss", 0)
    l1_weight: float = _setting(0.5, "weight of the L1 loss of distances, in strides", 0)
    square_weight: float = _setting(
        0.0, "weight of the squared error of centre and roots of width and height, in strides, as in the first YOLO", 0
    )
    coordinate_weight: float = _setting(5.0, "with head yolo_v1: weight of the boxes' squared error", 0)
    empty_weight: float = _setting(0.5, "with head yolo_v1: weight of the confidence of boxes without an object", 0)
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
    rotate: float = _setting(0.0, "largest random turn, in degrees; boxes are those around the turned boxes", 0, 180)
    crop: float = _setting(0.0, "share of pictures of which a random window fills the canvas, its aspect changed", 0, 1)
    colour_gain: float = _setting(0.3, "largest random gain of each colour channel: 0.3 is times 0.7 to 1.3", 0, 1)
    brightness: float = _setting(20.0, "largest random offset of all channels, in grey levels of 255", 0, 255)
    hue: float = _setting(0.0, "largest random turn of the hue, as a share of the circle", 0, 0.5)
    saturation: float = _setting(0.0, "largest random gain of the saturation: 0.5 is times 0.5 to 1.5", 0, 1)
    value: float = _setting(0.0, "largest random gain of the value (of HSV)", 0, 1)
    pca_colour: float = _setting(
        0.0, "deviation of random shifts along the principal colours of the training pictures (AlexNet: 0.1)", 0, 10
    )
    style_shift: float = _setting(
        0.0, "share of pictures that take the colours and the low frequencies of another training picture", 0, 1
    )
    copy_paste: float = _setting(0.0, "share of pictures into which objects of another one are pasted", 0, 1)
    mixup: float = _setting(0.0, "share of pictures laid half transparent over another one", 0, 1)
    augment_ramp: float = _setting(
        40.0, "epochs over which scale, shift and colour changes grow from half to full strength", 0
    )
    mosaic: float = _setting(0.5, "share of pictures made of four, where the run is long enough", 0, 1)
    mosaic_from: float = _setting(60.0, "epoch from which mosaic is phased in; shorter runs have none", 0)
    clean_end: float = _setting(0.15, "last share of the run without mosaic", 0, 1)
    min_visible: float = _setting(0.25, "least share of an object that must stay in view for its box to stay", 0, 1)

    suppression: Literal["classic", "soft", "diou", "weighted"] = _setting(
        "classic",
        "classic: of boxes that overlap the best stays; soft: lower scores; diou: centres count; weighted: mean",
    )
    class_agnostic: bool = _setting(False, "boxes of different classes suppress each other")

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
        for name in ("scale", "lr_milestones"):
            first, second = getattr(self, name)
            if first > second:
                raise InputError(f"{name}: the first number must not be above the second, got [{first}, {second}]")
        if self.kernel % 2 == 0:
            raise InputError(f"kernel: must be odd, so that it has a middle, got {self.kernel}")
        if self.int8_from < 1 and self.norm == "group":
            raise InputError("int8_from: group norm cannot be folded into convolutions of eight bits; take norm batch")
        if self.init == "zeros":
            raise InputError(
                "init: with zeros all channels of a layer compute the same and get the same gradient, so they stay "
                "alike for ever; take he, xavier, lecun or normal"
            )


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
    except (OSError, UnicodeDecodeError, RecursionError, yaml.YAMLError) as error:
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


def config_of(values: Mapping[str, Any]) -> Config:
    """Return the configuration that `dataclasses.asdict` turned into a mapping, perhaps by way of JSON.

    Settings it lacks keep their defaults: they came later, and the default is what was before.

    Raises:
        InputError: an unknown setting, or a value that does not fit.
    """
    return Config(**{key: parse_value(key, value) for key, value in values.items()})


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
    kinds = _kinds()
    if key not in kinds:
        raise InputError(f"unknown setting '{key}': {did_you_mean(key, kinds)}")
    try:
        return _fit(value, kinds[key])
    except TypeError:
        raise InputError(f"{key}: expected {_describe(kinds[key])}, got {value!r}") from None


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
