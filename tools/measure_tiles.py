"""Measure the AP of tiling on one large image, in which all images of a split are placed side by side in rows.

    python tools/measure_tiles.py --data datasets/bccd.yaml --weights cells --tile 640

Each detection in the large image is assigned to the image of the split that contains its center, and scored with COCO's
metrics. For the first row of the table, the detector runs on each image of the split separately: this is about the best
AP that tiling can reach. The seconds are measured with the default thresholds.
"""

import argparse
import contextlib
import io
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from math import ceil, sqrt
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from detector.arrays import ImageArray
from detector.data.open_data import open_data
from detector.data.split import Split
from detector.detections import Detections
from detector.errors import InputError
from detector.evaluating.evaluate import EVALUATION_OPTIONS, check_classes, score_split
from detector.letterbox import FILL
from detector.options import DetectOptions
from detector.predict.detector import Detector
from detector.predict.tiling import merge_views, views_of


@dataclass(frozen=True, eq=False)
class LargeImage:
    """One large image in which all images of a split are placed side by side in rows.

    Attributes:
        image: [H, W, 3] RGB, the large image.
        corners: image id of the split → (left, top) of this image in the large image, in pixels.
        part_hw: (height, width) of each image of the split.
    """

    image: ImageArray
    corners: Mapping[int, tuple[int, int]]
    part_hw: tuple[int, int]

    def parts(self) -> Iterator[tuple[int, ImageArray]]:
        """Yield (image id, pixels [h, w, 3]) of each image of the split."""
        height, width = self.part_hw
        for image_id, (left, top) in self.corners.items():
            yield image_id, self.image[top : top + height, left : left + width]


@dataclass(frozen=True, eq=False)
class Row:
    """One row of the table.

    Attributes:
        views: text that describes what the detector runs on.
        overlap: overlap of the tiles as a fraction of a tile, as text; empty without tiles.
        found: image id of the split → detections.
        seconds: time for all images, as text; empty if it is not measured.
    """

    views: str
    overlap: str
    found: Mapping[int, Detections]
    seconds: str


def main() -> int:
    """Measure AP and time, print the table, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="dataset")
    parser.add_argument("--split", default="test", help="split of the dataset (default: %(default)s)")
    parser.add_argument("--weights", required=True, help="weights file, or the name of shipped weights")
    parser.add_argument("--tile", type=int, default=640, help="long side of a tile in pixels (default: %(default)s)")
    parser.add_argument(
        "--overlap", type=float, nargs="+", default=[0.1, 0.2, 0.3], help="overlaps to measure, as fractions of a tile"
    )
    parser.add_argument("--tta", action="store_true", help="use flip test-time augmentation in all rows")
    args = parser.parse_args()
    try:
        detector, split = Detector.load(args.weights), open_data(args.data).read(args.split)
        check_classes(detector, split)
        large = join_images(split)
        (height, width), (part_height, part_width) = large.image.shape[:2], large.part_hw
        print(f"{len(large.corners)} images of {part_width} x {part_height} in one of {width} x {height}\n")
        print("| views | overlap | AP | AP50 | recall | seconds |\n| --- | --- | --- | --- | --- | --- |")
        for row in measure(detector, large, args.tile, args.overlap, tta=args.tta):
            with contextlib.redirect_stdout(io.StringIO()):
                ap = score_split(split, dict(row.found))
            numbers = " | ".join(f"{value:.3f}" for value in (ap.AP, ap.AP50, ap.AR100))
            print(f"| {row.views} | {row.overlap} | {numbers} | {row.seconds} |", flush=True)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def join_images(split: Split) -> LargeImage:
    """Decode all images of a split and return the large image.

    Raises:
        InputError: the images have different sizes, or an image cannot be decoded.
    """
    sizes = {annotation.image_hw for annotation in split.annotations}
    if len(sizes) != 1:
        raise InputError(f"--data: expected images of the same size, got images of {len(sizes)} different sizes")
    [(height, width)] = sizes
    columns = ceil(sqrt(len(split.annotations)))
    rows = ceil(len(split.annotations) / columns)
    image = np.full((rows * height, columns * width, 3), FILL, dtype=np.uint8)
    corners = {}
    for number, annotation in enumerate(split.annotations):
        left, top = number % columns * width, number // columns * height
        image[top : top + height, left : left + width] = split.read_image(annotation)
        corners[annotation.image_id] = (left, top)
    return LargeImage(image, corners, (height, width))


def measure(detector: Detector, large: LargeImage, tile: int, overlaps: list[float], *, tta: bool) -> Iterator[Row]:
    """Run the detector on each image, on the large image, and on tiles of the large image, and yield one row for each.

    Args:
        detector: detector with loaded weights.
        large: the large image.
        tile: long side of a tile in pixels.
        overlaps: overlaps of the tiles, as fractions of a tile.
        tta: whether to use flip test-time augmentation.
    """
    options = replace(EVALUATION_OPTIONS, tta=tta)
    timed = DetectOptions(tta=tta)
    separate = {image_id: detect(detector, image, options) for image_id, image in large.parts()}
    yield Row("each image on its own", "", separate, seconds(detector, [image for _, image in large.parts()], timed))

    options = replace(options, max_detections=EVALUATION_OPTIONS.max_detections * len(large.corners))
    found = assign_to_images(detect(detector, large.image, options), large)
    yield Row("whole image", "", found, seconds(detector, [large.image], timed))
    for overlap in overlaps:
        tiled = replace(options, tile=tile, tile_overlap=overlap)
        count, in_tiles = detect_in_tiles(detector, large.image, tiled)
        yield Row(f"{count} tiles", str(overlap), assign_to_images(in_tiles, large), "")
        found = assign_to_images(detect(detector, large.image, tiled), large)
        time_taken = seconds(detector, [large.image], replace(timed, tile=tile, tile_overlap=overlap))
        yield Row(f"{count} tiles and the whole image", str(overlap), found, time_taken)


def detect(detector: Detector, image: ImageArray, options: DetectOptions) -> Detections:
    """Detect objects in an image [H, W, 3] and return the detections.

    Raises:
        InputError: the number of tiles would be too large.
    """
    [result] = detector.detect_with_images([image], options)
    if isinstance(result, InputError):
        raise result
    return result[1]


def seconds(detector: Detector, images: Sequence[ImageArray], options: DetectOptions) -> str:
    """Run the detector on one image after the other, and return the total time in seconds as text."""
    begun = time.perf_counter()
    for image in images:
        detect(detector, image, options)
    return f"{time.perf_counter() - begun:.2f}"


def detect_in_tiles(detector: Detector, image: ImageArray, options: DetectOptions) -> tuple[int, Detections]:
    """Run the detector only on the tiles of an image, and return the number of tiles and the merged detections.

    `Detector.detect` with tiling runs on the tiles and on the whole image.
    """
    whole, *others = views_of((image.shape[0], image.shape[1]), detector.input_hw, options)
    tiles = [view for view in others if view.sides != whole.sides]
    empty = np.zeros(0, dtype=np.float32)
    found = [Detections(empty.reshape(0, 4), empty, empty.astype(np.int64), detector.class_names)]
    inputs = (view.letterbox(image, detector.input_hw) for view in tiles)
    while batch := list(islice(inputs, options.batch_size)):
        found += detector.detect_letterboxed(batch, options)
    return len(tiles), merge_views([whole, *tiles], found, replace(options, class_agnostic=False))


def assign_to_images(found: Detections, large: LargeImage) -> dict[int, Detections]:
    """Assign each detection in the large image to the image of the split that contains the center of the box.

    Args:
        found: detections in the large image, highest score first.
        large: the large image.

    Returns:
        Image id of the split → at most 100 detections (COCO's limit per image), with boxes in pixels of this image.
    """
    centers = (found.boxes[:, :2] + found.boxes[:, 2:]) / 2
    by_image = {}
    for image_id, corner in large.corners.items():
        is_inside = np.all((centers >= corner) & (centers - corner < large.part_hw[::-1]), axis=1)
        chosen = np.flatnonzero(is_inside)[: EVALUATION_OPTIONS.max_detections]
        boxes = found.boxes[chosen] - np.array(corner * 2, dtype=np.float32)
        by_image[image_id] = Detections(boxes, found.scores[chosen], found.class_ids[chosen], found.class_names)
    return by_image


if __name__ == "__main__":
    sys.exit(main())
