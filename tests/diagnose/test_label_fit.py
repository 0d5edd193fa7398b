from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from detector.annotation import Annotation
from detector.arrays import Floats
from detector.boxes import area
from detector.data.scenes import scenes
from detector.data.split import Split
from detector.diagnose.label_fit import diagnose_label_fit

HEIGHT, WIDTH = 384, 480


@pytest.fixture(scope="module")
def split() -> Split:
    """Return the first 40 scenes of val; each image is rendered only once."""
    full = scenes.read_split("val")
    first = full.annotations[:40]
    images = {annotation.image_id: full.read_image(annotation) for annotation in first}
    return replace(full, annotations=first, read_image=lambda annotation: images[annotation.image_id])


def change_boxes(split: Split, change: Callable[[Floats], Floats]) -> Split:
    """Return a copy of the split with changed boxes, clipped to the image; boxes without area are left out."""

    def changed(annotation: Annotation) -> Annotation:
        boxes = np.clip(change(annotation.boxes), 0, [WIDTH, HEIGHT, WIDTH, HEIGHT]).astype(np.float32)
        keep = (boxes[:, 2:] - boxes[:, :2] > 1).all(axis=1)
        ids, crowd = annotation.class_ids[keep], annotation.is_crowd[keep]
        return replace(annotation, boxes=boxes[keep], class_ids=ids, is_crowd=crowd, areas=area(boxes[keep]))

    return replace(split, annotations=tuple(map(changed, split.annotations)))


def half_width_away(boxes: Floats) -> Floats:
    x = (boxes[:, 0] + WIDTH / 2) % WIDTH
    return np.stack([x, boxes[:, 1], x + boxes[:, 2] - boxes[:, 0], boxes[:, 3]], axis=1)


def upside_down(boxes: Floats) -> Floats:
    return np.stack([boxes[:, 0], HEIGHT - boxes[:, 3], boxes[:, 2], HEIGHT - boxes[:, 1]], axis=1)


def center_as_corner(boxes: Floats) -> Floats:
    return boxes + np.tile((boxes[:, 2:] - boxes[:, :2]) / 2, 2)


def test_correct_boxes_fit_their_own_image(split: Split) -> None:
    finding = diagnose_label_fit(split)
    assert finding.verdict == "ok", finding
    assert "38 images" in finding.measured  # two images are background


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (half_width_away, "shifted by half of the image width fit"),
        (upside_down, "flipped vertically"),
        (center_as_corner, "shifted left and up by half of their size"),
    ],
)
def test_boxes_at_a_wrong_place_stop(split: Split, change: Callable[[Floats], Floats], text: str) -> None:
    finding = diagnose_label_fit(change_boxes(split, change))
    assert finding.verdict == "stop", finding
    assert text in finding.advice


def test_boxes_of_twice_the_size_are_found(split: Split) -> None:
    def larger(boxes: Floats) -> Floats:
        center, size = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
        return np.concatenate([center - size, center + size], axis=1)

    assert diagnose_label_fit(change_boxes(split, larger)).verdict != "ok"


def loose_boxes(split: Split) -> Split:
    """Return a copy whose images are noise; in each box, the center is brighter, and the rim is darker by as much."""
    rng = np.random.default_rng(0)
    images = {}
    for annotation in split.annotations:
        image = rng.normal(110, 40, (HEIGHT, WIDTH))
        for x1, y1, x2, y2 in annotation.boxes.round().astype(int):
            image[y1:y2, x1:x2] -= 8
            width, height = (x2 - x1) // 4, (y2 - y1) // 4
            image[y1 + height : y2 - height, x1 + width : x2 - width] += 32
        images[annotation.image_id] = np.repeat(np.clip(image, 0, 255).astype(np.uint8)[..., None], 3, axis=2)
    return replace(split, read_image=lambda annotation: images[annotation.image_id])


def test_loose_boxes_around_their_objects_are_ok(split: Split) -> None:
    loose = loose_boxes(split)
    finding = diagnose_label_fit(loose)
    assert finding.verdict == "ok", finding
    assert diagnose_label_fit(change_boxes(loose, half_width_away)).verdict != "ok"


def test_labels_of_other_images_are_found(split: Split) -> None:
    own = split.annotations
    mixed = [
        replace(a, image_id=b.image_id, image_path=b.image_path) for a, b in zip(own[7:] + own[:7], own, strict=True)
    ]
    finding = diagnose_label_fit(replace(split, annotations=tuple(mixed)))
    assert finding.verdict != "ok", finding


def test_few_images_are_not_judged(split: Split) -> None:
    few = replace(split, annotations=split.annotations[:5])
    finding = diagnose_label_fit(change_boxes(few, half_width_away))
    assert finding.verdict == "ok"
    assert "not measured" in finding.measured
