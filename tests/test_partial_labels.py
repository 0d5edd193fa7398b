import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from detector.analysis.outcome import match_image
from detector.augment.affine import transform_sample
from detector.augment.mix import copy_paste, mixup
from detector.augment.mosaic import mosaic
from detector.checking.check import check
from detector.config import AugmentConfig, Config
from detector.converting.convert import convert
from detector.data.formats.coco_scoring import read_ground_truth, to_coco
from detector.data.open_data import open_data
from detector.detections import Detections
from detector.errors import ConfigError, LabelError
from detector.images import write_image
from detector.loader.batch import collate
from detector.loader.dataset import DetectionDataset
from detector.loss.criterion import detection_loss
from detector.metrics.average_precision import average_precision
from detector.metrics.confusion import confusion
from detector.metrics.matches import match_detections
from detector.metrics.seeds import ap_halves
from detector.metrics.weighted import weighted_metrics
from detector.model.grid import GridPredictions, make_grid
from detector.reviewing.scores import find_missing, make_reference
from detector.sample import Sample, UnlabeledRegions
from detector.training.train import train

HW = (64, 96)
CLASSES = ("cat", "dog", "fox")


def coco_images(**first: Any) -> dict[str, Any]:
    """Return two images with a cat in the first; `first` are more values of the first image."""
    images: list[dict[str, Any]] = [
        {"id": number, "file_name": f"{number}.png", "height": HW[0], "width": HW[1], "neg_category_ids": []}
        for number in (1, 2)
    ]
    images[0] |= first
    cat = {"id": 1, "image_id": 1, "category_id": 10, "bbox": [10, 10, 30, 30], "area": 900, "iscrowd": 0}
    categories = [{"id": 10 * number, "name": name} for number, name in enumerate(CLASSES, start=1)]
    return {"images": images, "annotations": [cat], "categories": categories}


def write(folder: Path, data: dict[str, Any], name: str = "train") -> Path:
    for number in (1, 2):
        pixels = np.random.default_rng(number).integers(0, 255, (*HW, 3), dtype=np.uint8)
        write_image(folder / f"{number}.png", pixels)
    path = folder / f"{name}.json"
    path.write_text(json.dumps(data))
    return path


def labeled(folder: Path) -> list[list[bool]]:
    split = open_data(folder).read("train")
    return [a.labeled_classes.tolist() for a in split.annotations if a.labeled_classes is not None]


def test_present_and_negative_classes_are_labeled(tmp_path: Path) -> None:
    write(tmp_path, coco_images(neg_category_ids=[30]))
    assert labeled(tmp_path) == [[True, False, True], [False, False, False]]
    assert "partial labels" in " ".join(open_data(tmp_path).read("train").ledger.notes)


def test_classes_labeled_in_part_are_not_labeled(tmp_path: Path) -> None:
    write(tmp_path, coco_images(neg_category_ids=[20], not_exhaustive_category_ids=[10]))
    assert labeled(tmp_path)[0] == [False, True, False]


def test_without_lists_all_classes_are_labeled(tmp_path: Path) -> None:
    data = coco_images()
    for image in data["images"]:
        del image["neg_category_ids"]
    write(tmp_path, data)
    assert labeled(tmp_path) == []


@pytest.mark.parametrize("value", [[99], "cat", [None], {"20": 1}])
def test_unknown_categories_in_the_lists_are_errors(tmp_path: Path, value: Any) -> None:
    write(tmp_path, coco_images(neg_category_ids=value))
    with pytest.raises(LabelError, match=r"`neg_category_ids` is .* expected a list of ids of `categories`"):
        open_data(tmp_path).read("train")


def test_list_must_be_in_every_image(tmp_path: Path) -> None:
    data = coco_images()
    del data["images"][1]["neg_category_ids"]
    write(tmp_path, data)
    with pytest.raises(LabelError, match="image 2 has no `neg_category_ids`"):
        open_data(tmp_path).read("train")


def test_written_partial_labels_are_read_again(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    write(tmp_path / "data", coco_images(neg_category_ids=[30], not_exhaustive_category_ids=[10]))
    before = labeled(tmp_path / "data")
    convert(tmp_path / "data", "coco", tmp_path / "coco")
    assert labeled(tmp_path / "coco") == before == [[False, False, True], [False, False, False]]


def test_conversion_to_yolo_warns_about_partial_labels(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    write(tmp_path / "data", coco_images())
    converted = convert(tmp_path / "data", "yolo", tmp_path / "yolo")
    assert any("YOLO has no partial labels: in 2 images" in note for note in converted.notes)


def sample(unlabeled: list[int], color: int = 100, hw: tuple[int, int] = HW) -> Sample:
    """Return an image with one object of class 0, in which some classes are not labeled."""
    classes = np.isin(np.arange(len(CLASSES)), unlabeled)[None]
    image = np.full((*hw, 3), color, np.uint8)
    box = np.array([[10, 10, 40, 40]], np.float32)
    regions = UnlabeledRegions(np.array([[0, 0, hw[1], hw[0]]], np.float32), classes) if unlabeled else None
    return Sample(image, box, np.array([0]), np.array([False]), 1, regions)


def test_regions_move_with_the_image() -> None:
    shifted = transform_sample(sample([1]), np.array([[0.5, 0, 20], [0, 0.5, -8]]), HW, 0.1)
    assert shifted.unlabeled is not None
    assert shifted.unlabeled.boxes.tolist() == [[20, 0, 68, 24]]


def test_mosaic_keeps_the_region_of_each_part() -> None:
    plain = AugmentConfig(color_gain=0.0, brightness=0.0, scale=(1.0, 1.0), shift=0.0, crop=0.0)
    parts = [sample([1], 50), sample([], 100), sample([2], 150), sample([1, 2], 200)]
    for seed in range(5):
        merged = mosaic(parts, HW, plain, np.random.default_rng(seed))
        assert merged.unlabeled is not None
        assert merged.unlabeled.classes.tolist() == [[False, True, False], [False, False, True], [False, True, True]]
        for box, color in zip(merged.unlabeled.boxes, (50, 150, 200), strict=True):
            rows, columns = np.nonzero((merged.image == color).all(axis=2))
            bounds = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            np.testing.assert_allclose(box, bounds, atol=1)


def test_pasted_and_blended_objects_bring_their_regions() -> None:
    rng = np.random.default_rng(0)
    pasted = copy_paste(sample([]), sample([2], 200), np.ones(3), AugmentConfig(), rng)
    assert pasted.unlabeled is not None
    np.testing.assert_allclose(pasted.unlabeled.boxes, pasted.boxes[1:], atol=1)
    blended = mixup(sample([1]), sample([2]), rng)
    assert blended.unlabeled is not None
    assert blended.unlabeled.classes.tolist() == [[False, True, False], [False, False, True]]


def test_unlabeled_classes_have_no_loss_in_their_region() -> None:
    grid = make_grid(HW, torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, len(grid.strides), len(CLASSES), generator=generator).requires_grad_()
    distances = 0.5 + torch.rand(2, len(grid.strides), 4, generator=generator) * 3
    half = sample([1])
    assert half.unlabeled is not None
    region = UnlabeledRegions(np.array([[0, 0, 48, 64]], np.float32), half.unlabeled.classes)
    batch = collate([replace(half, unlabeled=region), sample([])])
    detection_loss(GridPredictions(logits, distances, grid), batch, Config()).total.backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    inside = grid.points[:, 0] < 48
    assert torch.equal(logits.grad[0, :, 1] != 0, ~inside)
    assert (logits.grad[0][:, [0, 2]] != 0).all()
    assert (logits.grad[1] != 0).all()


def test_objects_of_a_class_labeled_in_part_are_learned() -> None:
    grid = make_grid(HW, torch.device("cpu"))
    logits = torch.zeros(1, len(grid.strides), len(CLASSES)).requires_grad_()
    predictions = GridPredictions(logits, torch.ones(1, len(grid.strides), 4), grid)
    terms = detection_loss(predictions, collate([sample([0])]), Config())
    terms.total.backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    assert int((logits.grad[0, :, 0] != 0).sum()) == terms.positives > 0


def test_training_data_has_the_unlabeled_classes_of_its_images(tmp_path: Path) -> None:
    write(tmp_path, coco_images(neg_category_ids=[30]))
    dataset = DetectionDataset(open_data(tmp_path).read("train"), HW, Config())
    regions = [dataset.sample(index).unlabeled for index in range(2)]
    assert [own.classes.tolist() for own in regions if own is not None] == [[[False, True, False]], [[True] * 3]]


@pytest.mark.parametrize("setting", [Config(class_loss="softmax", epochs=1), Config(head="yolo_v1", epochs=1)])
def test_loss_without_class_masks_refuses_partial_labels(tmp_path: Path, setting: Config) -> None:
    (tmp_path / "data").mkdir()
    write(tmp_path / "data", coco_images())
    with pytest.raises(ConfigError, match="cannot learn from partial labels"):
        train(tmp_path / "data", setting, out=tmp_path / "run")
    with pytest.raises(ConfigError, match="cannot learn from partial labels"):
        check(tmp_path / "data", setting)


def detection(image_id: int, category_id: int, score: float, x: float = 10) -> dict[str, Any]:
    return {"image_id": image_id, "category_id": category_id, "bbox": [x, 10, 30, 30], "score": score}


def test_detections_of_unlabeled_classes_are_no_false_positives() -> None:
    data = coco_images(neg_category_ids=[20])
    data["images"][1]["neg_category_ids"] = [10, 30]
    dog = {"id": 2, "image_id": 2, "category_id": 20, "bbox": [10, 10, 30, 30], "area": 900, "iscrowd": 0}
    data["annotations"].append(dog)
    right = [detection(1, 10, 0.5), detection(2, 20, 0.5)]
    unknown = [detection(1, 30, 0.9), detection(1, 30, 0.8, 50)]
    wrong = [detection(1, 20, 0.9), detection(2, 10, 0.6, 50)]
    best, same, worse = (average_precision(data, rows).AP for rows in (right, right + unknown, right + wrong))
    assert best == same == pytest.approx(1)
    assert worse == pytest.approx(0.5)
    weighted = weighted_metrics(match_detections(data, right + unknown), np.ones((1, 2)))
    assert weighted.metrics[0, 0] == pytest.approx(1)


def test_extra_detections_of_a_class_labeled_in_part_are_ignored() -> None:
    data = coco_images(not_exhaustive_category_ids=[10])
    rows = [detection(1, 10, 0.5), detection(1, 10, 0.9, 60)]
    ignored, counted = (average_precision(truth, rows).AP for truth in (data, coco_images()))
    assert (ignored, counted) == pytest.approx((1, 0.5))


def test_analysis_ignores_detections_of_unlabeled_classes(tmp_path: Path) -> None:
    write(tmp_path, coco_images(neg_category_ids=[20]))
    split = open_data(tmp_path).read("train")
    boxes = np.array([[10, 10, 40, 40], [50, 10, 80, 40], [50, 10, 80, 40]], np.float32)
    matches = match_image(boxes, np.array([0, 1, 2]), split.annotations[0])
    assert matches.ignored.tolist() == [False, False, True]
    assert matches.false_positives.tolist() == [1]
    assert to_coco(split)["images"][0]["neg_category_ids"] == [20]


def test_unlabeled_classes_do_not_change_the_objects() -> None:
    data = coco_images(neg_category_ids=[20])
    rows = [detection(1, 10, 0.5), detection(1, 30, 0.9), detection(1, 20, 0.4)]
    first, second = match_detections(data, rows), match_detections(data, rows[:1])
    assert first.object_row.tolist() == second.object_row.tolist() == [0]
    assert confusion(first, data, rows, 0.1).matrix.sum() == 2
    names = {10 * number: name for number, name in enumerate(CLASSES, start=1)}
    one, other = ap_halves(first, names), ap_halves(second, names)
    assert one is not None
    assert other is not None
    assert one.val == other.val


@pytest.mark.parametrize("value", [20, "20", 20.0])
def test_categories_written_as_text_are_labeled_in_the_scoring(tmp_path: Path, value: Any) -> None:
    write(tmp_path, coco_images(neg_category_ids=[value]))
    data_set = open_data(tmp_path)
    split = data_set.read("train")
    for truth in (data_set.ground_truth("train"), split.ground_truth or to_coco(split)):
        matches = match_detections(truth, [detection(1, 10, 0.5), detection(1, 20, 0.9)])
        assert not matches.ignored[0, 0].any()


@pytest.mark.parametrize("value", [None, "cat", [None], [[1]]])
def test_scoring_refuses_invalid_lists(tmp_path: Path, value: Any) -> None:
    path = write(tmp_path, coco_images(neg_category_ids=value))
    with pytest.raises(LabelError, match="expected a list of ids of `categories`"):
        read_ground_truth(path)


def test_lists_may_contain_the_placeholder_of_roboflow(tmp_path: Path) -> None:
    data = coco_images(neg_category_ids=[0, 20])
    data["categories"] = [{"id": 0, "name": "pets"}, *(c | {"supercategory": "pets"} for c in data["categories"])]
    write(tmp_path, data)
    assert labeled(tmp_path)[0] == [True, True, False]


def test_list_of_classes_labeled_in_part_needs_the_other_list(tmp_path: Path) -> None:
    data = coco_images(not_exhaustive_category_ids=[10])
    for image in data["images"]:
        del image["neg_category_ids"]
    write(tmp_path, data)
    with pytest.raises(LabelError, match="image 1 has no `neg_category_ids`"):
        open_data(tmp_path).read("train")


def test_images_with_and_without_partial_labels_are_joined(tmp_path: Path) -> None:
    write(tmp_path, coco_images(neg_category_ids=[20]))
    others = coco_images()
    for image in others["images"]:
        del image["neg_category_ids"]
        image["file_name"] = f"val-{image['file_name']}"
        write_image(tmp_path / image["file_name"], np.zeros((*HW, 3), np.uint8))
    (tmp_path / "val.json").write_text(json.dumps(others))
    joined = to_coco(open_data(tmp_path).read("trainval"))
    assert [image["neg_category_ids"] for image in joined["images"]] == [[20], [], [20, 30], [10, 20, 30]]


def test_objects_of_unlabeled_classes_are_not_missing_labels(tmp_path: Path) -> None:
    write(tmp_path, coco_images(neg_category_ids=[20]))
    own = open_data(tmp_path).read("train").annotations[0]
    boxes = np.array([[50, 10, 80, 40], [50, 10, 80, 41]], np.float32)
    fox_or_dog = Detections(boxes, np.array([0.9, 0.3], np.float32), np.array([2, 1]), CLASSES)
    dog = fox_or_dog[1:]
    reference = make_reference([own], [dog], len(CLASSES))
    assert find_missing(own, dog, reference).detection.tolist() == [0]
    assert find_missing(own, fox_or_dog, reference).detection.tolist() == []
