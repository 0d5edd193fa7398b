from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from detector.annotation import Annotation
from detector.boxes import area
from detector.config import Config
from detector.diagnose.augmentation import compare_painted, diagnose_augmentation, painted_dataset
from detector.sample import Sample


def without_objects(*sizes: tuple[int, int]) -> list[Annotation]:
    """Return annotations without objects, for images of these sizes (height, width)."""
    boxes = np.zeros((0, 4), dtype=np.float32)
    objects = (boxes, np.zeros(0, np.int64), np.zeros(0, np.bool_), area(boxes))
    return [Annotation(i, Path(f"{i}.png"), hw, *objects) for i, hw in enumerate(sizes)]


@pytest.mark.parametrize(
    "config",
    [
        Config(),
        Config(mosaic=1.0),
        Config(mosaic=0.0, scale=(0.3, 2.0), shift=0.5, flip_vertical=0.5),
        Config(mosaic=0.3, rotate=30),
        Config(mosaic=0.0, crop=1.0),
        Config(mosaic=0.0, color_gain=1, brightness=99, copy_paste=1, mixup=1, style_shift=1),
    ],
)
def test_boxes_follow_objects_in_every_augmentation(config: Config) -> None:
    annotations = without_objects((480, 640), (300, 300), (64, 500), (90, 40), (1, 1))
    finding = diagnose_augmentation(annotations, (160, 192), config)
    assert finding.verdict == "ok", finding


@pytest.mark.parametrize("hw", [(1, 1), (1500, 2000)])
def test_augmentation_is_measured_with_images_of_any_size(hw: tuple[int, int]) -> None:
    finding = diagnose_augmentation(without_objects(hw), (256, 320), Config())
    assert finding.verdict == "ok", finding


def flip_pixels(sample: Sample) -> Sample:
    return replace(sample, image=np.ascontiguousarray(sample.image[:, ::-1]))


def shift_boxes(sample: Sample) -> Sample:
    return replace(sample, boxes=sample.boxes + np.float32(12))


def swap_axes(sample: Sample) -> Sample:
    return replace(sample, boxes=sample.boxes[:, [1, 0, 3, 2]])


def swap_classes(sample: Sample) -> Sample:
    return replace(sample, class_ids=sample.class_ids[::-1])


def flip_pixels_of_half(sample: Sample) -> Sample:
    return flip_pixels(sample) if sample.image_id % 2 else sample


@pytest.mark.parametrize("fault", [flip_pixels, shift_boxes, swap_axes, swap_classes, flip_pixels_of_half])
def test_boxes_transformed_differently_from_pixels_stop(fault: Callable[[Sample], Sample]) -> None:
    dataset = painted_dataset(without_objects(*[(480, 640)] * 6), (256, 320), Config(mosaic=0.0))
    samples = [dataset.training_sample(position, 4) for position in range(24)]
    assert compare_painted(samples).verdict == "ok"
    assert compare_painted(map(fault, samples)).verdict == "stop"


def test_no_sample_at_all_stops() -> None:
    assert compare_painted([]).verdict == "stop"
