"""Measure weights that were trained on the photographs of `everyday`.

    python tools/everyday/measure.py --data everyday-data --weights everyday.safetensors

`--data` is the folder that `prepare.py` has written. Printed are the agreement with the proposed boxes on the tenth
that was held back (nobody checked these boxes), AP of the classes with a COCO name on the own boxes of the sources that
were held back, and AP there without regard to classes.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from detector.data.open_data import open_data
from detector.detections import coco_results
from detector.evaluating.evaluate import EVALUATION_OPTIONS, detect_split, ground_truth_of
from detector.metrics.average_precision import AveragePrecision, average_precision
from detector.predict.detector import Detector


def measure(detector: Detector, path: Path) -> AveragePrecision:
    """Return the metrics on a label file; classes without objects do not count."""
    detected = detect_split(detector, _read(path))
    return average_precision(ground_truth_of(detected.split), coco_results(detected.found, detected.split.category_ids))


def measure_without_classes(detector: Detector, path: Path) -> AveragePrecision:
    """Return the metrics if all objects and all detections have the same class."""
    options = replace(EVALUATION_OPTIONS, class_agnostic=True, multi_label=False)
    detected = detect_split(detector, _read(path), options)
    truth = ground_truth_of(detected.split)
    one: dict[str, Any] = {
        "images": [{key: image[key] for key in ("id", "height", "width")} for image in truth["images"]],
        "annotations": [row | {"category_id": 1} for row in truth["annotations"]],
        "categories": [{"id": 1, "name": "object"}],
    }
    rows = [row | {"category_id": 1} for row in coco_results(detected.found, detected.split.category_ids)]
    return average_precision(one, rows)


def _read(path: Path) -> Any:
    """Return the split of a label file."""
    data = open_data(path, allow_outside=True)
    return data.read(data.split_names[0])


def main() -> None:
    """Print the numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder that prepare.py has written")
    parser.add_argument("--weights", required=True, help="weights")
    parser.add_argument("--imgsz", type=int, help="input size; default: that of the weights")
    parser.add_argument("--all", action="store_true", help="print every class")
    options = parser.parse_args()
    detector = Detector.load(options.weights, input_size=options.imgsz)
    for name in ("agreement", "test"):
        own = measure(detector, options.data / f"{name}.json")
        print(f"{name}: AP {own.AP:.3f} AP50 {own.AP50:.3f}")
        classes = sorted(own.per_class.items(), key=lambda item: -item[1]["AP"])
        for label, values in classes:
            if values["objects"] and ("/" not in label or options.all):
                print(f"  {label:24} AP {values['AP']:.3f} AP50 {values['AP50']:.3f} {values['objects']:.0f} objects")
    own = measure_without_classes(detector, options.data / "test.json")
    print(f"test without classes: AP {own.AP:.3f} AP50 {own.AP50:.3f} AR100 {own.AR100:.3f}")


if __name__ == "__main__":
    main()
