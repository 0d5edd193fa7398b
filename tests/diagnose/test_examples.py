from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from detector.annotation import Annotation
from detector.arrays import ImageArray
from detector.boxes import area
from detector.config import Config
from detector.data.scenes import scenes
from detector.data.split import Split
from detector.diagnose import examples
from detector.errors import InputError
from detector.letterbox import FILL
from detector.loader.dataset import DetectionDataset
from detector.sample import Sample

INPUT_HW = (256, 320)


@pytest.fixture(scope="module")
def split() -> Split:
    whole = scenes.read_split("val")
    return replace(whole, annotations=whole.annotations[:8])


def sizes(*hws: tuple[int, int]) -> list[Annotation]:
    """Annotations of images of these sizes, without objects."""
    boxes = np.zeros((0, 4), dtype=np.float32)
    none = (boxes, np.zeros(0, np.int64), np.zeros(0, np.bool_), area(boxes))
    return [Annotation(i, Path(f"{i}.png"), hw, *none) for i, hw in enumerate(hws)]


def tiles(sheet: ImageArray, side: int = 160) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """The sheet as [rows, columns, side, side, 3]."""
    return sheet.reshape(sheet.shape[0] // side, side, sheet.shape[1] // side, side, 3).swapaxes(1, 2)


def test_every_class_with_objects_has_its_examples_and_the_others_an_empty_row(split: Split) -> None:
    counts = np.bincount(
        np.concatenate([annotation.class_ids for annotation in split.annotations]), minlength=len(split.class_names)
    )
    in_tiles = tiles(examples.class_examples(split, per_class=2))
    filled = (in_tiles != FILL).any(axis=(2, 3, 4))
    blocks = filled.shape[1] // 2
    by_class = filled.reshape(-1, blocks, 2).reshape(-1, 2).sum(axis=1)
    np.testing.assert_array_equal(by_class[: len(counts)], np.minimum(counts, 2))
    assert not by_class[len(counts) :].any()


def test_images_that_do_not_decode_leave_their_tiles_empty(split: Split) -> None:
    def broken(annotation: Annotation) -> ImageArray:
        raise InputError(f"{annotation.image_path}: cut off")

    assert (examples.class_examples(replace(split, read_image=broken)) == FILL).all()


def test_the_drawn_training_samples_are_those_of_the_run(split: Split) -> None:
    dataset = DetectionDataset(split, INPUT_HW, Config())
    sheet = examples.augmentation_examples(dataset, split.class_names, count=4)
    assert sheet.shape == (512, 640, 3)
    plain = dataset.training_sample(0, 1).image
    # Boxes and names cover some of it, and no more.
    assert 0.5 < (sheet[:256, :320] == plain).all(axis=2).mean() < 1


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
def test_labels_survive_every_augmentation_there_is(config: Config) -> None:
    mixed = sizes((480, 640), (300, 300), (64, 500), (90, 40), (1, 1))
    finding = examples.check_augmentation(mixed, (160, 192), config)
    assert finding.verdict == "ok", finding


@pytest.mark.parametrize("hw", [(1, 1), (1500, 2000)])
def test_images_of_any_size_do_for_the_measurement(hw: tuple[int, int]) -> None:
    finding = examples.check_augmentation(sizes(hw), INPUT_HW, Config())
    assert finding.verdict == "ok", finding


def mirror_pixels(sample: Sample) -> Sample:
    return replace(sample, image=np.ascontiguousarray(sample.image[:, ::-1]))


def shift_boxes(sample: Sample) -> Sample:
    return replace(sample, boxes=sample.boxes + np.float32(12))


def swap_axes(sample: Sample) -> Sample:
    return replace(sample, boxes=sample.boxes[:, [1, 0, 3, 2]])


def swap_classes(sample: Sample) -> Sample:
    return replace(sample, class_ids=sample.class_ids[::-1])


def mirror_half(sample: Sample) -> Sample:
    return mirror_pixels(sample) if sample.image_id % 2 else sample


@pytest.mark.parametrize("fault", [mirror_pixels, shift_boxes, swap_axes, swap_classes, mirror_half])
def test_boxes_and_pixels_that_are_moved_differently_stop(fault: Callable[[Sample], Sample]) -> None:
    dataset = examples.painted_dataset(sizes(*[(480, 640)] * 6), INPUT_HW, Config(mosaic=0.0))
    samples = [dataset.training_sample(position, 4) for position in range(24)]
    assert examples.compare_painted(samples).verdict == "ok"
    assert examples.compare_painted(map(fault, samples)).verdict == "stop"


def test_no_sample_at_all_proves_nothing() -> None:
    assert examples.compare_painted([]).verdict == "stop"
