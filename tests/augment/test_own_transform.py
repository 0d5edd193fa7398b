"""Own transforms: loading by name, every promise is checked, and transforms that keep them are accepted."""

import itertools
import logging
import random
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from detector.augment.own_transform import OwnTransform, load_transform, transform_name
from detector.errors import TransformError
from detector.sample import Sample, UnlabeledRegions

IMAGE = Path("street.jpg")
HW = (64, 96)


def sample(seed: int = 0) -> Sample:
    rng = np.random.default_rng(seed)
    boxes = np.array([[4, 4, 40, 30], [50, 20, 90, 60]], np.float32)
    image = cv2.GaussianBlur(rng.integers(0, 256, (*HW, 3)).astype(np.uint8), (5, 5), 0)
    return Sample(np.asarray(image, np.uint8), boxes, np.array([0, 1]), np.zeros(2, np.bool_), 7 + seed)


def own(function: Callable[..., Any]) -> OwnTransform:
    return OwnTransform("mine:function", "0" * 16, function, 2, 0)


def check(function: Callable[..., Any]) -> None:
    own(function).check([(IMAGE, sample(seed)) for seed in range(4)])


def unchanged(given: Sample, rng: np.random.Generator) -> Sample:
    return given


def noise(given: Sample, rng: np.random.Generator) -> Sample:
    pixels = given.image + rng.normal(0, 8, given.image.shape)
    return replace(given, image=pixels.clip(0, 255).astype(np.uint8))


def fog(given: Sample, rng: np.random.Generator) -> Sample:
    amount = rng.uniform(0, 0.7)
    image = cv2.addWeighted(given.image, 1 - amount, np.full_like(given.image, 220), amount, 0)
    return replace(given, image=np.asarray(image, np.uint8))


def blur(given: Sample, rng: np.random.Generator) -> Sample:
    return replace(given, image=np.asarray(cv2.GaussianBlur(given.image, (0, 0), rng.uniform(0.5, 2)), np.uint8))


def flip_rows(given: Sample, rng: np.random.Generator) -> Sample:
    if rng.random() < 0.5:
        return given
    x1, y1, x2, y2 = given.boxes.T
    height = given.image.shape[0]
    boxes = np.stack([x1, height - y2, x2, height - y1], axis=1)
    return replace(given, image=np.ascontiguousarray(given.image[::-1]), boxes=boxes)


def drop_first(given: Sample, rng: np.random.Generator) -> Sample:
    return replace(given, boxes=given.boxes[1:], class_ids=given.class_ids[1:], is_crowd=given.is_crowd[1:])


def equalize(given: Sample, rng: np.random.Generator) -> Sample:
    channels = [cv2.equalizeHist(np.ascontiguousarray(given.image[..., channel])) for channel in range(3)]
    return replace(given, image=np.ascontiguousarray(np.stack(channels, axis=2)))


@pytest.mark.parametrize("function", [unchanged, noise, fog, blur, flip_rows, drop_first, equalize])
def test_transforms_that_keep_their_promises_are_accepted(
    function: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        check(function)
    assert not caplog.records


def write(given: Sample, rng: np.random.Generator) -> Sample:
    given.image[:8] = 0
    return given


def write_boxes(given: Sample, rng: np.random.Generator) -> Sample:
    given.boxes[:] = given.boxes.clip(0, 80)
    return given


def use_global_generator(given: Sample, rng: np.random.Generator) -> Sample:
    return replace(given, image=np.full_like(given.image, np.random.randint(256)))  # noqa: NPY002


def use_random(given: Sample, rng: np.random.Generator) -> Sample:
    return replace(given, image=np.full_like(given.image, int(random.random() * 256)))


calls = itertools.count()


def count_calls(given: Sample, rng: np.random.Generator) -> Sample:
    return replace(given, image=np.full_like(given.image, next(calls) % 200))


def set_image(image: Callable[[Sample], Any]) -> Callable[..., Any]:
    return lambda given, rng: replace(given, image=image(given))


def set_boxes(boxes: Callable[[Sample], Any]) -> Callable[..., Any]:
    return lambda given, rng: replace(given, boxes=boxes(given))


BROKEN = {
    "None": (lambda given, rng: None, r"must return a detector.Sample, got NoneType"),
    "an array": (lambda given, rng: given.image, r"got ndarray"),
    "an exception": (lambda given, rng: 1 / 0, r"raised ZeroDivisionError: division by zero"),
    "a float image": (set_image(lambda s: s.image / 255), r"uint8 and the shape \[64, 96, 3\].*float64 \[64, 96, 3\]"),
    "another size": (set_image(lambda s: s.image[:32].copy()), r"returned uint8 \[32, 96, 3\]"),
    "channels first": (set_image(lambda s: s.image.transpose(2, 0, 1)), r"returned uint8 \[3, 64, 96\]"),
    "strides": (set_image(lambda s: s.image[:, ::-1]), r"must return a contiguous image"),
    "float64 boxes": (set_boxes(lambda s: s.boxes.astype(float)), r"boxes of the type float32.*float64 \[2, 4\]"),
    "a list": (set_boxes(lambda s: s.boxes.tolist()), r"boxes of the type float32.*a list"),
    "a shape": (set_boxes(lambda s: s.boxes[:, :3]), r"boxes of the type float32 .*\[2, 3\]"),
    "fewer boxes": (set_boxes(lambda s: s.boxes[:1]), r"class_ids of the type int64 .*one row for each box"),
    "outside": (set_boxes(lambda s: s.boxes + np.float32(40)), r"inside the image of 96x64 pixels.*clip boxes"),
    "NaN": (set_boxes(lambda s: s.boxes * np.float32("nan")), r"inside the image"),
    "no area": (set_boxes(lambda s: s.boxes[:, [0, 1, 0, 1]]), r"x1 < x2"),
    "swapped": (set_boxes(lambda s: s.boxes[:, [2, 3, 0, 1]]), r"x1 < x2"),
    "a class": (lambda given, rng: replace(given, class_ids=given.class_ids + 1), r"class_ids from 0 to 1, returned 2"),
    "an id": (lambda given, rng: replace(given, image_id=0), r"must keep image_id 7, returned 0"),
    "writing": (write, r"must not write into the arrays"),
    "writing boxes": (write_boxes, r"must not write into the arrays"),
    "np.random": (use_global_generator, r"take all random numbers from the argument rng"),
    "random": (use_random, r"take all random numbers from the argument rng"),
    "a counter": (count_calls, r"must give the same result for the same sample"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_promise_is_named_with_the_image(name: str) -> None:
    function, message = BROKEN[name]
    with pytest.raises(TransformError, match=rf"^transform mine:function: street\.jpg: .*{message}"):
        check(function)


def test_shared_state_of_threads_is_detected() -> None:
    shared: dict[str, Any] = {}

    def slow(given: Sample, rng: np.random.Generator) -> Sample:
        shared["image"] = given.image
        for _ in range(40):
            cv2.GaussianBlur(given.image, (0, 0), 3)  # other threads run meanwhile
        return replace(given, image=shared["image"].copy())

    with pytest.raises(TransformError, match="several threads call it at the same time"):
        own(slow).check([(IMAGE, sample(seed)) for seed in range(8)])


def test_pixels_that_move_without_their_boxes_give_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    def flip_image_only(given: Sample, rng: np.random.Generator) -> Sample:
        return replace(given, image=np.ascontiguousarray(given.image[:, ::-1]))

    with caplog.at_level(logging.WARNING):
        check(flip_image_only)
    assert "in 4 of 4 images that were checked, such as street.jpg, an object moves away from its box" in caplog.text


def test_regions_without_labels_must_be_kept() -> None:
    regions = UnlabeledRegions(np.array([[0, 0, 96, 64]], np.float32), np.array([[True, False]]))
    partial_sample = replace(sample(), unlabeled=regions)
    own(noise).check([(IMAGE, partial_sample)])
    with pytest.raises(TransformError, match="must keep the field unlabeled"):
        own(lambda given, rng: replace(given, unlabeled=None)).check([(IMAGE, partial_sample)])


def test_every_fiftieth_sample_of_a_run_is_transformed_twice() -> None:
    changed = own(use_random)
    changed.apply(sample(), 49, 0, IMAGE)
    with pytest.raises(TransformError, match="same result"):
        changed.apply(sample(), 50, 0, IMAGE)
    with pytest.raises(TransformError, match="must not write"):
        own(write).apply(sample(), 100, 0, IMAGE)


def test_generator_depends_on_seed_epoch_and_position_only() -> None:
    def result(seed: int, position: int, epoch: int) -> bytes:
        transform = replace(own(noise), seed=seed)
        return transform.apply(sample(), position, epoch, IMAGE).image.tobytes()

    assert result(1, 3, 0) == result(1, 3, 0)
    assert len({result(1, 3, 0), result(2, 3, 0), result(1, 4, 0), result(1, 3, 1)}) == 4


class Shift:
    """A transform with a setting."""

    def __call__(self, given: Sample, rng: np.random.Generator) -> Sample:
        return given

    @staticmethod
    def change(given: Sample, rng: np.random.Generator) -> Sample:
        return given


shift = Shift()


def test_global_functions_have_a_name_from_which_they_load() -> None:
    assert transform_name("my_transforms:fog") == "my_transforms:fog"
    assert transform_name(fog) == f"{__name__}:fog"
    loaded = load_transform(transform_name(fog), 2, 0)
    assert loaded.function is fog
    assert load_transform(f"{__name__}:shift", 2, 0).function is shift
    assert load_transform(f"{__name__}:Shift.change", 2, 0).function is Shift.change


@pytest.mark.parametrize(
    ("transform", "message"),
    [
        (lambda given, rng: given, "a lambda has no name"),
        (partial(fog), "has no name from which it can be loaded"),
        (shift, "has no name from which it can be loaded"),
        (shift.__call__, "is another object"),
        (set_image(lambda s: s.image), "a lambda has no name"),
        (3, "expected a callable"),
        ("fog", "expected module:name"),
        ("a/b.py:fog", "expected module:name"),
        ("", "expected module:name"),
    ],
)
def test_callables_without_a_name_are_refused(transform: Any, message: str) -> None:
    with pytest.raises(TransformError, match=message):
        transform_name(transform)


def test_function_inside_a_function_is_refused() -> None:
    def inner(given: Sample, rng: np.random.Generator) -> Sample:
        return given

    with pytest.raises(TransformError, match="is defined inside another function"):
        transform_name(inner)


def test_hash_changes_with_the_source_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    hashes = set()
    for text in (
        "def same(sample, rng):\n    return sample\n",
        "def same(sample, rng):  # changed\n    return sample\n",
    ):
        Path("hashed_transform.py").write_text(text)
        monkeypatch.delitem(sys.modules, "hashed_transform", raising=False)
        hashes.add(load_transform("hashed_transform:same", 2, 0).source_hash)
    assert len(hashes) == 2


def test_modules_that_cannot_be_loaded_are_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("broken_transform.py").write_text("raise OSError('no disk')\n")
    Path("needing_transform.py").write_text("import a_package_that_is_missing\n")
    Path("good_transform.py").write_text("def fog(sample, rng):\n    return sample\n\n\nlevel = 3\n")
    for name, message in {
        "missing_transform:fog": r"no module missing_transform in .*PYTHONPATH",
        "broken_transform:fog": r"importing broken_transform raised OSError: no disk",
        "needing_transform:fog": r"needs a_package_that_is_missing, which is not installed",
        "good_transform:fogg": r"has no fogg; did you mean 'fog'\?",
        "good_transform:level": r"expected a callable \(sample, rng\) -> sample, got int",
        "sys:getsizeof": r"the source of sys is not in a file",
        "__main__:no_such_name": r"resume it in that program",
    }.items():
        with pytest.raises(TransformError, match=message):
            load_transform(name, 2, 0)
