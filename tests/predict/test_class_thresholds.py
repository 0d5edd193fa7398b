"""A threshold for each class gives the detections of each class as with its threshold alone, in every runtime."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detector.arrays import ImageArray
from detector.data.scenes import scenes
from detector.detections import Detections
from detector.errors import ConfigError
from detector.exporting.export import export
from detector.exporting.verify import verify
from detector.graph.export_format import format_of_name
from detector.graph.metadata import GraphInfo
from detector.model.checkpoint import load_weights, save_weights
from detector.options import DetectOptions
from detector.predict.detector import Detector
from detector.runtime.base import PointPredictions
from detector.score_decisions import ChosenThresholds, ScoreMap
from detector.weights_info import WeightsInfo

THRESHOLDS = (0.3, 0.12, 0.5, 0.2, 0.05)
VARIANTS: list[Mapping[str, Any]] = [
    {},
    {"suppression": "soft"},
    {"suppression": "diou"},
    {"suppression": "weighted"},
    {"multi_label": True},
    {"multi_label": True, "suppression": "soft"},
]
VIEWS: list[Mapping[str, Any]] = [{"tile": 200}, {"tta": True, "suppression": "soft"}]


@pytest.fixture(scope="module")
def images() -> list[np.ndarray[Any, np.dtype[np.uint8]]]:
    split = scenes.read_split("test")
    return [split.read_image(annotation) for annotation in split.annotations[:3]]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights with thresholds and a map to probabilities."""
    network, info = load_weights("scenes")
    count = len(info.class_names)
    own = ChosenThresholds(tuple((THRESHOLDS * count)[:count]), "chosen for this test")
    path = tmp_path_factory.mktemp("weights") / "own.safetensors"
    save_weights(path, network, replace(info, thresholds=own, score_map=ScoreMap(2.5, 0.5)))
    return path


@pytest.fixture(scope="module")
def detector(weights: Path) -> Detector:
    return Detector.load(weights, device="cpu")


def rows(found: Detections) -> list[tuple[int, float, tuple[float, ...]]]:
    """Return the detections as sorted rows."""
    columns = zip(found.class_ids.tolist(), found.scores.tolist(), found.boxes.tolist(), strict=True)
    return sorted((class_id, score, tuple(box)) for class_id, score, box in columns)


class RandomPoints:
    """A runtime that predicts random boxes, many of which overlap; the same in each call."""

    name, input_hw, graph_info = "random", (96, 128), GraphInfo()

    def predict(self, inputs: Sequence[ImageArray]) -> PointPredictions:
        random = np.random.default_rng(0)
        centers = random.uniform(10, 90, (len(inputs), 300, 2)).round(-1) + random.uniform(-4, 4, (len(inputs), 300, 2))
        boxes = np.concatenate([centers - 9, centers + 9], axis=2).astype(np.float32)
        return PointPredictions(boxes, random.random((len(inputs), 300, 3), np.float32) ** 3)


RANDOM = Detector(RandomPoints(), WeightsInfo("random", ("a", "b", "c"), (1, 2, 3), (96, 128), {}, {}))
GRAY = np.zeros((96, 128, 3), np.uint8)


def check_each_class(detector: Detector, image: ImageArray, thresholds: tuple[float, ...], **options: Any) -> None:
    """Check that the detections with several thresholds are those of each class with its threshold alone."""
    alone = []
    for class_id, threshold in enumerate(thresholds):
        found = detector.detect(image, score_threshold=threshold, max_detections=1000, **options)
        alone += rows(found[found.class_ids == class_id])
    together = detector.detect(image, score_threshold=thresholds, max_detections=1000, **options)
    assert rows(together) == sorted(alone)
    assert len(together) > 3


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_each_class_is_detected_as_with_its_threshold_alone(options: Mapping[str, Any]) -> None:
    check_each_class(RANDOM, GRAY, (0.2, 0.6, 0.4), **options)


@pytest.mark.parametrize("options", VIEWS, ids=str)
def test_views_use_the_thresholds_of_the_classes(
    detector: Detector, images: list[Any], options: Mapping[str, Any]
) -> None:
    wall = np.concatenate(images[:2], axis=1)
    check_each_class(detector, wall, (0.3, 0.05, *(1.0,) * (len(detector.class_names) - 2)), **options)


@pytest.mark.parametrize("options", [*VARIANTS, {"class_agnostic": True}], ids=str)
def test_equal_thresholds_give_the_same_as_one(options: Mapping[str, Any]) -> None:
    one = RANDOM.detect(GRAY, score_threshold=0.3, **options)
    assert rows(RANDOM.detect(GRAY, score_threshold=(0.3,) * 3, **options)) == rows(one)


def test_box_below_its_threshold_suppresses_no_other() -> None:
    for suppression in ("classic", "soft", "diou", "weighted"):
        agnostic: Mapping[str, Any] = {"class_agnostic": True, "suppression": suppression}
        only_a = RANDOM.detect(GRAY, score_threshold=(0.3, 1.0, 1.0), **agnostic)
        assert rows(only_a) == rows(RANDOM.detect(GRAY, score_threshold=0.3, classes=["a"], **agnostic))
        assert len(only_a)


def test_selected_classes_keep_their_own_thresholds(detector: Detector, images: list[Any]) -> None:
    for image in images:
        every = detector.detect(image, score_threshold="auto")
        some = detector.detect(image, score_threshold="auto", classes=[1, 2])
        assert rows(some) == rows(every[np.isin(every.class_ids, [1, 2])])


def test_box_below_its_threshold_takes_no_place(detector: Detector, images: list[Any]) -> None:
    for image in images:
        every = detector.detect(image, score_threshold="auto")
        assert rows(detector.detect(image, score_threshold="auto", max_detections=2)) == rows(every[:2])


@pytest.mark.parametrize(("name", "nms"), [("a_openvino", False), ("b.onnx", True)])
def test_exports_carry_thresholds_and_map(
    weights: Path, detector: Detector, images: list[Any], tmp_path: Path, name: str, nms: bool
) -> None:
    inside = DetectOptions(score_threshold="auto") if nms else None
    path = export(weights, tmp_path / name, format=format_of_name(Path(name)), nms=inside, certify=nms).path
    for runtime in ["onnxruntime", "openvino"] if nms else ["openvino"]:
        exported = Detector.load(path, runtime=runtime)  # type: ignore[arg-type]
        assert exported.info.thresholds == detector.info.thresholds
        assert exported.info.score_map == detector.info.score_map
        for image in images:
            expected = detector.detect(image, score_threshold="auto", calibrated=True)
            found = exported.detect(image, score_threshold="auto", calibrated=True)
            assert found.class_ids.tolist() == expected.class_ids.tolist()
            np.testing.assert_allclose(found.scores, expected.scores, atol=0.01)
            np.testing.assert_allclose(found.boxes, expected.boxes, atol=0.5)
    if nms:
        assert exported.runtime.graph_info.nms is not None
        assert exported.runtime.graph_info.nms.lowest_threshold == pytest.approx(min(THRESHOLDS))
        assert verify(path).parity.is_within_rounding


@pytest.mark.parametrize("options", [{}, {"suppression": "soft", "tta": True}], ids=str)
def test_calibrated_scores_change_neither_objects_nor_order(
    detector: Detector, images: list[Any], options: Mapping[str, Any]
) -> None:
    raw = detector.detect(images, score_threshold=0.02, **options)
    probable = detector.detect(images, score_threshold=0.02, calibrated=True, **options)
    for own, other in zip(raw, probable, strict=True):
        np.testing.assert_array_equal(own.boxes, other.boxes)
        np.testing.assert_array_equal(own.class_ids, other.class_ids)
        logits = np.log(own.scores / (1 - own.scores.astype(np.float64)))
        np.testing.assert_allclose(other.scores, 1 / (1 + np.exp(-2.5 * logits - 0.5)), rtol=1e-5)
    each = list(detector.detect_each(images, score_threshold=0.02, calibrated=True, **options))
    assert [rows(one) for one in each if isinstance(one, Detections)] == [rows(one) for one in probable]


def test_weights_without_thresholds_or_map_say_so(images: list[Any]) -> None:
    detector = Detector.load("scenes", device="cpu")
    with pytest.raises(ConfigError, match=r"the weights have no thresholds; choose them with `detector evaluate"):
        detector.detect(images[0], score_threshold="auto")
    with pytest.raises(ConfigError, match=r"calibrated: the weights have no map .* --calibrate --save"):
        detector.detect(images[0], calibrated=True)
    with pytest.raises(ConfigError, match=r"expected one number, or one for each of \d+ classes, got 2"):
        detector.detect(images[0], score_threshold=(0.1, 0.2))


def test_score_map_is_increasing_from_zero_to_one() -> None:
    scores = np.linspace(0, 1, 1001, dtype=np.float32)
    for slope, intercept in ((0.2, -3), (1, 0), (3.04, 0.06), (9, 4)):
        mapped = ScoreMap(slope, intercept).apply(scores)
        assert mapped.dtype == np.float32
        assert mapped[0] == 0
        assert mapped[-1] == 1
        middle = mapped[(mapped > 1e-30) & (mapped < 0.9999)]
        assert len(middle) > 300
        assert all(low < high for low, high in pairwise(middle.tolist()))
