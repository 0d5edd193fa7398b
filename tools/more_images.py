"""Compare two weights or input sizes on growing numbers of images: when do the images tell which is better?

    python tools/more_images.py --data scenes --first scenes 416 --second scenes 480 --images 120 400

The images are a random order of those of the split. `--data scenes` renders as many scenes as are asked for, which are
not those on which the shipped weights were trained.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from detector.data.open_data import open_data
from detector.data.scenes import scenes
from detector.data.split import Split
from detector.detections import coco_results
from detector.evaluating.evaluate import detect_split, ground_truth_of
from detector.metrics.matches import Matches, match_detections
from detector.metrics.paired import paired_difference
from detector.predict.detector import Detector
from tools.coverage import select_images

_RENDERED = "more"
"""Name of the split of rendered scenes."""


def read_split(data: str, split: str, images: int) -> Split:
    """Return the split; of `scenes`, a split with so many newly rendered images."""
    if data != "scenes":
        return open_data(data).read(split)
    scenes.SPLIT_SIZES[_RENDERED] = images
    return scenes.read_split(_RENDERED)


def detect(split: Split, weights: str, input_size: int) -> Matches:
    """Return the matches of the objects of a split and what the weights detect in it."""
    detected = detect_split(Detector.load(weights, input_size=input_size), split)
    return match_detections(ground_truth_of(detected.split), coco_results(detected.found, detected.split.category_ids))


def main() -> None:
    """Print a table with the verdict for each number of images."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="dataset, or scenes")
    parser.add_argument("--split", default="test", help="split of the dataset")
    for name in ("--first", "--second"):
        parser.add_argument(name, nargs=2, required=True, metavar=("WEIGHTS", "IMGSZ"), help="weights and input size")
    parser.add_argument("--images", type=int, nargs="+", required=True, help="numbers of images")
    parser.add_argument("--seed", type=int, default=0, help="seed of the order of the images")
    options = parser.parse_args()
    split = read_split(options.data, options.split, max(options.images))
    first, second = (detect(split, weights, int(size)) for weights, size in (options.first, options.second))
    order = np.random.default_rng(options.seed).permutation(len(first.image_ids))
    print("| images | difference of AP | 95 % interval | verdict |\n| --- | --- | --- | --- |")
    for count in options.images:
        chosen = np.sort(order[:count])
        difference = paired_difference(select_images(first, chosen), select_images(second, chosen))
        ap = difference.metrics["AP"]
        interval = "none" if ap.interval is None else ap.interval.signed()
        print(f"| {count} | {ap.value:+.3f} | {interval} | {difference.describe().removeprefix('verdict: ')} |")


if __name__ == "__main__":
    main()
