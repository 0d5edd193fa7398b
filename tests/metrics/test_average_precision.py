from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from detector.detections import Detections, coco_results
from detector.errors import InputError
from detector.metrics.average_precision import (
    average_precision,
    average_precision_unchecked,
    crowded_images_note,
    many_detections,
)

SQUARE = [10, 10, 40, 40]


def truth(*annotations: Mapping[str, Any], images: int = 3) -> dict[str, Any]:
    return {
        "images": [{"id": i, "height": 200, "width": 200} for i in range(1, images + 1)],
        "annotations": [{"id": i, "category_id": 5, **row} for i, row in enumerate(annotations, start=1)],
        "categories": [{"id": 5, "name": "cat"}, {"id": 9, "name": "dog"}],
    }


def result(image_id: Any, score: Any, bbox: Any, category_id: int = 5) -> dict[str, Any]:
    return {"image_id": image_id, "category_id": category_id, "bbox": bbox, "score": score}


def test_metrics_match_a_case_computed_by_hand() -> None:
    """Two objects; a true positive, a false positive, and a detection with IoU 0.625, a true positive up to 0.60.

    At the IoU thresholds 0.50, 0.55 and 0.60, precision is 1 up to recall 1/2 (51 of COCO's 101 recall levels) and 2/3
    beyond (50 levels). At the other seven, only the first detection is correct: 1 up to recall 1/2, then 0.
    """
    objects = {"image_id": 1, "bbox": SQUARE}, {"image_id": 2, "bbox": SQUARE}
    results = [result(1, 0.9, SQUARE), result(1, 0.8, [100, 100, 40, 40]), result(2, 0.7, [10, 10, 40, 25])]
    ap = average_precision(truth(*objects), results)
    ap_low_iou, ap_high_iou = (51 + 50 * 2 / 3) / 101, 51 / 101
    assert pytest.approx(ap_low_iou) == ap.AP50
    assert pytest.approx(ap_high_iou) == ap.AP75
    assert pytest.approx((3 * ap_low_iou + 7 * ap_high_iou) / 10) == ap.AP
    assert pytest.approx((3 * 1 + 7 * 0.5) / 10) == ap.AR100
    assert pytest.approx(ap.AP) == ap.APm  # 1600 square pixels
    assert ap.APs == ap.APl == -1
    assert ap.per_class["cat"] == pytest.approx({"AP": ap.AP, "AP50": ap.AP50, "objects": 2})


@pytest.mark.parametrize("first", [2**53, 20230101123456789, 2**62])
def test_large_image_ids_change_no_metric(first: int) -> None:
    objects = [{"image_id": i, "bbox": [10 * i, 10, 40, 40]} for i in (1, 2, 3)]
    results = [result(1, 0.9, [10, 10, 40, 40]), result(2, 0.8, [21, 10, 40, 40]), result(3, 0.7, [90, 90, 40, 40])]
    large = truth(*({**row, "image_id": first + row["image_id"]} for row in objects))  # type: ignore[operator]
    large["images"] = [{**image, "id": first + image["id"]} for image in large["images"]]
    moved = [{**row, "image_id": first + row["image_id"]} for row in results]
    assert average_precision(large, moved) == average_precision(truth(*objects), results)
    assert many_detections(large, moved, 300) == many_detections(truth(*objects), results, 300)


def test_the_mean_over_classes_ignores_classes_without_objects() -> None:
    ap = average_precision(truth({"image_id": 1, "bbox": SQUARE}), [result(1, 0.9, SQUARE), result(1, 0.8, SQUARE, 9)])
    assert pytest.approx(1) == ap.AP
    assert ap.per_class["dog"] == {"AP": -1.0, "AP50": -1.0, "objects": 0}


def test_classes_of_the_same_name_are_listed_with_their_ids() -> None:
    ground_truth = truth({"image_id": 1, "bbox": SQUARE})
    ground_truth["categories"] = [{"id": 5, "name": "cat"}, {"id": 9, "name": "cat"}]
    assert set(average_precision(ground_truth, [result(1, 0.9, SQUARE)]).per_class) == {"cat (5)", "cat (9)"}


def test_a_crowd_region_is_neither_object_nor_false_positive() -> None:
    crowd = {"image_id": 1, "bbox": [100, 100, 80, 80], "iscrowd": 1, "area": 6400}
    one = {"image_id": 1, "bbox": SQUARE, "area": 1600}
    inside = [result(1, 0.95, [110, 110, 20, 20]), result(1, 0.94, [140, 110, 20, 20])]
    with_crowd = average_precision(truth(one, crowd), [*inside, result(1, 0.9, SQUARE)])
    assert pytest.approx(1) == with_crowd.AP
    assert with_crowd.per_class["cat"]["objects"] == 1
    without = average_precision(truth(one), [*inside, result(1, 0.9, SQUARE)])
    assert pytest.approx(1 / 3) == without.AP


def test_a_second_detection_of_an_object_is_a_false_positive() -> None:
    objects = {"image_id": 1, "bbox": SQUARE}, {"image_id": 2, "bbox": SQUARE}
    ap = average_precision(truth(*objects), [result(1, 0.9, SQUARE), result(1, 0.8, SQUARE), result(2, 0.7, SQUARE)])
    assert pytest.approx((51 + 50 * 2 / 3) / 101) == ap.AP


def test_without_detections_the_metrics_are_zero() -> None:
    ap = average_precision(truth({"image_id": 1, "bbox": SQUARE}), [])
    assert ap.AP == ap.AP50 == ap.AR100 == ap.APm == 0
    assert ap.APs == -1


@pytest.mark.parametrize("results", [[], [result(1, 0.9, SQUARE)]])
def test_without_objects_the_metrics_are_undefined(results: list[dict[str, Any]]) -> None:
    ap = average_precision(truth(), results)
    assert ap.AP == ap.AP50 == ap.AR100 == -1
    assert [row["objects"] for row in ap.per_class.values()] == [0, 0]


def test_order_of_detections_and_scale_of_scores_do_not_matter() -> None:
    rng = np.random.default_rng(0)
    objects: list[dict[str, Any]] = []
    for i, corner in enumerate(rng.uniform(0, 150, (12, 2)).tolist()):
        objects.append({"image_id": i % 3 + 1, "bbox": [*corner, 30, 30], "category_id": (5, 9)[i % 2]})
    results = []
    for row, score, shift in zip(objects * 2, rng.permutation(24) / 24, rng.uniform(-15, 15, 24), strict=True):
        x, y, w, h = row["bbox"]
        results.append(result(row["image_id"], score, [x + shift, y, w, h], row["category_id"]))
    ap = average_precision(truth(*objects), results)
    changed = average_precision(truth(*objects), [row | {"score": row["score"] / 2} for row in results[::-1]])
    assert 0 < ap.AP < 1
    assert ap == changed


def test_annotation_ids_may_start_at_zero() -> None:
    ground_truth = truth({"image_id": 1, "bbox": SQUARE}, {"image_id": 2, "bbox": SQUARE})
    for row in ground_truth["annotations"]:
        row["id"] -= 1
    assert pytest.approx(1) == average_precision(ground_truth, [result(1, 0.9, SQUARE), result(2, 0.8, SQUARE)]).AP


def test_only_the_best_hundred_detections_per_image_count() -> None:
    correct = result(1, 0.1, SQUARE)
    wrong = [result(1, 0.9, [150, 150, 5, 5 + i / 100]) for i in range(100)]
    assert average_precision(truth({"image_id": 1, "bbox": SQUARE}), [*wrong[:99], correct]).AP > 0
    assert average_precision(truth({"image_id": 1, "bbox": SQUARE}), [*wrong, correct]).AP == 0


def test_the_unchecked_function_gives_the_same_metrics() -> None:
    ground_truth, results = truth({"image_id": 1, "bbox": SQUARE}), [result(1, 0.9, SQUARE), result(2, 0.8, SQUARE)]
    assert average_precision_unchecked(ground_truth, [dict(row) for row in results]) == average_precision(
        ground_truth, results
    )


def test_average_precision_does_not_change_its_arguments() -> None:
    ground_truth, results = truth({"image_id": 1, "bbox": SQUARE}), [result(1, 0.9, SQUARE)]
    average_precision(ground_truth, results)
    assert ground_truth == truth({"image_id": 1, "bbox": SQUARE})
    assert results == [result(1, 0.9, SQUARE)]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"category_id": 5, "bbox": SQUARE, "score": 1}, "result 1: the field 'image_id' is missing"),
        ({"image_id": 1, "category_id": 5, "bbox": SQUARE}, "result 1: the field 'score' is missing"),
        (result(99, 1, SQUARE), "result 1: image_id 99 is not in the dataset"),
        (result(1, 1, SQUARE, 6), "result 1: category_id 6 is not in the dataset"),
        (result(1, 1, [1, 2, 3]), r"result 1: expected a bbox of four finite numbers"),
        (result(1, 1, [1, 2, 3, float("nan")]), r"result 1: expected a bbox of four finite numbers"),
        (
            result(1, float("inf"), SQUARE),
            r"result 1: .* four finite numbers and a finite score, got bbox .* and score",
        ),
        (result(1, 1, "1234"), r"result 1: expected a bbox of four finite numbers"),
        (result(1, "1", SQUARE), r"result 1: .* four finite numbers and a finite score, got bbox .* and score"),
        (result(1, 10**400, SQUARE), r"result 1: .* and score 1000"),
        (result(1, 1, [0, 0, 1e300, 1e300]), r"result 1: .* the largest number is 1e\+100"),
        (result([1], 1, SQUARE), r"result 1: image_id \[1\] is not in the dataset"),
    ],
)
def test_an_invalid_row_raises_with_its_index(row: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        average_precision(truth({"image_id": 1, "bbox": SQUARE}), [result(1, 0.5, SQUARE), row])


def test_coco_results_have_width_height_and_original_category_ids() -> None:
    boxes = np.array([[1, 2, 4, 8], [0.1, 0.2, 0.4, 0.5]], np.float32)
    two_objects = Detections(boxes, np.array([0.75, 0.5], np.float32), np.array([1, 0]), ("cat", "dog"))
    nothing = Detections(boxes[:0], np.zeros(0, np.float32), np.zeros(0, np.int64), ("cat", "dog"))
    rows = coco_results({7: two_objects, 8: nothing}, (5, 9))
    assert rows[0] == {"image_id": 7, "category_id": 9, "bbox": [1, 2, 3, 6], "score": 0.75}
    assert [row["category_id"] for row in rows] == [9, 5]
    named = coco_results({7: two_objects}, (5, 9), {7: "a.png"})
    assert named[1]["file_name"] == "a.png"
    assert {key: value for key, value in named[1].items() if key != "file_name"} == rows[1]


def crowded(count: int, categories: int = 1) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return the ground truth of an image with `count` separate objects, and perfect results with falling scores."""
    rows = [
        {"image_id": 1, "category_id": 1 + i % categories, "bbox": [20.0 * (i % 30), 20.0 * (i // 30), 10.0, 10.0]}
        for i in range(count)
    ]
    labels = {
        "images": [{"id": 1, "height": 1000, "width": 1000}],
        "annotations": rows,
        "categories": [{"id": 1 + i, "name": str(i)} for i in range(categories)],
    }
    return labels, [row | {"score": 1 - i / 1000} for i, row in enumerate(rows)]


def test_more_detections_than_cocos_hundred_can_be_counted() -> None:
    labels, results = crowded(200)
    many = many_detections(labels, results, 300)
    assert (many.max_detections, many.AP, many.AP50, many.AP75, many.AR) == (300, *[pytest.approx(1)] * 4)
    # 150 of 200 objects are found without a false detection: the precision is 1 at the 76 recall levels up to 0.75.
    part = many_detections(labels, results, 150)
    assert pytest.approx([76 / 101, 0.75]) == [part.AP, part.AR]
    same = many_detections(labels, results, 100)
    ap = average_precision(labels, results)
    assert (same.AP, same.AP50, same.AP75, same.AR) == (ap.AP, ap.AP50, ap.AP75, ap.AR100)


def test_json_has_the_numbers_of_many_detections_only_on_request() -> None:
    labels, results = crowded(3)
    ap = average_precision(labels, results)
    assert "many" not in ap.to_json()
    assert replace(ap, many=many_detections(labels, results, 200)).to_json()["many"]["max_detections"] == 200


def test_a_note_says_what_cocos_limit_does() -> None:
    assert crowded_images_note(crowded(100)[0], per_class=True) is None
    assert crowded_images_note(crowded(200, 2)[0], per_class=True) is None
    note = crowded_images_note(crowded(240, 2)[0], per_class=False)
    assert note is not None
    assert note.startswith("1 image with more than 100 objects: COCO counts at most 100 detections per image, so at ")
    assert "at most 41.6 % of all objects can be found; use `evaluate --max-det 300`" in note
    note = crowded_images_note(crowded(240, 2)[0], per_class=True)
    assert note is not None
    assert "per image and class, so at most 83.3 % of all objects" in note
