import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from detector.annotation import Annotation
from detector.arrays import ImageArray
from detector.boxes import area
from detector.config import PLANNING_STEPS, Config
from detector.data.ledger import Ledger
from detector.data.split import Split
from detector.errors import InputError
from detector.loader.batch import Batch, collate
from detector.loader.dataset import DetectionDataset
from detector.loader.input_size import input_size_at
from detector.loader.loader import PseudoLabeled, training_batch, training_batches
from detector.step_plan import StepPlan

BATCH, STEPS = 3, 12  # 36 samples, more than seven epochs of five images, with mosaic
PLAN = StepPlan.fixed(STEPS)


def read_noise(annotation: Annotation) -> ImageArray:
    h, w = annotation.image_hw
    return np.random.default_rng(annotation.image_id).integers(0, 256, (h, w, 3), dtype=np.uint8)


def make_split() -> Split:
    annotations = []
    for image_id in range(5):
        n = 2 * image_id  # the first image is background
        corners = np.random.default_rng(image_id).uniform(0, 20, (n, 2)).astype(np.float32)
        boxes = np.concatenate([corners, corners + 8], axis=1)
        rows = (boxes, np.zeros(n, np.int64), np.arange(n) % 3 == 2, area(boxes))
        annotations.append(Annotation(image_id, Path(f"{image_id}.png"), (30, 41), *rows))
    return Split("train", ("cat",), (1,), tuple(annotations), Ledger(used=20), read_noise)


@pytest.fixture
def dataset() -> DetectionDataset:
    return DetectionDataset(make_split(), (32, 64), Config(mosaic=0.5, mosaic_from=0.0))


def assert_same(a: Batch, b: Batch) -> None:
    for field in ("images", "boxes", "class_ids", "is_object", "is_crowd"):
        assert torch.equal(getattr(a, field), getattr(b, field)), field
    assert a.image_ids == b.image_ids


def test_a_batch_contains_the_samples_of_its_positions(dataset: DetectionDataset) -> None:
    for step, steps in ((0, STEPS), (11, STEPS), (25, 40), (39, 40)):
        epochs = steps * BATCH / 5 if step >= PLANNING_STEPS else 0.0
        input_hw = input_size_at(dataset.input_hw, step, steps, dataset.config)
        positions = range(step * BATCH, (step + 1) * BATCH)
        samples = [dataset.training_sample(position, epochs, input_hw) for position in positions]
        assert_same(training_batch(dataset, step, BATCH, steps), collate(samples))


def test_pseudo_labeled_images_take_the_last_places_from_a_step_on(dataset: DetectionDataset) -> None:
    pseudo = PseudoLabeled(dataset.select([2, 3]), start=4, per_batch=1)
    assert_same(training_batch(dataset, 3, BATCH, STEPS, pseudo), training_batch(dataset, 3, BATCH, STEPS))
    seen = []
    for step in range(4, STEPS):
        plain, mixed = (training_batch(dataset, step, BATCH, STEPS, own) for own in (None, pseudo))
        assert torch.equal(mixed.images[:2], plain.images[:2])
        assert mixed.image_ids[:2] == plain.image_ids[:2]
        seen.append(mixed.image_ids[2])
    assert sorted(seen[:2]) == sorted(seen[2:4]) == [2, 3]  # each image once per epoch


@pytest.mark.parametrize("start", [0, 1, 5, 11, 12])
def test_a_resumed_run_gets_the_same_batches(dataset: DetectionDataset, start: int) -> None:
    full_run = list(training_batches(dataset, BATCH, PLAN, 0, STEPS))
    assert [step for step, _ in full_run] == list(range(STEPS))
    resumed = list(training_batches(dataset, BATCH, PLAN, start, STEPS))
    assert [step for step, _ in resumed] == list(range(start, STEPS))
    for (_, a), (_, b) in zip(resumed, full_run[start:], strict=True):
        assert_same(a, b)


def test_prefetched_batches_equal_batches_made_one_by_one(dataset: DetectionDataset) -> None:
    for step, batch in training_batches(dataset, BATCH, PLAN, 0, STEPS):
        assert_same(batch, training_batch(dataset, step, BATCH, STEPS))


def test_a_batch_larger_than_the_split_repeats_its_images(dataset: DetectionDataset) -> None:
    batch = training_batch(dataset, 0, 10, 2)
    assert sorted(batch.image_ids[:5]) == sorted(batch.image_ids[5:]) == [0, 1, 2, 3, 4]


def test_stopping_early_leaves_no_thread_running(dataset: DetectionDataset) -> None:
    batches: Iterator[tuple[int, Batch]] = training_batches(dataset, BATCH, StepPlan.fixed(1000), 0, 1000)
    next(batches)
    batches.close()  # type: ignore[attr-defined]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("loader")]


def test_an_image_that_disappears_during_the_run_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("detector.loader.dataset.available_memory", lambda: 0)
    reads = 0

    def read_until_removed(annotation: Annotation) -> ImageArray:
        nonlocal reads
        reads += 1
        if reads > 5:
            raise InputError(f"{annotation.image_path}: no such image")
        return read_noise(annotation)

    split = make_split()
    split = Split(
        split.name, split.class_names, split.category_ids, split.annotations, split.ledger, read_until_removed
    )
    dataset = DetectionDataset(split, (32, 64), Config())
    with pytest.raises(InputError, match=r"\.png: no such image"):
        list(training_batches(dataset, BATCH, PLAN, 0, STEPS))
