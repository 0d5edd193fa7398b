"""Rank planted errors with cleanlab's ObjectLab, on the labels and detections of `plant_errors.py`, and print the same.

cleanlab (AGPL) is used as a black box, in an environment of its own. Its scores of swapped classes and badly located
boxes are per label. It has no score of spurious labels: that of badly located boxes is used. Its overlooked boxes are
the proposals of missing labels.

    python -m venv runs/cleanlab && runs/cleanlab/bin/pip install cleanlab
    python tools/compare_cleanlab.py --python runs/cleanlab/bin/python (and the arguments of plant_errors.py)
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from detector.arrays import Doubles
from detector.detections import Detections
from detector.reviewing.scores import LabelKind
from tools.plant_errors import Planted, Ranking, make_parser, run

_PROGRAM = """
import json, sys
import numpy as np
from cleanlab.object_detection import rank

low, high, data = json.load(sys.stdin)
labels, predictions = [], []
for boxes, classes, found in data:
    labels.append({"bboxes": np.array(boxes, float).reshape(-1, 4), "labels": np.array(classes, int)})
    predictions.append(np.empty(len(found), dtype=object))
    predictions[-1][:] = [np.array(rows, float).reshape(-1, 5) for rows in found]
common = {"labels": labels, "predictions": predictions}
scores = {
    "swapped": rank.compute_swap_box_scores(**common, high_probability_threshold=high),
    "loose": rank.compute_badloc_box_scores(**common, low_probability_threshold=low),
    "missing": rank.compute_overlooked_box_scores(**common, high_probability_threshold=high),
}
json.dump({name: [own.tolist() for own in values] for name, values in scores.items()}, sys.stdout)
"""


def rank(
    planted: Planted, found: dict[int, Detections], python: Path, low: float | None, high: float | None
) -> list[Ranking]:
    """Return the scores of ObjectLab for each image.

    Args:
        planted: the labels.
        found: image id → detections.
        python: the interpreter of an environment with cleanlab.
        low: smallest score of a detection that judges the place of a label; None: the default of cleanlab.
        high: smallest score of a detection that can be an overlooked object or show another class; None: the default of
            cleanlab.
    """
    annotations, classes = planted.split.annotations, len(planted.split.class_names)
    by_class = [_by_class(found[a.image_id], classes) for a in annotations]
    images = [
        (a.boxes.tolist(), a.class_ids.tolist(), [rows.tolist() for rows in own])
        for a, own in zip(annotations, by_class, strict=True)
    ]
    done = subprocess.run(
        [python, "-c", _PROGRAM], input=json.dumps((low, high, images)), stdout=subprocess.PIPE, text=True, check=True
    )
    # Low scores are bad. NaN means that cleanlab does not judge the label, or that the detection is no proposal.
    scores = {name: [-np.array(own, float) for own in values] for name, values in json.loads(done.stdout).items()}
    rankings = []
    for swapped, loose, missing, own in zip(*scores.values(), by_class, strict=True):
        order = np.argsort(-missing, kind="stable")[: np.count_nonzero(np.isfinite(missing))]
        placed = np.nan_to_num(loose, nan=-1.0)
        labels: dict[LabelKind, Doubles] = {
            "swapped": np.nan_to_num(swapped, nan=-1.0),
            "loose": placed,
            "spurious": placed,
        }
        rankings.append(Ranking(labels, missing[order], np.concatenate(own)[order, :4].astype(np.float32)))
    return rankings


def _by_class(found: Detections, classes: int) -> list[Any]:
    """Return for each class the [M, 5] boxes and scores of its detections."""
    rows = np.column_stack([found.boxes, found.scores]).astype(np.float64)
    return [rows[found.class_ids == class_id] for class_id in range(classes)]


def main(arguments: Sequence[str] | None = None) -> None:
    """Plant, train, rank with ObjectLab, and print how well the errors are found."""
    parser = make_parser(__doc__)
    parser.add_argument("--python", type=Path, required=True, help="the interpreter of an environment with cleanlab")
    parser.add_argument("--low", type=float, help="low_probability_threshold of cleanlab (default: that of cleanlab)")
    parser.add_argument("--high", type=float, help="high_probability_threshold of cleanlab (default: that of cleanlab)")
    options = parser.parse_args(arguments)
    run(options, partial(rank, python=options.python, low=options.low, high=options.high))


if __name__ == "__main__":
    main()
