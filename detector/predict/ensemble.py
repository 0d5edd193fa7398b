"""The class `Ensemble`: several detectors in one, whose boxes are fused (weighted boxes fusion)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from detector.detections import Detections
from detector.errors import ConfigError
from detector.image_hashes import hashes_of_all
from detector.image_inputs import ImageLike
from detector.ops.fusion import FUSION_IOU, fuse_boxes
from detector.ops.nms import nms
from detector.options import ALL_CLASSES, MAX_DETECTIONS, DetectOptions, RuntimeName
from detector.predict.detector import Detector, stored_thresholds
from detector.predict.stream import Entry, Letterboxed
from detector.trained_classes import common_classes
from detector.weights_info import WeightsInfo
from detector.wording import plural, shown

_DEFAULTS = DetectOptions()

_LOWEST_THRESHOLD = 0.05
"""Largest score threshold of the single detectors: a box that one of them finds with a low score still counts for the
mean, so the threshold of the user applies only to the fused boxes."""


class Ensemble(Detector):
    """Several detectors whose boxes are fused: more accurate than each of them, and as slow as all of them together.

    It has the methods of `Detector` that detect objects in images. The classes are those of the first detector, then
    the new ones of the others; they are matched by name, so their order may differ. The score of an object is the mean
    of the scores that the detectors give, times the fraction of the detectors that find it. Only detectors that know
    the class are counted, so an object of a class that one detector knows keeps its score.

    Thresholds and calibration that are stored with the weights are for scores of a single detector: "auto" and
    `calibrated` are refused.

    Args:
        detectors: at least two detectors.
        fusion_iou: IoU above which boxes of several detectors are the same object, 0..1.

    Attributes:
        detectors: the detectors.
        fusion_iou: the IoU.

    Raises:
        ConfigError: there are fewer than two detectors, two classes of a detector have the same name, or `fusion_iou`
            is out of range.

    Source: Solovyev, Wang and Gabruseva, Weighted boxes fusion, 2021.
    """

    def __init__(self, detectors: Sequence[Detector], *, fusion_iou: float = FUSION_IOU) -> None:
        if isinstance(detectors, Detector) or len(detectors) < 2:
            count = 1 if isinstance(detectors, Detector) else len(detectors)
            raise ConfigError(f"an ensemble needs at least two detectors, got {count}; for one, use Detector")
        for number, detector in enumerate(detectors, 1):
            if isinstance(detector, Ensemble) or not isinstance(detector, Detector):
                raise ConfigError(f"detector {number} of an ensemble: expected a Detector, got {shown(detector)}")
            names = detector.class_names
            if len(set(names)) != len(names):
                name = next(name for name in names if names.count(name) > 1)
                raise ConfigError(
                    f"detector {number} of an ensemble: two of its classes have the name {name!r}, so they cannot be "
                    "matched with those of the other detectors; rename one in the dataset and train again"
                )
        if isinstance(fusion_iou, bool) or not isinstance(fusion_iou, int | float) or not 0 <= fusion_iou <= 1:
            raise ConfigError(f"fusion_iou: expected a number from 0 to 1, got {shown(fusion_iou)}")
        self.detectors = tuple(detectors)
        self.fusion_iou = float(fusion_iou)
        self.info = _info_of(self.detectors)
        self._origin = None
        self.suppression = self.detectors[0].suppression
        self.class_agnostic = all(detector.class_agnostic for detector in self.detectors)
        self._ids = tuple(
            np.array([self.info.class_names.index(name) for name in detector.class_names], np.int64)
            for detector in self.detectors
        )
        self._known = tuple(sum(class_id in ids for ids in self._ids) for class_id in range(len(self.info.class_names)))

    @classmethod
    def load(
        cls,
        weights: str | Path | Sequence[str | Path],
        *,
        device: str = "auto",
        runtime: RuntimeName = "auto",
        input_size: int | None = None,
        threads: int | None = None,
        cache: bool = True,
        fusion_iou: float = FUSION_IOU,
    ) -> "Ensemble":
        """Load several weights files or exported graphs, and return an ensemble.

        Args:
            weights: at least two weights, as for `Detector.load`.
            device: as for `Detector.load`, like the following parameters; for all weights.
            runtime: inference backend.
            input_size: long side of the network input in pixels.
            threads: largest number of CPU threads.
            cache: whether a converted graph is kept in the cache.
            fusion_iou: as for `Ensemble`.

        Raises:
            InputError: as for `Detector.load` and `Ensemble`.
        """
        paths = [weights] if isinstance(weights, str | Path) else list(weights)
        return cls(
            [
                Detector.load(path, device=device, runtime=runtime, input_size=input_size, threads=threads, cache=cache)
                for path in paths
            ],
            fusion_iou=fusion_iou,
        )

    def __getattr__(self, name: str) -> Any:
        # Code for a single network must not silently use one of several.
        if name == "runtime":
            raise ConfigError(
                "an ensemble has no single network, so it can only detect and be evaluated; for anything else (export, "
                "serve, explain, thresholds, calibration), use each of its weights alone"
            )
        raise AttributeError(f"'{type(self).__name__}' object has no attribute {name!r}")

    def __copy__(self) -> "Ensemble":
        """Return an ensemble of the same detectors, which never change."""
        copy = type(self)(self.detectors, fusion_iou=self.fusion_iou)
        vars(copy).update(vars(self))
        return copy

    def __reduce__(self) -> tuple[Callable[..., "Ensemble"], tuple[object, ...]]:
        """Return how to load this ensemble again, for pickling; raise ConfigError if a detector cannot be pickled."""
        return _make_again, (type(self), self.detectors, self.fusion_iou)

    @property
    def input_hw(self) -> tuple[int, int]:
        """Height and width of the network input of the first detector in pixels; those of the others may differ."""
        return self.detectors[0].input_hw

    @property
    def runtime_name(self) -> str:
        """Names of the inference backends."""
        return " + ".join(dict.fromkeys(detector.runtime_name for detector in self.detectors))

    def resolve_options(self, options: DetectOptions) -> DetectOptions:
        """Return options in which class names are replaced by ids; NMS variants stay those of each detector.

        Raises:
            ConfigError: no detector has one of the classes; the options need thresholds or a calibration of single
                weights; or there is not one threshold for each class.
        """
        if options.score_threshold == "auto" or options.calibrated:
            name = "calibrated (--calibrated)" if options.calibrated else "score_threshold auto (--conf auto)"
            raise ConfigError(
                f"{name}: what is stored with weights is for the scores of these weights alone, and an ensemble of "
                f"{plural(len(self.detectors), 'detector')} gives others; give a number as threshold"
            )
        stored_thresholds(options.score_threshold, self.info)  # checks the number of thresholds
        return replace(options, classes=self._class_ids_of(options))

    def detect_letterboxed(self, inputs: Sequence[Letterboxed], options: DetectOptions = _DEFAULTS) -> list[Detections]:
        """Return the fused detections in images that are letterboxed to the input size, which all detectors must share.

        Args:
            inputs: as for `Detector.detect_letterboxed`.
            options: as for `Detector.detect_letterboxed`.

        Raises:
            ConfigError: the detectors have different input sizes, or a class is unknown.
        """
        if len({detector.input_hw for detector in self.detectors}) > 1:
            raise ConfigError(
                "the detectors of this ensemble have different input sizes, so images cannot be letterboxed for all of "
                "them; pass the images to detect, or load the weights with the same input_size"
            )
        options = self.resolve_options(options)
        found = [
            [] if own is None else detector.detect_letterboxed(inputs, own)
            for detector, own in zip(self.detectors, self.options_of_detectors(options), strict=True)
        ]
        return self.fuse(found, len(inputs), options)

    def options_of_detectors(self, options: DetectOptions) -> list[DetectOptions | None]:
        """Return the options of each detector; None for one that knows none of the classes.

        Args:
            options: options of the ensemble, as `resolve_options` returns them.
        """
        classes: list[Any] = [ALL_CLASSES] * len(self.detectors)
        if options.classes is not None:
            assert isinstance(options.classes, tuple)
            wanted = set(options.classes)
            classes = [tuple(i for i, own in enumerate(ids.tolist()) if own in wanted) for ids in self._ids]
        return [
            replace(
                options,
                score_threshold=min(options.lowest_threshold, _LOWEST_THRESHOLD),
                max_detections=max(options.max_detections, MAX_DETECTIONS),
                classes=own,
            )
            if own
            else None
            for own in classes
        ]

    def fuse(self, found: Sequence[Sequence[Detections]], count: int, options: DetectOptions) -> list[Detections]:
        """Fuse the detections of all detectors, and return the detections of each image.

        Args:
            found: for each detector, the detections in each image; empty for a detector that was not asked.
            count: number of images.
            options: options of the ensemble, as `resolve_options` returns them.
        """
        return [
            self._fuse_image([(ids, own[index]) for ids, own in zip(self._ids, found, strict=True) if own], options)
            for index in range(count)
        ]

    def _fuse_image(self, found: Sequence[tuple[Any, Detections]], options: DetectOptions) -> Detections:
        """Fuse the detections in one image; `found` has a pair (class ids of the ensemble, detections) per detector."""
        fused = fuse_boxes(
            np.concatenate([np.zeros((0, 4), np.float32), *(own.boxes for _, own in found)]),
            np.concatenate([np.zeros(0, np.float32), *(own.scores for _, own in found)]),
            np.concatenate([np.zeros(0, np.int64), *(ids[own.class_ids] for ids, own in found)]),
            np.concatenate([np.zeros(0, np.int64), *(np.full(len(own), i) for i, (_, own) in enumerate(found))]),
            self._known,
            self.fusion_iou,
        )
        thresholds = np.broadcast_to(np.asarray(options.score_threshold, np.float32), len(self._known))
        keep = np.flatnonzero(fused.scores > thresholds[fused.class_ids])
        agnostic = self.class_agnostic if options.class_agnostic is None else options.class_agnostic
        if agnostic:
            keep = keep[nms(fused.boxes[keep], fused.scores[keep], None, options.iou_threshold, len(keep) or 1)]
        keep = keep[: options.max_detections]
        return Detections(fused.boxes[keep], fused.scores[keep], fused.class_ids[keep], self.class_names)

    def _detect_batch(self, entries: Sequence[Entry], options: DetectOptions) -> list[Detections]:
        """Return the fused detections of each entry."""
        if not entries:
            return []
        found: list[list[Detections]] = []
        for detector, own in zip(self.detectors, self.options_of_detectors(options), strict=True):
            if own is None:
                found.append([])
                continue
            resolved = detector.resolve_options(own)
            prepared = [detector._prepare(entry.image, resolved) for entry in entries]
            found.append(detector._detect_batch(prepared, resolved))
        return self.fuse(found, len(entries), options)

    def _prepare(self, image: ImageLike, options: DetectOptions) -> Entry:
        """Read an image, and return its entry, with the views of the first detector."""
        return self.detectors[0]._prepare(image, options)


def _make_again(kind: type[Ensemble], detectors: Sequence[Detector], fusion_iou: float) -> Ensemble:
    """Make an ensemble again; called when it is unpickled."""
    return kind(detectors, fusion_iou=fusion_iou)


def _info_of(detectors: Sequence[Detector]) -> WeightsInfo:
    """Return the classes of all detectors, and the hashes of the images on which any of them was trained.

    A category id that is taken by another class is replaced by the next free number.
    """
    categories: dict[str, int] = {}
    for detector in detectors:
        for name, category_id in zip(detector.info.class_names, detector.info.category_ids, strict=True):
            if name not in categories:
                taken = set(categories.values())
                categories[name] = category_id if category_id not in taken else max(taken) + 1
    hidden = {
        name
        for name in categories
        if not any(_is_shown(detector.info, name) for detector in detectors if name in detector.class_names)
    }
    names = tuple(categories)
    facts: Mapping[str, Any] = {"ensemble": [detector.info.model for detector in detectors]}
    return WeightsInfo(
        model=" + ".join(detector.info.model for detector in detectors),
        class_names=names,
        category_ids=tuple(categories.values()),
        input_hw=detectors[0].info.input_hw,
        config=detectors[0].info.config,
        facts=facts,
        image_hashes=hashes_of_all([detector.info.image_hashes for detector in detectors]),
        default_classes=tuple(i for i, name in enumerate(names) if name not in hidden) if hidden else None,
        trained_classes=common_classes([(own.info.class_names, own.info.trained_classes) for own in detectors]),
    )


def _is_shown(info: WeightsInfo, name: str) -> bool:
    """Return whether a detector detects a class by default."""
    return info.default_classes is None or info.class_names.index(name) in info.default_classes
