"""All settings of a training run, each with its default, type and range.

The settings are flat in YAML and in Python: `Config(model="small", minutes=5)`. `Config` inherits from its parts
(network, loss, optimizer, augmentation, run, ...), and a function takes only the part that it uses. A `Config` is a
`LossConfig`, so it can be passed where a `LossConfig` is expected. A function that takes a `LossConfig` cannot read the
settings of the optimizer.

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
from detector.files import local_path
from detector.letterbox import check_side
from detector.options import MAX_PIXELS, MAX_VAL_FRACTION, VAL_FRACTION, ReadOptions, SuppressionName
from detector.wording import decimal_hint, shown

PLANNING_STEPS = 20
"""Number of steps after which a budget in minutes is converted to a number of steps. Until then, the length of the run
is unknown, so no schedule may depend on the length."""

_LARGEST_INT = 2**53
"""A whole number without another limit must be below this: all smaller ones are exact as floating-point numbers."""

_LARGEST_FLOAT = 1e300
"""A number without another limit must be below this, so that products with counts do not overflow."""

_Settings = TypeVar("_Settings", bound="_Part")


def _setting(default: Any, doc: str, low: float | None = None, high: float | None = None, *, off: Any = None) -> Any:
    """Return the dataclass field of a setting.

    Args:
        default: default value.
        doc: what the setting does, for `configs/README.md`.
        low: smallest allowed number; None: no limit.
        high: largest allowed number; None: no limit.
        off: the value with which `turned_off` turns the setting off, for randomness and regularization; None: it cannot
            be turned off.
    """
    return field(default=default, metadata={"doc": doc, "low": low, "high": high, "off": off})


@dataclass(frozen=True, kw_only=True)
class _Part:
    """Base class of the parts of `Config`: checks the type and the range of each setting."""

    def __post_init__(self) -> None:
        for setting in fields(self):
            value = getattr(self, setting.name)
            parse_value(setting.name, value)
            low, high = setting.metadata["low"], setting.metadata["high"]
            for number in value if isinstance(value, tuple) else (value,):
                if not isinstance(number, int | float):
                    continue
                largest = _LARGEST_INT if isinstance(number, int) else _LARGEST_FLOAT
                within = number <= high if high is not None else number < largest
                if not within or (low is not None and not low <= number):
                    bounds = f"at least {low}" if high is None else f"from {low} to {high}"
                    bounds = f"below {largest:g}" if high is None and largest <= number < math.inf else bounds
                    raise ConfigError(f"{setting.name}: must be {bounds}, got {number!s:.20}")


@dataclass(frozen=True, kw_only=True)
class ScoreConfig(_Part):
    """The setting that defines the class scores, which both the network and the loss use."""

    class_loss: Literal["quality_focal", "sigmoid", "softmax"] = _setting(
        "quality_focal",
        "loss of the class scores. quality_focal: quality focal loss; sigmoid: cross-entropy of one sigmoid per class; "
        "softmax: cross-entropy of a softmax over the classes and the background",
    )


@dataclass(frozen=True, kw_only=True)
class ArchitectureConfig(ScoreConfig):
    """Settings of the network architecture. Weights can be loaded only with the same values of these settings."""

    model: Literal["pico", "nano", "small", "medium"] = _setting("nano", "network size")
    head: Literal["points", "yolo_v1"] = _setting(
        "points",
        "points: anchor-free, predicts class scores and one box at each point of three grids; yolo_v1: predicts "
        "boxes in each cell of one grid, as the first YOLO does",
    )
    boxes_per_cell: int = _setting(2, "with head=yolo_v1: number of boxes predicted per cell", 1, 16)
    cell_output: Literal["conv", "dense"] = _setting(
        "conv",
        "with head=yolo_v1: last layers. conv: 1x1 convolution, for any input size; dense: two fully connected layers "
        "over all cells, as published: the network accepts only one input size, and first_input_size is 1",
    )
    dense_units: int = _setting(
        256,
        "with cell_output=dense: number of hidden units between the two fully connected layers (published: 4096)",
        1,
        16384,
    )
    activation: Literal[
        "relu", "identity", "sigmoid", "tanh", "hard_sigmoid", "leaky_relu", "prelu", "elu", "swish", "hard_swish"
    ] = _setting("relu", "activation function after each convolution; swish is also called SiLU")
    leaky_slope: float = _setting(
        0.1,
        "with activation=leaky_relu: slope for negative inputs; with prelu: initial slope for negative inputs",
        0,
        1,
    )
    norm: Literal["batch", "group", "none"] = _setting(
        "batch", "normalization layer between convolution and activation"
    )
    residual: bool = _setting(True, "whether a block adds its input to its output, if both have the same shape")
    kernel: int = _setting(3, "kernel size of the convolutions in the backbone, an odd number", 3, 9)
    padding: Literal["same", "valid"] = _setting(
        "same",
        "same: zero padding, so that convolutions keep the size of a feature map; valid: no padding in the backbone",
    )
    downsample: Literal["conv", "max_pool", "avg_pool"] = _setting(
        "conv",
        "how the size of a feature map is halved. conv: convolution with stride 2; max_pool, avg_pool: convolution "
        "with stride 1, then 2x2 pooling",
    )
    spp: Literal["auto"] | bool = _setting(
        "auto",
        "whether the backbone ends with spatial pyramid pooling (SPP). auto: as in the initial weights; with random "
        "ones, true if the long side of the input has at least 416 pixels",
    )
    input: Literal["standard", "pca", "zca"] = _setting(
        "standard",
        "input normalization. standard: mean 0 and standard deviation 1 in each channel; pca, zca: the channels are "
        "also decorrelated (whitening)",
    )

    @property
    def has_fixed_input(self) -> bool:
        """Whether the network accepts only the input size for which it was created."""
        return self.head == "yolo_v1" and self.cell_output == "dense"


@dataclass(frozen=True, kw_only=True)
class NetworkConfig(ArchitectureConfig):
    """Settings of the network: architecture, initial weights and dropout."""

    init: Literal["he", "xavier", "lecun", "normal", "zeros"] = _setting(
        "he",
        "standard deviation of the initial weights of a layer with n inputs and m outputs. he: sqrt(2/n); "
        "xavier: sqrt(2/(n+m)); lecun: sqrt(1/n); normal: init_std; zeros: 0, which is an error, because all channels "
        "of a layer would stay equal",
    )
    init_std: float = _setting(0.01, "with init=normal: standard deviation of the initial weights", 1e-6, 10)
    dropout: float = _setting(
        0.0, "fraction of channels that are set to 0 at random before the last layer of each head", 0, 0.95, off=0.0
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kernel % 2 == 0:
            raise ConfigError(f"kernel: must be odd, got {self.kernel}")
        if self.init == "zeros":
            raise ConfigError(
                "init: with zeros all channels of a layer get the same gradients and stay equal forever; "
                "use he, xavier, lecun or normal"
            )


@dataclass(frozen=True, kw_only=True)
class InputSizeConfig(_Part):
    """Settings of the input size of the network, at the start and at the end of a run."""

    input_size: Literal["auto"] | int | tuple[int, int] = _setting(
        "auto",
        "input size of the network in pixels. A number: the long side; the short side follows from the aspect ratio of "
        "the images. [height, width]: both sides. auto: chosen from the sizes of the objects. Every side is a "
        "multiple of 32",
        low=32,
        high=4096,
    )
    first_input_size: float = _setting(
        0.5,
        "input size in the first part of the run (progressive resizing), as a fraction of `input_size`; "
        "1: full size from the start",
        0.3,
        1,
        off=1.0,
    )
    multi_scale: float = _setting(
        0.0,
        "multi-scale training: the input size of each step is drawn from five sizes between 1 - m and 1 + m times the "
        "size of its part of the run, rounded to multiples of 32; 0: off",
        0,
        0.5,
        off=0.0,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for side in self.input_size if isinstance(self.input_size, tuple) else (self.input_size,):
            if isinstance(side, int):
                check_side(side)


@dataclass(frozen=True, kw_only=True)
class LossConfig(ScoreConfig):
    """Settings of the loss, and of the assigner, which assigns grid points to objects."""

    class_weight: float = _setting(2.0, "weight of the loss of the class scores", 0)
    iou_weight: float = _setting(2.5, "weight of the GIoU loss", 0)
    l1_weight: float = _setting(
        0.5, "weight of the L1 loss of the distances from a point to the four sides of its box, in strides", 0
    )
    squared_error_weight: float = _setting(
        0.0,
        "weight of the squared error of the box center and of the square roots of box width and height, in strides, as "
        "in the first YOLO",
        0,
    )
    coord_weight: float = _setting(5.0, "with head=yolo_v1: weight of the squared error of boxes", 0)
    noobj_weight: float = _setting(
        0.5, "with head=yolo_v1: weight of the confidence loss of predicted boxes without an object", 0
    )
    focal_power: float = _setting(
        2.0, "beta of the quality focal loss: a larger value gives easy points less weight", 0
    )
    class_balance: Literal["none", "inverse", "sqrt_inverse", "effective"] = _setting(
        "none",
        "weights of the classes in the loss of the class scores at positive points (class weights); n is the number of "
        "objects of a class, and the mean weight of all objects is 1. inverse: 1/n; sqrt_inverse: 1/sqrt(n); "
        "effective: 1/(1 - 0.999^n), by the effective number of objects",
    )

    assign_top_k: int = _setting(10, "largest number of positive points per object", 1)
    assign_score_power: float = _setting(
        0.5, "exponent of the class score in the metric that ranks candidate points", 0
    )
    assign_iou_power: float = _setting(4.0, "exponent of the IoU in the metric that ranks candidate points", 0)
    assign_radius: float = _setting(
        1.0,
        "a point less than this many strides (in x and in y) from the center of an object is a candidate for this "
        "object, even if the point is outside the box",
        0,
    )


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig(_Part):
    """Settings of optimizer, learning rate schedule, gradient clipping, EMA, QAT and regularization."""

    optimizer: Literal["muon", "adamw", "adam", "rmsprop", "momentum", "sgd"] = _setting(
        "muon", "optimizer; muon: Muon for convolution weights, AdamW for all other parameters"
    )
    lr: Literal["auto"] | float = _setting(
        "auto",
        "peak learning rate. auto: 0.05 for muon, 0.003 for adamw and adam, 0.001 for rmsprop, 0.02 for momentum, 0.1 "
        "for sgd",
        0,
    )
    lr_adamw: float = _setting(0.003, "with optimizer=muon: peak learning rate of AdamW", 0)
    lr_backbone: Literal["auto", "by_steps"] | float = _setting(
        "auto",
        "factor on the learning rates of the backbone; below 1, initial weights from other data change less. by_steps: "
        "steps of the run / 1,000, but at least 0.3 and at most 1; auto: by_steps if the initial weights have other "
        "classes than the dataset, else 1",
        0,
        10,
    )
    freeze: float = _setting(
        0.0,
        "fraction of the run in which the backbone keeps its initial weights (its norm layers still adapt their "
        "statistics), for --reuse-backbone",
        0,
        1,
    )
    weight_decay: float = _setting(
        0.05,
        "with optimizer=muon or adamw: weight decay of convolution weights, multiplied by the learning rate; with "
        "other optimizers, use l2",
        0,
        off=0.0,
    )
    warmup: float = _setting(
        0.1, "fraction of the run in which the learning rate rises to its peak (at most 300 steps)", 0, 1
    )
    lr_decay_start: float = _setting(
        0.5, "with lr_schedule=linear or cosine: fraction of the run after which the learning rate falls", 0, 1
    )
    final_lr: float = _setting(
        0.02, "with lr_schedule=linear or cosine: learning rate at the end, as a fraction of the peak", 0, 1
    )
    lr_schedule: Literal["linear", "cosine", "step", "inverse", "exponential", "root_epoch", "root_step"] = _setting(
        "linear",
        "how the learning rate falls after warmup. linear, cosine: from lr_decay_start on, to final_lr at the end; "
        "step: by lr_factor at each of lr_milestones; inverse: 1/(1+d*epoch); exponential: b^epoch; "
        "root_epoch: k/sqrt(epoch); root_step: k/sqrt(step)",
    )
    lr_milestones: tuple[float, float] = _setting(
        (0.6, 0.85), "with lr_schedule=step: fractions of the run at which the learning rate falls", 0, 1
    )
    lr_factor: float = _setting(0.1, "with lr_schedule=step: factor on the learning rate at each milestone", 0, 1)
    lr_decay: float = _setting(0.1, "with lr_schedule=inverse: d in 1/(1+d*epoch)", 0)
    lr_base: float = _setting(0.95, "with lr_schedule=exponential: b in b^epoch", 0, 1)
    lr_k: float = _setting(
        1.0,
        "with lr_schedule=root_epoch or root_step: k in k/sqrt(epoch) or k/sqrt(step); the peak is never exceeded",
        0,
    )
    clip_norm: float = _setting(10.0, "gradient clipping: largest norm of all gradients taken as one vector", 0)
    clip_value: float = _setting(
        0.0, "gradient clipping: largest absolute value of a gradient, applied after clip_norm; 0: no limit", 0
    )
    ema: float = _setting(
        0.02, "exponential moving average (EMA) of the weights: time constant as a fraction of the run; 0: no EMA",
        0, 1, off=0.0,
    )  # fmt: skip
    qat_start: float = _setting(
        1.0,
        "quantization-aware training (QAT), which simulates an int8 export: fraction of the run after which it starts; "
        "1: no QAT",
        0,
        1,
    )
    qat_weight_bits: Literal[7, 8] = _setting(
        7,
        "QAT: number of bits of the int8 weights of the export; 7: right on every CPU; 8: for `--int8-full-range`",
    )

    l2: float = _setting(
        0.0, "L2 regularization: weight of half the sum of the squared convolution weights", 0, off=0.0
    )
    l2_after: float = _setting(0.0, "epoch from which l2 is applied", 0)
    l1: float = _setting(0.0, "L1 regularization: weight of the sum of the absolute convolution weights", 0, off=0.0)
    l1_after: float = _setting(0.0, "epoch from which l1 is applied", 0)
    max_norm: float = _setting(0.0, "largest L2 norm of the weights of a convolution filter; 0: no limit", 0, off=0.0)
    max_norm_after: float = _setting(0.0, "epoch from which max_norm is applied", 0)
    dropout_after: float = _setting(0.0, "epoch from which dropout is applied", 0)

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_ordered("lr_milestones", self.lr_milestones)


@dataclass(frozen=True, kw_only=True)
class ColorConfig(_Part):
    """Settings of color augmentation, which changes the colors of pixels and does not move pixels."""

    color_gain: float = _setting(
        0.3, "random gain of each color channel: 0.3 means a factor from 0.7 to 1.3", 0, 1, off=0.0
    )
    brightness: float = _setting(
        20.0, "random brightness: largest offset added to all channels, in levels of 0..255", 0, 255, off=0.0
    )
    hue: float = _setting(0.0, "random hue: largest shift, as a fraction of the color circle", 0, 0.5, off=0.0)
    saturation: float = _setting(0.0, "random saturation: 0.5 means a factor from 0.5 to 1.5", 0, 1, off=0.0)
    value: float = _setting(0.0, "random value (the V of HSV): 0.5 means a factor from 0.5 to 1.5", 0, 1, off=0.0)
    pca_color: float = _setting(
        0.0,
        "random shift along the principal colors of the training images: its standard deviation, as a fraction of the "
        "standard deviation of the images (AlexNet: 0.1)",
        0,
        10,
        off=0.0,
    )


@dataclass(frozen=True, kw_only=True)
class BlendConfig(_Part):
    """Settings of augmentations that combine two images."""

    style_shift: float = _setting(
        0.0, "fraction of images that take the colors and the low frequencies of another training image", 0, 1, off=0.0
    )
    copy_paste: Literal["auto"] | float = _setting(
        "auto",
        "fraction of images into which objects of another training image are pasted; auto: 0.5 with up to 300 training "
        "images, else 0",
        0,
        1,
        off=0.0,
    )
    mixup: float = _setting(0.0, "fraction of images that are blended with another training image", 0, 1, off=0.0)


@dataclass(frozen=True, kw_only=True)
class AugmentConfig(ColorConfig, BlendConfig):
    """Settings of data augmentation: placement, color, and combination of images."""

    flip: float = _setting(0.5, "fraction of images that are flipped left-right", 0, 1, off=0.0)
    flip_vertical: float = _setting(0.0, "fraction of images that are flipped up-down", 0, 1, off=0.0)
    scale: tuple[float, float] = _setting(
        (0.6, 1.4), "range of the random scale; 1: the image just fits into the input", 0.05, 20, off=(1.0, 1.0)
    )
    shift: float = _setting(0.2, "largest random shift in x and in y, as a fraction of the input size", 0, 1, off=0.0)
    rotate: float = _setting(
        0.0,
        "largest random rotation in degrees; a box is replaced by the bounding box of the rotated box",
        0,
        180,
        off=0.0,
    )
    crop: float = _setting(
        0.0,
        "fraction of images that are cropped at random instead of scaled and shifted; the crop is stretched to the "
        "input size, which changes its aspect ratio",
        0,
        1,
        off=0.0,
    )
    augment_ramp: float = _setting(
        40.0,
        "number of epochs in which the ranges of scale, shift, rotation, crop and color grow from 50 % to 100 %",
        0,
    )
    mosaic: float = _setting(
        0.5, "fraction of images that are mosaics of four images, once mosaics are fully phased in", 0, 1, off=0.0
    )
    mosaic_from: float = _setting(60.0, "epoch from which mosaics are phased in; a shorter run has no mosaics", 0)
    mosaic_off: float = _setting(0.15, "fraction of the run, at its end, without mosaics", 0, 1)
    min_visible: float = _setting(
        0.25, "after augmentation, a box is removed if less than this fraction of its area is visible", 0, 1
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_ordered("scale", self.scale)


@dataclass(frozen=True, kw_only=True)
class RunConfig(_Part):
    """Settings of a run: length, seed, batch size, evaluations, hardware and files."""

    minutes: float | None = _setting(
        None, "length of the run in minutes of wall time, from the command to the saved weights", 0.05
    )
    epochs: float | None = _setting(None, "length of the run in epochs: passes over the training images", 0.01)
    steps: int | None = _setting(None, "length of the run in optimizer steps", 1)
    seed: int = _setting(0, "seed of all random numbers", 0)
    batch: Literal["auto"] | int = _setting("auto", "batch size: number of images per step", 1, 4096)
    evaluations: Literal["auto"] | int = _setting(
        "auto", "number of evaluations on val during the run, including the evaluation at the end", 1
    )
    patience: int = _setting(
        0, "early stopping: stop after this many evaluations in a row without a better AP on val; 0: never", 0
    )
    precision: Literal["auto", "bf16", "fp32"] = _setting(
        "auto",
        "floating-point type of the network in training; auto: bf16 if the hardware computes in bf16, else fp32",
    )
    device: str = _setting("auto", "device for training: auto (a GPU if there is one), cpu, cuda, cuda:1 or mps")
    workers: int = _setting(
        1, "number of data loader threads; 0: no threads, each batch is built just before its step", 0, 16
    )
    save_every: float = _setting(
        5.0, "minutes between checkpoints for resuming, in addition to those at evaluations; 0: only at evaluations", 0
    )
    save_float16: bool = _setting(False, "save weights as float16: half the file size, nearly equal results")
    val_fraction: float = _setting(
        VAL_FRACTION,
        "if the dataset has no val split: fraction of the training images that are held back for evaluation; 0: none. "
        "At least 5 images and at most a third are held back, and none of fewer than 10",
        0,
        MAX_VAL_FRACTION,
    )
    allow_dropped: float = _setting(
        0.02,
        "a run does not start if more than this fraction of the boxes of a split (and more than 3) would be dropped",
        0,
        1,
    )
    ignore_check: bool = _setting(
        False, "start a run although the check of the data has a finding with the verdict stop"
    )
    allow_outside: bool = _setting(False, "whether a dataset may read files outside its folder")
    max_pixels: int = _setting(MAX_PIXELS, "largest number of pixels of an image that is decoded", 1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if sum(length is not None for length in (self.minutes, self.epochs, self.steps)) > 1:
            raise ConfigError("minutes, epochs, steps: set only one of them")

    @property
    def read_options(self) -> ReadOptions:
        """Options for reading a dataset, from the settings `allow_outside` and `max_pixels`."""
        return ReadOptions(allow_outside=self.allow_outside, max_pixels=self.max_pixels)


@dataclass(frozen=True, kw_only=True)
class ClassConfig(_Part):
    """Settings of how often images are shown, and of classes that a dataset does not label."""

    repeat_factor: float = _setting(
        0.0,
        "repeat-factor sampling: images with a class that is in less than this fraction t of the images are shown more "
        "often, by the factor sqrt(t / fraction) of their rarest class; an epoch keeps its number of images. 0: all "
        "images equally often",
        0,
        1,
        off=0.0,
    )
    max_background: float = _setting(
        0.25,
        "largest fraction of background images among the images of an epoch: if more of the training images have no "
        "objects, they are shown less often, and images with objects more often. 1: all images equally often",
        0,
        1,
        off=1.0,
    )
    missing_classes: Literal["unlabeled", "background"] = _setting(
        "unlabeled",
        "with several datasets: what a class is in the images of a dataset that does not have the class. unlabeled: "
        "objects of the class may be there without a label, so the images are neither background nor evaluated for the "
        "class; background: no object of the class is there",
    )


@dataclass(frozen=True, kw_only=True)
class UnlabeledConfig(_Part):
    """Settings of training with unlabeled images, which get pseudo-labels; without effect without `--unlabeled`."""

    unlabeled_start: float = _setting(
        0.5,
        "with --unlabeled: fraction of the run after which the averaged weights label the unlabeled images, and from "
        "which on these images are in each batch",
        0.01,
        0.99,
    )
    unlabeled_fraction: float = _setting(
        0.5, "with --unlabeled: fraction of the images of a batch that are images with pseudo-labels", 0.01, 0.99
    )
    unlabeled_score: Literal["by_class"] | float = _setting(
        "by_class",
        "with --unlabeled: score from which a detection becomes a pseudo-label; a detection with at least half of this "
        "score is an ignore region. by_class: chosen for each class, from its number of objects in the labeled images",
        0.05,
        1,
    )


@dataclass(frozen=True, kw_only=True)
class SuppressionConfig(_Part):
    """Settings of non-maximum suppression (NMS), which the trained detector uses unless a caller passes others."""

    suppression: SuppressionName = _setting(  # noqa: RUF009 (ruff does not see through the alias)
        "classic",
        "NMS variant: what happens to a box that overlaps a better box. classic: it is removed; soft: its score is "
        "lowered (Soft-NMS); diou: it is removed if the IoU minus a penalty for the distance of the centers is above "
        "the threshold (DIoU-NMS); weighted: its coordinates are averaged into the better box",
    )
    class_agnostic: bool = _setting(False, "whether boxes of different classes suppress each other")


@dataclass(frozen=True, kw_only=True)
class Config(
    NetworkConfig,
    InputSizeConfig,
    RunConfig,
    OptimizerConfig,
    LossConfig,
    AugmentConfig,
    ClassConfig,
    UnlabeledConfig,
    SuppressionConfig,
):
    """All settings of a training run.

    The value "auto" is resolved from the data and the machine. `config.json` in the output folder holds the result.
    """

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
    "Classes": ClassConfig,
    "Unlabeled images": UnlabeledConfig,
    "Non-maximum suppression": SuppressionConfig,
}
"""Heading in configs/README.md → the part with the settings below the heading."""


def turned_off(config: _Settings, *parts: type[_Part]) -> _Settings:
    """Return a copy of the settings with randomness and regularization turned off.

    Args:
        config: any settings.
        parts: turn off only settings of these parts; without parts, turn off all settings that can be turned off.
    """
    names = {setting.name for part in parts or (type(config),) for setting in fields(part)}
    off = {s.name: s.metadata["off"] for s in fields(config) if s.name in names and s.metadata["off"] is not None}
    return replace(config, **off)


def _check_ordered(name: str, pair: tuple[float, float]) -> None:
    """Raise ConfigError if the first number of a pair is larger than the second."""
    if pair[0] > pair[1]:
        raise ConfigError(f"{name}: the first number must not be above the second, got {list(pair)}")


def read_config(path: str | Path) -> Config:
    """Read a YAML file of settings and return the configuration; settings not in the file have their defaults.

    Raises:
        FileError: the file is missing or cannot be read.
        ConfigError: the file is not a flat mapping, or has an unknown key or an invalid value; the message names the
            line.
    """
    path = local_path(path)
    try:
        text = path.read_text(encoding="utf-8")
        values = yaml.safe_load(text)
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except FileNotFoundError:
        raise FileError(f"{path}: no such configuration file") from None
    except OSError as error:
        raise FileError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError, yaml.YAMLError) as error:  # ValueError: not UTF-8, an impossible date, ...
        raise ConfigError(f"{path}: cannot be read as YAML: {error}") from None
    if not isinstance(node, yaml.MappingNode | None):
        raise ConfigError(f"{path}: expected lines of `key: value`")
    lines: dict[str, int] = {}
    for key, _ in node.value if node else ():
        if lines.setdefault(key.value, line := key.start_mark.line + 1) != line:
            raise ConfigError(
                f"{location(path, line)}: '{key.value}' is already set in line {lines[key.value]}; set it once"
            )
    config = Config()
    for key, value in (values or {}).items():
        try:
            config = replace(config, **{str(key): parse_value(str(key), value)})
        except ConfigError as error:
            raise ConfigError(f"{location(path, lines.get(str(key)))}: {error}") from None
    return config


def config_of(values: Mapping[str, Any]) -> Config:
    """Convert a mapping made by `dataclasses.asdict`, or read from JSON, to a configuration.

    Settings that are missing in the mapping were added to this package later. They get the values with which the
    package behaves as before: their defaults, or those in `_BEFORE_ADDED`.

    Raises:
        ConfigError: an unknown setting, or an invalid value.
    """
    return Config(**{key: parse_value(key, value) for key, value in {**_BEFORE_ADDED, **values}.items()})


_BEFORE_ADDED: Mapping[str, Any] = {"qat_weight_bits": 8}
"""Setting → what the package did before the setting was added, if that is not its default."""


def override(config: Config, assignments: Iterable[str]) -> Config:
    """Return a copy of the configuration with `key=value` assignments applied; the values are written as in YAML.

    Raises:
        ConfigError: an assignment is malformed, its key unknown or its value invalid.

    >>> override(Config(), ["seed=3", "scale=[0.5, 2]"]).scale
    (0.5, 2.0)
    """
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals:
            raise ConfigError(f"--set {assignment:.100}: expected key=value")
        try:
            value = yaml.safe_load(text)
        except (ValueError, RecursionError, yaml.YAMLError):
            raise ConfigError(f"--set {assignment:.100}: the value is not valid YAML") from None
        config = replace(config, **{key.strip(): parse_value(key.strip(), value)})
    return config


def parse_value(key: str, value: Any) -> Any:
    """Convert a value that was read from YAML to the type of the setting `key`, and return the converted value.

    Raises:
        ConfigError: there is no setting `key`, or the value has the wrong type.
    """
    setting_types = _setting_types()
    if key not in setting_types:
        raise ConfigError(f"unknown setting '{key:.60}': {did_you_mean(key, setting_types)}")
    try:
        return _convert(value, setting_types[key])
    except TypeError:
        hint = decimal_hint(value) if isinstance(value, str) else ""
        raise ConfigError(f"{key}: expected {_describe(setting_types[key])}, got {shown(value)}{hint}") from None


@functools.cache
def _setting_types() -> dict[str, Any]:
    """Return setting name → type."""
    return typing.get_type_hints(Config)


def _convert(value: Any, kind: Any) -> Any:
    """Convert a value that was read from YAML to the type `kind` and return it, or raise TypeError."""
    origin, options = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        for option in options:
            try:
                return _convert(value, option)
            except TypeError:
                continue
    elif origin is Literal:
        if value in options:
            return value
    elif origin is tuple:
        if isinstance(value, list | tuple) and len(value) == len(options):
            return tuple(_convert(item, option) for item, option in zip(value, options, strict=True))
    elif kind is float:
        # YAML 1.1 parses 1e-3 (without a dot) as text.
        if isinstance(value, int | float | str) and not isinstance(value, bool):
            try:
                return float(value)
            except (ValueError, OverflowError):
                raise TypeError from None
    elif type(value) is kind:
        return value
    raise TypeError


def _describe(kind: Any) -> str:
    """Return a description of the values of a type, for messages."""
    origin, options = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_describe(option) for option in options)
    if origin is Literal:
        return " or ".join(str(option) for option in options)
    if origin is tuple:
        return "[" + ", ".join(_describe(option) for option in options) + "]"
    return {int: "a whole number", bool: "true or false", float: "a number", str: "text", types.NoneType: "null"}[kind]
