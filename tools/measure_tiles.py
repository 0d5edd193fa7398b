"""Measure what tiles find in a large image: all images of a split beside and above each other, scored one by one.

    python tools/measure_tiles.py --data datasets/bccd.yaml --weights cells --tile 640

What is found in the large image is cut up again and scored on the images it was made of, by COCO's rules. The first
row, each image on its own, is about what tiles could reach at best. Seconds are those of a look at the default
thresholds.
"""

import argparse
import contextlib
import io
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from math import ceil, sqrt
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from detector.arrays import ImageArray
from detector.data.open_data import open_data
from detector.data.split import Split
from detector.detections import Detections
from detector.errors import InputError
from detector.evaluating.evaluate import COCO_MAX_DETECTIONS, LOWEST_SCORE, check_classes, score_split
from detector.letterbox import FILL
from detector.options import IOU_THRESHOLD
from detector.predict.detector import BATCH, Detector
from detector.predict.tiling import ViewPlan, merge

Corners = Mapping[int, tuple[int, int]]
"""Image id → left and top of its image in the large one."""

Found = Mapping[int, Detections]
"""Image id → what was found in its image."""


def main() -> int:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--split", default="test")
    parser.add_argument("--weights", required=True)
    parser.add_argument("--tile", type=int, default=640, help="long side of a tile in pixels")
    parser.add_argument("--overlap", type=float, nargs="+", default=[0.1, 0.2, 0.3])
    parser.add_argument("--mirror", action="store_true", help="look at everything mirrored too")
    options = parser.parse_args()
    try:
        detector, split = Detector.load(options.weights), open_data(options.data).read(options.split)
        check_classes(detector, split)
        large, corners, size_hw = build(split)
        print(f"{len(corners)} images of {size_hw[1]} x {size_hw[0]} in one of {large.shape[1]} x {large.shape[0]}\n")
        print("| looked at | overlap | AP | AP50 | recall | seconds |\n| --- | --- | --- | --- | --- | --- |")
        for what, overlap, found, seconds in look(detector, large, corners, size_hw, options):
            with contextlib.redirect_stdout(io.StringIO()):
                ap = score_split(split, dict(found))
            numbers = " | ".join(f"{value:.3f}" for value in (ap.AP, ap.AP50, ap.AR100))
            print(f"| {what} | {overlap} | {numbers} | {seconds} |", flush=True)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def build(split: Split) -> tuple[ImageArray, Corners, tuple[int, int]]:
    """Return all images of a split in one, where each of them lies, and their size.

    Raises:
        InputError: they differ in size.
    """
    sizes = {annotation.image_hw for annotation in split.annotations}
    if len(sizes) != 1:
        raise InputError(f"expected images of one size, got {len(sizes)} sizes")
    [(height, width)] = sizes
    columns = ceil(sqrt(len(split.annotations)))
    rows = ceil(len(split.annotations) / columns)
    large = np.full((rows * height, columns * width, 3), FILL, dtype=np.uint8)
    corners = {}
    for number, annotation in enumerate(split.annotations):
        left, top = number % columns * width, number // columns * height
        large[top : top + height, left : left + width] = split.read_image(annotation)
        corners[annotation.image_id] = (left, top)
    return large, corners, (height, width)


def look(
    detector: Detector, large: ImageArray, corners: Corners, size_hw: tuple[int, int], options: argparse.Namespace
) -> Iterator[tuple[str, str, Found, str]]:
    """Yield what was looked at, the overlap of the tiles, what was found, and seconds, for each way to look."""
    height, width = size_hw
    asked = {"score_threshold": LOWEST_SCORE, "every_class": True, "mirror": options.flip}

    def seconds(images: Sequence[ImageArray], **views: Any) -> str:
        begun = time.perf_counter()
        for image in images:
            detector.detect(image, flip=options.flip, **views)
        return f"{time.perf_counter() - begun:.2f}"

    images = {image_id: large[top : top + height, left : left + width] for image_id, (left, top) in corners.items()}
    alone = {
        image_id: detector.detect(image, max_detections=COCO_MAX_DETECTIONS, **asked)
        for image_id, image in images.items()
    }
    yield "each image on its own", "", alone, seconds([*images.values()])
    asked["max_detections"] = most = COCO_MAX_DETECTIONS * len(corners)
    yield "the whole", "", cut_up(detector.detect(large, **asked), corners, size_hw), seconds([large])
    for overlap in options.overlap:
        plan = ViewPlan(BATCH, options.tile, overlap, options.flip)
        count, found = look_at_tiles(detector, large, plan, most)
        yield f"{count} tiles", str(overlap), cut_up(found, corners, size_hw), ""
        tiles = {"tile": options.tile, "overlap": overlap}
        found = detector.detect(large, **tiles, **asked)
        yield f"{count} tiles and the whole", str(overlap), cut_up(found, corners, size_hw), seconds([large], **tiles)


def look_at_tiles(detector: Detector, large: ImageArray, plan: ViewPlan, most: int) -> tuple[int, Detections]:
    """Return how many tiles there are, and what is found in them alone; `Detector.detect` looks at the whole too."""
    whole, *others = plan.views((large.shape[0], large.shape[1]), detector.input_hw)
    tiles = [view for view in others if view.sides != whole.sides]
    nothing = np.zeros(0, dtype=np.float32)
    found = [Detections(nothing.reshape(0, 4), nothing, nothing.astype(np.int64), detector.class_names)]
    for start in range(0, len(tiles), plan.batch):
        cuts = [view.cut(large, detector.input_hw) for view in tiles[start : start + plan.batch]]
        found += detector.detect_letterboxed(cuts, score_threshold=LOWEST_SCORE, every_class=True, max_detections=most)
    return len(tiles), merge([whole, *tiles], found, IOU_THRESHOLD, most, class_agnostic=False)


def cut_up(found: Detections, corners: Corners, size_hw: tuple[int, int]) -> Found:
    """Give each image the detections whose center lies in it, in its own pixels; at most so many as COCO counts."""
    centers = (found.boxes[:, :2] + found.boxes[:, 2:]) / 2
    each = {}
    for image_id, corner in corners.items():
        inside = np.all((centers >= corner) & (centers - corner < size_hw[::-1]), axis=1)
        taken = np.flatnonzero(inside)[:COCO_MAX_DETECTIONS]
        boxes = found.boxes[taken] - np.array(corner * 2, dtype=np.float32)
        each[image_id] = Detections(boxes, found.scores[taken], found.class_ids[taken], found.class_names)
    return each


if __name__ == "__main__":
    sys.exit(main())
