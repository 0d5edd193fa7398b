from pathlib import Path

import numpy as np
import pytest
from faster_coco_eval import COCO, COCOeval_faster

from detector.analysis.outcome import match_image
from detector.annotation import Annotation
from detector.arrays import Floats, Ints
from detector.boxes import area, to_xywh


def objects(boxes: Floats, class_ids: Ints, is_crowd: list[bool]) -> Annotation:
    return Annotation(1, Path("a.png"), (100, 100), boxes, class_ids, np.array(is_crowd, np.bool_), area(boxes))


def coco_recall_and_precision(boxes: Floats, class_ids: Ints, truth: Annotation) -> tuple[Floats, Floats]:
    """Return recall and precision [2] of each class after all detections, at IoU 0.5, of COCO's evaluation."""
    rows = [
        {"id": index, "image_id": 1, "category_id": int(class_id), "bbox": box, "area": 1.0, "iscrowd": int(crowd)}
        for index, (box, class_id, crowd) in enumerate(
            zip(to_xywh(truth.boxes.astype(np.float64)).tolist(), truth.class_ids, truth.is_crowd, strict=True), 1
        )
    ]
    categories = [{"id": 0, "name": "a"}, {"id": 1, "name": "b"}]
    coco = COCO({"info": {}, "images": [{"id": 1}], "annotations": rows, "categories": categories})
    results = [
        {"image_id": 1, "category_id": int(class_id), "bbox": box, "score": 1 - index / 1000}
        for index, (box, class_id) in enumerate(zip(to_xywh(boxes.astype(np.float64)).tolist(), class_ids, strict=True))
    ]
    evaluation = COCOeval_faster(coco, coco.loadRes(results), iouType="bbox")
    evaluation.params.maxDets = [1000]
    evaluation.params.iouThrs = np.array([0.5])
    evaluation.evaluate()
    evaluation.accumulate()
    recall = evaluation.eval["recall"][0, :, 0, 0]
    # The precision at the last recall that is reached: recall levels are 0, 0.01, ..., 1.
    precision = evaluation.eval["precision"][0, :, :, 0, 0]
    return recall, precision


@pytest.mark.parametrize("seed", range(20))
def test_found_objects_are_those_of_coco(seed: int) -> None:
    rng = np.random.default_rng(seed)
    corners = rng.integers(0, 60, size=(12, 2))
    boxes = np.concatenate([corners, corners + rng.integers(8, 40, size=(12, 2))], axis=1).astype(np.float32)
    truth = objects(boxes, rng.integers(2, size=12), [index < 2 for index in range(12)])
    found = boxes[rng.integers(12, size=40)] + rng.normal(0, 4, size=(40, 4)).astype(np.float32)
    found[:, 2:] = np.maximum(found[:, 2:], found[:, :2] + 1)
    class_ids = rng.integers(2, size=40)
    matches = match_image(found, class_ids, truth)
    recall, precision = coco_recall_and_precision(found, class_ids, truth)
    for class_id in range(2):
        is_class = (truth.class_ids == class_id) & ~truth.is_crowd
        hits = int(matches.found[is_class].sum())
        assert hits / is_class.sum() == pytest.approx(recall[class_id])
        # COCO's precision is the largest precision at this recall or beyond: that just after the last hit.
        own = class_ids == class_id
        last = int(np.flatnonzero(own & (matches.objects >= 0)).max(initial=-1))
        if last < 0:
            continue
        wrong = own & (matches.objects < 0) & ~matches.ignored
        level = int(recall[class_id] * 100 + 1e-9)
        assert hits / (hits + wrong[: last + 1].sum()) == pytest.approx(precision[level, class_id])


def test_detection_in_crowd_needs_half_its_area_inside() -> None:
    truth = objects(np.array([[0, 0, 50, 100]], np.float32), np.array([0]), [True])
    boxes = np.array([[30, 0, 70, 10], [31, 0, 71, 10], [10, 10, 20, 20]], np.float32)
    matches = match_image(boxes, np.array([0, 0, 1]), truth)
    assert matches.ignored.tolist() == [True, False, False]
    assert matches.false_positives.tolist() == [1, 2]
