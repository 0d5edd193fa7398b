"""Whether the canvas shows the objects, and the grid can answer for them."""

import numpy as np

from detector.boxes import area
from detector.config import Config
from detector.diagnose.finding import Finding
from detector.diagnose.objects import Objects
from detector.letterbox import SIZE_DIVISOR, input_hw_for_aspect
from detector.loss.assigner import has_candidate
from detector.model.grid import STRIDES

_SMALLEST_SIDE = 3.0
"""Canvas pixels below which a side of a box shows next to nothing."""


def check_canvas(train: Objects, input_hw: tuple[int, int]) -> Finding:
    """Images should fill the canvas, and be neither enlarged nor shrunk out of sight."""
    sizes = np.array([annotation.image_hw for annotation in train.split.annotations], dtype=np.float64)
    scale = (np.array(input_hw) / sizes).min(axis=1)
    gray = 1 - float(np.mean(np.prod(sizes, axis=1) * scale**2)) / (input_hw[0] * input_hw[1])
    usual_scale = float(np.median(scale))
    long_side = _input_side(float(np.median(sizes.max(axis=1))))
    best = input_hw_for_aspect(max(input_hw), float(np.median(sizes[:, 1] / sizes[:, 0])))
    small = float(np.sum(np.sqrt(area(train.input_boxes)) < 10)) / max(1, len(train.input_boxes))
    advice = ""
    if usual_scale > 1.5:
        advice = f"Images are enlarged, which costs time and shows nothing new: --imgsz {long_side}."
    elif usual_scale < 1 / 3 and small > 0.25:
        advice = f"{small:.0%} of the objects come out below 10 pixels: a larger --imgsz, up to {long_side}."
    elif gray > 0.25 and best != tuple(input_hw):
        advice = f"The images have another aspect: {best[1]}x{best[0]} would fit, --set input_size={list(best)}."
    elif gray > 0.25:
        advice = "The images have very different aspects; cut or split the longest ones."
    height, width = input_hw
    return Finding(
        "data: canvas",
        "look" if advice else "ok",
        f"{width}x{height} pixels, {max(gray, 0):.0%} of them gray; images at {usual_scale:.2f} times their size",
        "at most 25% gray, 0.33 to 1.5 times their size",
        advice,
    )


def check_small_objects(train: Objects, input_hw: tuple[int, int]) -> Finding:
    """Objects should be seen on the canvas."""
    sides = (train.input_boxes[:, 2:] - train.input_boxes[:, :2]).min(axis=1)
    fraction = float(np.mean(sides < _SMALLEST_SIDE)) if len(sides) else 0.0
    advice = ""
    if fraction > 0.05:
        wanted = _input_side(max(input_hw) * _SMALLEST_SIDE / float(np.quantile(sides, 0.05)))
        largest = _input_side(float(np.median([max(a.image_hw) for a in train.split.annotations])))
        if min(wanted, largest) > max(input_hw):
            advice = (
                f"--imgsz {min(wanted, largest)} would show {'95% of them' if wanted <= largest else 'more of them'}."
            )
        else:
            advice = "The images themselves show no more: cut them into tiles, or take images from nearer."
    return Finding(
        "data: small objects",
        "look" if advice else "ok",
        f"{fraction:.1%} of the objects have a side below {_SMALLEST_SIDE:g} pixels on the canvas",
        "at most 5%",
        advice,
    )


def check_points(train: Objects, config: Config) -> Finding:
    """Every object should have a point of the grid that can answer for it, and one of its own."""
    total = max(1, len(train.boxes))
    cells = config.head == "yolo_v1"
    without = 0 if cells else int(np.sum(~has_candidate(train.input_boxes, config.assign_radius)))
    stride = STRIDES[-1] if cells else STRIDES[0]
    centers = (train.input_boxes[:, :2] + train.input_boxes[:, 2:]) / 2
    places = np.column_stack([train.image, (centers // stride).astype(np.int64)])
    crowded = len(places) - len(np.unique(places, axis=0))
    advice = ""
    if without:
        advice = "Raise assign_radius to 0.5 or more: with it every object has a candidate."
    elif crowded > 0.01 * total:
        advice = "Of objects with one center some cannot be told apart: a larger --imgsz draws their centers apart."
    return Finding(
        "data: grid points",
        "stop" if without > 0.05 * total else "look" if advice else "ok",
        f"{without / total:.1%} of the objects have no point that may answer for them; "
        f"{crowded / total:.1%} share their cell of {stride} pixels with another one's center",
        "none; at most 1%",
        advice,
    )


def _input_side(pixels: float) -> int:
    """Return the shortest side of an input with so many pixels, within what a setting may be."""
    return min(4096, int(np.ceil(pixels / SIZE_DIVISOR)) * SIZE_DIVISOR)
