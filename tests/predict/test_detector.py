import io
import itertools
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from detector.arrays import Floats, ImageArray
from detector.boxes import pairwise_iou
from detector.detections import Detections
from detector.errors import ConfigError, InputError
from detector.images import find_images, read_image
from detector.model.checkpoint import load_weights
from detector.ops.suppression import METHODS
from detector.options import ALL_CLASSES, AllClasses, DetectOptions, SuppressionName
from detector.predict.detector import Detector
from detector.runtime.pytorch import TorchRuntime


@pytest.fixture(scope="module")
def detector(tiny_weights: Path) -> Detector:
    return Detector.load(tiny_weights, device="cpu")


@pytest.fixture(scope="module")
def images(tiny_data: Path) -> list[Path]:
    return find_images(tiny_data / "images")


def assert_same(one: Detections, other: Detections) -> None:
    """Compare with a tolerance: the batch size changes the order of sums in a convolution, and so the last digits."""
    assert one.class_ids.tolist() == other.class_ids.tolist()
    np.testing.assert_allclose(one.scores, other.scores, rtol=1e-4)
    np.testing.assert_allclose(one.boxes, other.boxes, atol=1e-2)


def test_trained_network_finds_the_objects_of_an_image(detector: Detector, images: list[Path]) -> None:
    image = read_image(images[0])
    found = detector.detect(image)
    assert len(found) > 0
    assert found.class_names == detector.class_names == ("red", "blue")
    for name, score, (x1, y1, x2, y2) in found:
        red, _, blue = image[int((y1 + y2) / 2), int((x1 + x2) / 2)].tolist()
        assert name == ("red" if red > blue else "blue")
        assert score >= 0.25


def test_all_kinds_of_image_input_give_equal_detections(detector: Detector, images: list[Path]) -> None:
    path = images[0]
    expected = detector.detect(path)
    with Image.open(path) as opened:
        for source in (str(path), path.read_bytes(), read_image(path), opened, lambda: read_image(path)):
            found = detector.detect(source)
            assert np.array_equal(found.boxes, expected.boxes)
            assert np.array_equal(found.scores, expected.scores)
            assert np.array_equal(found.class_ids, expected.class_ids)


def test_list_of_images_equals_one_by_one(detector: Detector, images: list[Path]) -> None:
    assert len(images) > 16  # more than two batches
    together = detector.detect(images)
    assert isinstance(together, list)
    assert len(together) == len(images)
    for path, found in zip(images, together, strict=True):
        assert_same(found, detector.detect(path))


def test_lists_of_no_and_of_one_image(detector: Detector, images: list[Path]) -> None:
    assert detector.detect([]) == []
    [found] = detector.detect([images[0]])
    assert_same(found, detector.detect(images[0]))
    assert len(detector.detect((images[0], images[1]))) == 2


def test_images_of_different_sizes_can_be_mixed(detector: Detector) -> None:
    rng = np.random.default_rng(0)
    sizes = [(1, 1), (3, 500), (500, 3), (64, 96), (333, 777)]
    mixed = [rng.integers(0, 256, (*hw, 3)).astype(np.uint8) for hw in sizes]
    for (height, width), found in zip(sizes, detector.detect(mixed, score_threshold=0.001), strict=True):
        assert (found.boxes >= 0).all()
        assert (found.boxes <= [width, height, width, height]).all()


def test_unreadable_image_does_not_stop_the_others(detector: Detector, images: list[Path]) -> None:
    results = list(detector.detect_each([images[0], "missing.png", b"no image", images[1]]))
    assert [isinstance(result, InputError) for result in results] == [False, True, True, False]
    assert "missing.png" in str(results[1])
    last = results[3]
    assert isinstance(last, Detections)
    assert_same(last, detector.detect(images[1]))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("missing.png", r"missing\.png: no such image"),
        (b"no image", "<bytes>: not an image in a supported format"),
        (np.zeros((4, 4), np.int64), r"the value range of an image of int64 \[4, 4\] is unknown"),
        (np.zeros((0, 4, 3), np.uint8), r"expected an image \[H, W, 3\] .*, got uint8 \[0, 4, 3\]"),
    ],
)
def test_unreadable_image_raises_an_error(detector: Detector, images: list[Path], source: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        detector.detect(source)  # type: ignore[call-overload]
    with pytest.raises(InputError, match=message):
        detector.detect([images[0], source])  # type: ignore[list-item]


def test_only_a_few_images_are_read_ahead(detector: Detector, images: list[Path]) -> None:
    read = 0

    def endless() -> Iterator[ImageArray]:
        nonlocal read
        for path in itertools.cycle(images):
            read += 1
            yield read_image(path)

    results = list(itertools.islice(detector.detect_each(endless()), 30))
    assert len(results) == 30
    assert read <= 30 + 3 * 8


def test_only_one_or_two_large_images_are_read_ahead(detector: Detector) -> None:
    read = 0

    def large() -> ImageArray:
        nonlocal read
        read += 1
        return np.broadcast_to(np.uint8(90), (5800, 5800, 3))

    results = detector.detect_with_images([large] * 6)
    assert [next(results)[0].shape for _ in range(2)] == [(5800, 5800, 3)] * 2  # type: ignore[index]
    assert read <= 4
    results.close()


def test_each_image_is_read_once_and_returned_with_its_detections(detector: Detector, images: list[Path]) -> None:
    times_read = dict.fromkeys(images, 0)

    def reads(path: Path) -> Callable[[], ImageArray]:
        def read() -> ImageArray:
            times_read[path] += 1
            return read_image(path)

        return read

    results = list(detector.detect_with_images([*map(reads, images), b"no image"], DetectOptions(score_threshold=0.3)))
    assert set(times_read.values()) == {1}
    assert isinstance(results.pop(), InputError)
    for path, result, expected in zip(images, results, detector.detect_each(images, score_threshold=0.3), strict=True):
        assert not isinstance(result, InputError)
        assert not isinstance(expected, InputError)
        assert np.array_equal(result[0], read_image(path))
        assert_same(result[1], expected)


@pytest.mark.parametrize("before", [0, 3, 8, 11])
def test_error_of_the_iterable_comes_after_earlier_results(detector: Detector, images: list[Path], before: int) -> None:
    def failing() -> Iterator[Path]:
        yield from images[:before]
        raise ConnectionError("the camera is disconnected")

    results = detector.detect_each(failing())
    assert len([next(results) for _ in range(before)]) == before
    with pytest.raises(ConnectionError, match="the camera is disconnected"):
        next(results)


def test_closing_the_iterator_stops_reading(detector: Detector, images: list[Path]) -> None:
    read = 0

    def endless() -> Iterator[Path]:
        nonlocal read
        for path in itertools.cycle(images):
            read += 1
            yield path

    before = set(threading.enumerate())
    results = detector.detect_each(endless())
    next(results)
    assert set(threading.enumerate()) - before
    results.close()
    assert read <= 16
    assert set(threading.enumerate()) <= before


def test_error_in_a_list_stops_reading(detector: Detector, images: list[Path]) -> None:
    before = set(threading.enumerate())
    with pytest.raises(InputError) as caught:
        detector.detect([b"no image", *images])
    assert set(threading.enumerate()) <= before
    assert caught.value.__traceback__ is not None  # the error, which is still held, does not keep the thread alive


def test_thresholds_and_limits_are_respected(detector: Detector, images: list[Path]) -> None:
    many = detector.detect(images[0], score_threshold=0.001, iou_threshold=1.0)
    assert len(many) > 10
    assert len(detector.detect(images[0], score_threshold=0.001, iou_threshold=1.0, max_detections=3)) == 3
    agnostic = detector.detect(images[0], score_threshold=0.001, class_agnostic=True)
    assert len(agnostic) < len(detector.detect(images[0], score_threshold=0.001))
    assert len(detector.detect(images[0], score_threshold=1.0)) == 0


@pytest.mark.parametrize("suppression", METHODS)
@pytest.mark.parametrize("class_agnostic", [False, True])
def test_nms_variant_defaults_to_the_settings_of_the_weights(
    detector: Detector, images: list[Path], suppression: SuppressionName, class_agnostic: bool
) -> None:
    # Always the same batch of two images: another batch size rounds differently on some processors, and at such a low
    # score threshold that changes the number of detections.
    def detect(model: Detector, suppression: SuppressionName | None, class_agnostic: bool | None) -> Detections:
        both = model.detect(images[:2], score_threshold=0.001, suppression=suppression, class_agnostic=class_agnostic)
        return both[0]

    settings = {"suppression": suppression, "class_agnostic": class_agnostic}
    other = Detector(detector.runtime, replace(detector.info, config={**detector.info.config, **settings}))
    requested = detect(detector, suppression, class_agnostic)
    assert_same(detect(other, None, None), requested)
    classic = detect(detector, "classic", False)
    overridden = detect(other, "classic", False)
    assert np.array_equal(overridden.boxes, classic.boxes)
    assert np.array_equal(overridden.scores, classic.scores)
    same = len(requested) == len(classic) and np.allclose(requested.boxes, classic.boxes)
    assert same == (settings == {"suppression": "classic", "class_agnostic": False})


def test_weights_without_nms_settings_use_classic_nms(detector: Detector, images: list[Path]) -> None:
    other = Detector(detector.runtime, replace(detector.info, config={"lr": 0.1}))
    classic = detector.detect(images[0], suppression="classic", class_agnostic=False)
    assert_same(other.detect(images[0]), classic)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"suppression": "gentle"}, "suppression: expected classic or soft or diou or weighted, got 'gentle'"),
        ({"suppression": ["soft"]}, r"suppression: expected classic or .*, got \['soft'\]"),
        ({"class_agnostic": "no"}, "class_agnostic: expected true or false, got 'no'"),
        (None, "expected a mapping, got None"),
    ],
)
def test_weights_with_invalid_settings_are_refused(detector: Detector, config: object, message: str) -> None:
    with pytest.raises(InputError, match=f"the settings stored with the weights are damaged: {message}"):
        Detector(detector.runtime, replace(detector.info, config=config))  # type: ignore[arg-type]


def test_unknown_parameter_is_a_type_error(detector: Detector, images: list[Path]) -> None:
    for source in (images[0], images[:2]):
        with pytest.raises(TypeError, match="unexpected keyword argument 'conf'"):
            detector.detect(source, conf=0.3)  # type: ignore[call-overload]


@pytest.fixture(scope="module")
def wall(images: list[Path]) -> ImageArray:
    """A grid of nine of the images, without visible borders."""
    each = [read_image(path) for path in images[:9]]
    return np.concatenate([np.concatenate(each[row : row + 3], axis=1) for row in (0, 3, 6)])


@pytest.mark.parametrize("tta", [False, True])
def test_tiles_find_objects_too_small_in_the_whole_image(
    detector: Detector, images: list[Path], wall: ImageArray, tta: bool
) -> None:
    expected = [
        (box + np.array([96 * (number % 3), 64 * (number // 3)] * 2, np.float32), name)
        for number, path in enumerate(images[:9])
        for name, _, box in detector.detect(path, score_threshold=0.5)
    ]
    assert len(expected) > 9

    def fraction_found(**options: Any) -> float:
        found = detector.detect(wall, **options)
        assert (found.boxes >= 0).all()
        assert (found.boxes <= [288, 192, 288, 192]).all()
        by_name = {name: np.array([box for other, _, box in found if other == name]) for name in detector.class_names}
        hits = [len(by_name[name]) and pairwise_iou(box[None], by_name[name]).max() > 0.5 for box, name in expected]
        return sum(map(bool, hits)) / len(hits)

    assert fraction_found(tta=tta) < 0.3
    assert fraction_found(tta=tta, tile=96, tile_overlap=0.5) > 0.9


@pytest.mark.parametrize("options", [{"tile": 80}, {"tta": True}, {"tile": 70, "tta": True}])
def test_batch_size_does_not_change_the_detections_of_views(
    detector: Detector, images: list[Path], wall: ImageArray, options: dict[str, Any]
) -> None:
    mixed = [read_image(images[0]), wall, wall[:100], read_image(images[1])]
    expected = [detector.detect(image, **options) for image in mixed]
    for batch_size in (1, 3):
        for found, one in zip(detector.detect(mixed, batch_size=batch_size, **options), expected, strict=True):
            assert_same(found, one)
        assert_same(detector.detect(wall, batch_size=batch_size, **options), expected[1])


def test_image_smaller_than_a_tile_is_not_tiled(detector: Detector, images: list[Path]) -> None:
    plain, tiled = detector.detect(images[0]), detector.detect(images[0], tile=96, max_detections=300)
    assert np.array_equal(plain.boxes, tiled.boxes)
    assert np.array_equal(plain.scores, tiled.scores)


def test_flipped_image_has_flipped_detections_with_tta(detector: Detector, images: list[Path]) -> None:
    image = read_image(images[0])[:, :64]  # square: the padding is the same on the left and on the right
    found = detector.detect(image, tta=True)
    flipped = detector.detect(np.ascontiguousarray(image[:, ::-1]), tta=True)
    assert len(found) > 0
    x1, y1, x2, y2 = flipped.boxes.T
    assert_same(found, replace(flipped, boxes=np.stack([64 - x2, y1, 64 - x1, y2], axis=1)))


def test_tiling_a_large_image_needs_little_memory(detector: Detector) -> None:
    image = np.full((3000, 4000, 3), 114, dtype=np.uint8)
    tracemalloc.start()
    try:
        detector.detect(image, tile=500, tta=True)
        assert tracemalloc.get_traced_memory()[1] < image.nbytes / 10
    finally:
        tracemalloc.stop()


def test_image_with_too_many_tiles_does_not_stop_the_others(detector: Detector, images: list[Path]) -> None:
    large = np.broadcast_to(np.uint8(90), (2000, 3000, 3))
    results = list(detector.detect_each([images[0], large, images[1]], tile=20))
    assert isinstance(results[0], Detections)
    assert isinstance(results[2], Detections)
    message = (
        "tile: an image of 3000 x 2000 pixels would need 37600 tiles of 20 x 13, more than 10000: use larger tiles"
    )
    assert message in str(results[1])
    with pytest.raises(InputError, match="would need 37600 tiles"):
        detector.detect(large, tile=20)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tile": 0}, "tile: expected a whole number of at least 1, got 0"),
        ({"tile_overlap": 1}, "tile_overlap: must be below 1"),
        ({"tile_overlap": -0.1}, "tile_overlap: expected a number from 0 to 1"),
        ({"tile_overlap": float("nan")}, "tile_overlap: expected a number from 0 to 1"),
        ({"batch_size": 0}, "batch_size: expected a whole number of at least 1, got 0"),
        ({"score_threshold": 2}, "score_threshold: expected a number from 0 to 1, got 2"),
        ({"score_threshold": "a"}, "score_threshold: expected a number from 0 to 1, got 'a'"),
        ({"iou_threshold": -1}, "iou_threshold: expected a number from 0 to 1, got -1"),
        ({"max_detections": 0}, "max_detections: expected a whole number of at least 1, got 0"),
        ({"suppression": "gentle"}, "expected classic or soft or diou or weighted, got 'gentle'"),
        ({"classes": ["bleu"]}, "classes: no class 'bleu'; did you mean 'blue'\\? known: red, blue"),
        ({"classes": ["red", "tractor"]}, "classes: no class 'tractor'; known: red, blue"),
        ({"classes": [2]}, "classes: no class 2; known: red, blue"),
        ({"classes": [-1]}, "classes: no class -1"),
        ({"classes": []}, "classes: expected at least one name or id, got none"),
    ],
)
def test_invalid_options_are_refused(
    detector: Detector, images: list[Path], options: dict[str, Any], message: str
) -> None:
    for source in (images[0], images[:2]):
        with pytest.raises(InputError, match=message):
            detector.detect(source, **options)


def detector_boxes(detector: Detector, image: ImageArray, classes: AllClasses) -> Floats:
    return detector.detect_image(image, DetectOptions(score_threshold=0.1, classes=classes)).boxes


def test_default_classes_are_detected_unless_classes_are_named(detector: Detector, wall: ImageArray) -> None:
    own = Detector(detector.runtime, replace(detector.info, default_classes=(1,)))
    every = detector.detect(wall, score_threshold=0.1)
    assert {0, 1} <= set(every.class_ids)
    assert np.array_equal(own.detect(wall, score_threshold=0.1).boxes, every.boxes[every.class_ids == 1])
    assert np.array_equal(own.detect(wall, score_threshold=0.1, classes="all").boxes, every.boxes)
    assert np.array_equal(detector.detect(wall, score_threshold=0.1, classes=["all"]).boxes, every.boxes)
    assert set(own.detect(wall, score_threshold=0.1, classes="red").class_ids) == {0}
    assert np.array_equal(detector_boxes(own, wall, ALL_CLASSES), every.boxes)
    named = Detector(detector.runtime, replace(detector.info, class_names=("red", "all")))
    assert np.array_equal(detector_boxes(named, wall, ALL_CLASSES), every.boxes)
    assert set(named.detect(wall, score_threshold=0.1, classes="all").class_ids) == {1}


@pytest.mark.parametrize("classes", [["blue"], "blue", [1], ["1"], ("blue", 1)])
@pytest.mark.parametrize("views", [{}, {"tile": 90}])
def test_only_the_selected_classes_are_detected(
    detector: Detector, wall: ImageArray, classes: list[str | int], views: dict[str, Any]
) -> None:
    all_classes = detector.detect(wall, score_threshold=0.1, **views)
    blue = all_classes.class_ids == 1
    assert 0 < blue.sum() < len(blue)
    found = detector.detect(wall, score_threshold=0.1, classes=classes, max_detections=int(blue.sum()), **views)
    assert found.class_names == ("red", "blue")
    assert found.class_ids.tolist() == [1] * blue.sum()
    assert np.array_equal(found.boxes, all_classes.boxes[blue])


def test_class_name_takes_precedence_over_class_id(detector: Detector, images: list[Path]) -> None:
    named = Detector(detector.runtime, replace(detector.info, class_names=("1", "0")))
    assert set(named.detect(images, classes=["1"])[0].class_ids) <= {0}
    for one, other in zip(named.detect(images, classes=["1"]), named.detect(images, classes=[0]), strict=True):
        assert_same(one, other)


def test_larger_input_keeps_aspect_and_box_coordinates(
    detector: Detector, tiny_weights: Path, images: list[Path]
) -> None:
    larger = Detector.load(tiny_weights, device="cpu", input_size=192)
    assert (detector.input_hw, larger.input_hw) == ((64, 96), (128, 192))
    image = read_image(images[0])
    [best] = detector.detect(image, max_detections=1).boxes
    shrunk = np.full((128, 192, 3), 114, np.uint8)
    shrunk[32:96, 48:144] = image  # in the larger input, the objects have the size they had in training
    moved = larger.detect(shrunk).boxes - np.array([48, 32, 48, 32], np.float32)
    assert pairwise_iou(best[None], moved).max() > 0.5


@pytest.mark.parametrize("long_side", [100, 0, -32])
def test_input_size_not_a_multiple_of_32_is_refused(tiny_weights: Path, long_side: int) -> None:
    with pytest.raises(InputError, match="is not a multiple of 32"):
        Detector.load(tiny_weights, device="cpu", input_size=long_side)


def test_detector_does_not_change_the_given_network(tiny_weights: Path, images: list[Path]) -> None:
    network, info = load_weights(tiny_weights)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    Detector(TorchRuntime(network, info.input_hw, torch.device("cpu")), info).detect(images[0])
    assert list(network.state_dict()) == list(before)
    assert all((network.state_dict()[name] == tensor).all() for name, tensor in before.items())


def test_exif_orientation_is_applied(detector: Detector, images: list[Path]) -> None:
    image = read_image(images[0])
    rotated, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.rot90(image).copy()).save(rotated, "png", exif=exif)
    assert_same(detector.detect(rotated.getvalue()), detector.detect(image))


def test_unknown_device_is_refused(tiny_weights: Path) -> None:
    with pytest.raises(InputError, match="device 'abacus' is not available here"):
        Detector.load(tiny_weights, device="abacus")


def test_detections_are_independent_copies(detector: Detector, images: list[Path]) -> None:
    found = detector.detect(images[0])
    found.boxes[:] = 0
    assert detector.detect(images[0]).boxes.any()
    assert replace(found).class_names == detector.class_names


def test_a_class_that_does_not_exist_is_refused(detector: Detector, images: list[Path]) -> None:
    names: list[Any] = ["x" * 100_000, 10**5000, -1, 2, True, 1.0, "9" * 5000, "\u00b2", None, b"red", ["red"]]
    for name in names:
        with pytest.raises(ConfigError, match=r"classes: no class .* known: red, blue") as caught:
            detector.detect(images[0], classes=[name])
        assert len(str(caught.value)) < 300


@pytest.mark.parametrize("batch_size", [1, 10**400], ids=["1", "10**400"])
def test_a_very_large_limit_is_no_limit(detector: Detector, wall: ImageArray, batch_size: int) -> None:
    found = detector.detect(wall, batch_size=batch_size, max_detections=10**400, tile=96)
    assert_same(found, detector.detect(wall, tile=96))
    assert len(detector.detect([wall], batch_size=batch_size, tile=10**400)) == 1
