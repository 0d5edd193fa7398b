"""Computes the bounding box of a COCO mask: a list of polygons, or a run-length encoding (RLE)."""

from collections.abc import Sequence
from itertools import accumulate

from detector.data.row_collector import Corners

_MAX_RUNS = 10_000_000
"""Largest number of runs in an RLE. A mask has at most one run per pixel."""


def mask_box(segmentation: object) -> Corners | None:
    """Return the bounding box (x1, y1, x2, y2) of a COCO segmentation in pixels, or None if it is not a valid mask.

    Args:
        segmentation: a list of polygons `[x1, y1, x2, y2, ...]`, or an RLE as a dictionary with `size` [height, width]
            and `counts`, which is a list of numbers or a compressed text.

    Source: Lin et al., COCO API (pycocotools), maskApi.c, functions rleFrString and rleToBbox.

    >>> mask_box([[2, 3, 8, 3, 8, 9]]), mask_box({"size": [4, 3], "counts": [5, 2, 5]})
    ((2.0, 3.0, 8.0, 9.0), (1.0, 1.0, 2.0, 3.0))
    """
    if isinstance(segmentation, list):
        return _polygon_box(segmentation)
    if isinstance(segmentation, dict):
        size, counts = segmentation.get("size"), segmentation.get("counts")
        if isinstance(counts, str):
            counts = _decompress(counts)
        if isinstance(counts, list) and isinstance(size, list) and all(type(n) is int for n in (*size, *counts)):
            return _rle_box(counts, size)
    return None


def _polygon_box(polygons: Sequence[object]) -> Corners | None:
    """Return the bounding box of all points of a list of polygons."""
    xs: list[float] = []
    ys: list[float] = []
    for polygon in polygons:
        if not isinstance(polygon, list) or len(polygon) % 2 or not all(type(n) in (int, float) for n in polygon):
            return None
        try:
            xs += map(float, polygon[::2])
            ys += map(float, polygon[1::2])
        except OverflowError:  # an integer that is too large for a float
            return None
    return (min(xs), min(ys), max(xs), max(ys)) if xs else None


def _rle_box(counts: Sequence[int], size: Sequence[int]) -> Corners | None:
    """Return the bounding box of an uncompressed RLE; pixels are numbered column by column.

    Args:
        counts: lengths of the runs; the first run is background.
        size: [height, width] of the mask.
    """
    if len(size) != 2 or size[0] < 1 or min(counts, default=0) < 0 or sum(counts) > size[0] * size[1]:
        return None
    height = size[0]
    ends = list(accumulate(counts))
    runs = [(start, end) for start, end in zip(ends[::2], ends[1::2], strict=False) if end > start]
    if not runs:
        return None
    # A run that continues in the next column covers the last row of its column and the first row of the next.
    tops = [0 if start // height != (end - 1) // height else start % height for start, end in runs]
    bottoms = [height if start // height != (end - 1) // height else (end - 1) % height + 1 for start, end in runs]
    left, right = runs[0][0] // height, (runs[-1][1] - 1) // height + 1
    return float(left), float(min(tops)), float(right), float(max(bottoms))


def _decompress(text: str) -> list[int] | None:
    """Return the run lengths of a compressed RLE, or None if the text is not one.

    A number has five bits per character, the lowest first, and is the difference from the number before the last.
    """
    counts: list[int] = []
    position = 0
    while position < len(text) and len(counts) < _MAX_RUNS:
        value = shift = 0
        more = True
        while more:
            if position == len(text) or not 48 <= ord(text[position]) < 112 or shift > 60:
                return None
            bits = ord(text[position]) - 48
            value |= (bits & 31) << shift
            more, shift, position = bool(bits & 32), shift + 5, position + 1
            if not more and bits & 16:
                value -= 1 << shift
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
    return counts
