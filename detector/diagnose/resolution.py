"""Whether the canvas shows the objects, and the grid can answer for them."""

import numpy as np

from detector.boxes import area
from detector.config import Config
from detector.diagnose.finding import Finding
from detector.diagnose.objects import Objects
from detector.letterbox import CANVAS_STEP, canvas_of_aspect
from detector.loss.assigner import has_candidate
from detector.model.grid import STRIDES

_SMALLEST_SIDE = 3.0
"""Canvas pixels below which a side of a box shows next to nothing."""


def check_canvas(train: Objects, canvas_hw: tuple[int, int]) -> Finding:
    """Pictures should fill the canvas, and be neither enlarged nor shrunk out of sight."""
    sizes = np.array([annotation.image_hw for annotation in train.split.annotations], dtype=np.float64)
    scale = (np.array(canvas_hw) / sizes).min(axis=1)
    grey = 1 - float(np.mean(np.prod(sizes, axis=1) * scale**2)) / (canvas_hw[0] * canvas_hw[1])
    usual_scale = float(np.median(scale))
    long_side = _canvas_side(float(np.median(sizes.max(axis=1))))
    best = canvas_of_aspect(max(canvas_hw), float(np.median(sizes[:, 1] / sizes[:, 0])))
    small = float(np.sum(np.sqrt(area(train.on_canvas)) < 10)) / max(1, len(train.on_canvas))
    advice = ""
    if usual_scale > 1.5:
        advice = f"Pictures are enlarged, which costs time and shows nothing new: --imgsz {long_side}."
    elif usual_scale < 1 / 3 and small > 0.25:
        advice = f"{small:.0%} of the objects come out below 10 pixels: a larger --imgsz, up to {long_side}."
    elif grey > 0.25 and best != tuple(canvas_hw):
        advice = f"The pictures have another aspect: {best[1]}x{best[0]} would fit, --set canvas={list(best)}."
    elif grey > 0.25:
        advice = "The pictures have very different aspects; cut or split the longest ones."
    height, width = canvas_hw
    return Finding(
        "data: canvas",
        "look" if advice else "ok",
        f"{width}x{height} pixels, {max(grey, 0):.0%} of them grey; pictures at {usual_scale:.2f} times their size",
        "at most 25% grey, 0.33 to 1.5 times their size",
        advice,
    )


def check_small_objects(train: Objects, canvas_hw: tuple[int, int]) -> Finding:
    """Objects should be seen on the canvas."""
    sides = (train.on_canvas[:, 2:] - train.on_canvas[:, :2]).min(axis=1)
    share = float(np.mean(sides < _SMALLEST_SIDE)) if len(sides) else 0.0
    advice = ""
    if share > 0.05:
        wanted = _canvas_side(max(canvas_hw) * _SMALLEST_SIDE / float(np.quantile(sides, 0.05)))
        largest = _canvas_side(float(np.median([max(a.image_hw) for a in train.split.annotations])))
        if min(wanted, largest) > max(canvas_hw):
            advice = (
                f"--imgsz {min(wanted, largest)} would show {'95% of them' if wanted <= largest else 'more of them'}."
            )
        else:
            advice = "The pictures themselves show no more: cut them into tiles, or take pictures from nearer."
    return Finding(
        "data: small objects",
        "look" if advice else "ok",
        f"{share:.1%} of the objects have a side below {_SMALLEST_SIDE:g} pixels on the canvas",
        "at most 5%",
        advice,
    )


def check_points(train: Objects, config: Config) -> Finding:
    """Every object should have a point of the grid that can answer for it, and one of its own."""
    total = max(1, len(train.boxes))
    cells = config.head == "yolo_v1"
    without = 0 if cells else int(np.sum(~has_candidate(train.on_canvas, config.assign_reach)))
    stride = STRIDES[-1] if cells else STRIDES[0]
    centres = (train.on_canvas[:, :2] + train.on_canvas[:, 2:]) / 2
    places = np.column_stack([train.picture, (centres // stride).astype(np.int64)])
    crowded = len(places) - len(np.unique(places, axis=0))
    advice = ""
    if without:
        advice = "Raise assign_reach to 0.5 or more: with it every object has a candidate."
    elif crowded > 0.01 * total:
        advice = "Of objects with one centre some cannot be told apart: a larger --imgsz draws their centres apart."
    return Finding(
        "data: grid points",
        "stop" if without > 0.05 * total else "look" if advice else "ok",
        f"{without / total:.1%} of the objects have no point that may answer for them; "
        f"{crowded / total:.1%} share their cell of {stride} pixels with another one's centre",
        "none; at most 1%",
        advice,
    )


def _canvas_side(pixels: float) -> int:
    """Return the shortest side of a canvas with so many pixels, within what a setting may be."""
    return min(4096, int(np.ceil(pixels / CANVAS_STEP)) * CANVAS_STEP)
