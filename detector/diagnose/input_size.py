"""Findings about the size of the network input: does it suit the images, and can the grid predict every object?"""

import numpy as np

from detector.boxes import area
from detector.config import Config, InputSizeConfig
from detector.diagnose.finding import Finding
from detector.diagnose.objects import Objects
from detector.letterbox import SIZE_DIVISOR, input_hw_for_aspect
from detector.loss.criterion import has_positive
from detector.model.make_network import prediction_strides

_MIN_SIDE = 3.0
"""An object with a side below this many input pixels contains almost no information."""


def diagnose_input_size(train: Objects, input_hw: tuple[int, int], config: InputSizeConfig) -> Finding:
    """Check that images fill at least 75% of the network input and are scaled by 0.33 to 1.5; return a finding.

    A smaller scale is accepted if at most 25% of the objects are then smaller than 10 input pixels. An automatic input
    size is never criticized: it is the best one that the program knows.
    """
    sizes = np.array([annotation.image_hw for annotation in train.split.annotations], dtype=np.float64)
    scales = (np.array(input_hw) / sizes).min(axis=1)
    padding = 1 - float(np.mean(np.prod(sizes, axis=1) * scales**2)) / (input_hw[0] * input_hw[1])
    scale = float(np.median(scales))
    full_side = _input_side(float(np.median(sizes.max(axis=1))))
    best_hw = input_hw_for_aspect(max(input_hw), float(np.median(sizes[:, 1] / sizes[:, 0])))
    small = float(np.sum(np.sqrt(area(train.input_boxes)) < 10)) / max(1, len(train.input_boxes))
    advice = ""
    if scale > 1.5 and full_side < max(input_hw):
        advice = f"Images are enlarged, which costs time and adds no detail: use --imgsz {full_side}."
    elif scale < 1 / 3 and small > 0.25:
        advice = (
            f"{small:.0%} of the objects are smaller than 10 input pixels: use a larger --imgsz, up to {full_side}."
        )
    elif padding > 0.25 and isinstance(config.input_size, tuple) and best_hw != input_hw:
        advice = f"The images have another aspect than the input: use --set input_size={list(best_hw)} (height, width)."
    height, width = input_hw
    if config.input_size == "auto":
        advice = ""
    return Finding(
        "data: input size",
        "look" if advice else "ok",
        f"{width}x{height} pixels, of which {max(padding, 0):.0%} are padding; images are scaled by {scale:.2f}",
        "at most 25% padding; images are scaled by 0.33 to 1.5",
        advice,
    )


def diagnose_small_objects(train: Objects, input_hw: tuple[int, int], config: InputSizeConfig) -> Finding:
    """Check that at most 5% of the objects have a side below 3 pixels in the network input, and return a finding.

    An automatic input size is never criticized.
    """
    sides = (train.input_boxes[:, 2:] - train.input_boxes[:, :2]).min(axis=1)
    fraction = float(np.mean(sides < _MIN_SIDE)) if len(sides) else 0.0
    advice = ""
    if fraction > 0.05 and config.input_size != "auto":
        needed = _input_side(max(input_hw) * _MIN_SIDE / float(np.quantile(sides, 0.05)))
        full_side = _input_side(float(np.median([max(a.image_hw) for a in train.split.annotations])))
        if min(needed, full_side) > max(input_hw):
            affected = "95% of the objects" if needed <= full_side else "more objects"
            advice = f"Use --imgsz {min(needed, full_side)}: then {affected} are large enough."
        else:
            advice = (
                "A larger input adds no detail to these images: cut the images into tiles, or take images from closer."
            )
    return Finding(
        "data: small objects",
        "look" if advice else "ok",
        f"{fraction:.1%} of the objects have a side below {_MIN_SIDE:g} pixels in the network input",
        "at most 5%",
        advice,
    )


def diagnose_grid_points(train: Objects, config: Config) -> Finding:
    """Check that every object has a candidate grid point or cell, and return a finding.

    The check also finds objects that the network cannot separate: at most 1% of the objects may have their center in
    the same cell as another object.
    """
    total = max(1, len(train.boxes))
    without = int(np.sum(~has_positive(train.input_boxes, config)))
    stride = prediction_strides(config)[0]
    centers = (train.input_boxes[:, :2] + train.input_boxes[:, 2:]) / 2
    cells = np.column_stack([train.image_index, (centers // stride).astype(np.int64)])
    crowded = len(cells) - len(np.unique(cells, axis=0))
    advice = ""
    if without:
        advice = "Use --set assign_radius=0.5 or more: then every object has a candidate."
    elif crowded > 0.01 * total and config.input_size != "auto":
        advice = "The network cannot separate objects with nearly the same center: use a larger --imgsz."
    return Finding(
        "data: grid points",
        "stop" if without > 0.05 * total else "look" if advice else "ok",
        f"{without / total:.1%} of the objects have no candidate grid point; "
        f"{crowded / total:.1%} have their center in the same cell of {stride} pixels as another object",
        "no object without a candidate; at most 1% in the same cell",
        advice,
    )


def _input_side(pixels: float) -> int:
    """Return the smallest side of a network input with at least `pixels` pixels; 4096 at most."""
    return min(4096, int(np.ceil(pixels / SIZE_DIVISOR)) * SIZE_DIVISOR)
