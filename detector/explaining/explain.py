"""`explain`: why the objects of labeled images were missed, and why false positives were detected."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from os import PathLike, fspath
from pathlib import Path
from typing import get_args

import numpy as np

from detector.analysis.counterfactuals import SettingName, find_settings
from detector.analysis.false_positives import explain_false_positives
from detector.analysis.misses import explain_misses
from detector.analysis.outcome import outcome_of
from detector.arrays import ImageArray
from detector.data.data_set import DataSet
from detector.data.open_data import open_data
from detector.errors import ConfigError, FileError, InputError, LabelError, WeightsError
from detector.explaining.annotate import annotate
from detector.explaining.crops import CropFinder
from detector.explaining.explanation import Explanation, ImageExplanation
from detector.explaining.prices import Detectors, price_settings
from detector.explaining.truth import LabeledImage, labeled_images
from detector.files import free_name, json_bytes, local_path, safe_name
from detector.images import write_image
from detector.letterbox import LARGEST_SIDE, SIZE_DIVISOR
from detector.options import (
    ALL_CLASSES,
    IOU_THRESHOLD,
    MATCH_IOU,
    MAX_DETECTIONS,
    MAX_PIXELS,
    SCORE_THRESHOLD,
    DetectOptions,
    ReadOptions,
    RuntimeName,
    SuppressionName,
)
from detector.output_folder import OutputFolder, claim_folder
from detector.predict.detector import Detector
from detector.progress import progress_bar

log = logging.getLogger(__name__)

RESULT_NAME = "explanation.json"
"""Name of the JSON file in the output folder."""

_LARGER = (1.5, 2.0)
"""Input sizes to try, as multiples of the present input size."""

ImagePath = str | PathLike[str]


def explain(
    images: ImagePath | Iterable[ImagePath],
    weights: str | Path | Detector,
    *,
    data: str | Path | None = None,
    truth: str | Path | None = None,
    split: str | None = None,
    out: str | Path | None = None,
    overwrite: bool = False,
    score_threshold: float = SCORE_THRESHOLD,
    iou_threshold: float = IOU_THRESHOLD,
    max_detections: int = MAX_DETECTIONS,
    suppression: SuppressionName | None = None,
    class_agnostic: bool | None = None,
    min_iou: float = MATCH_IOU,
    device: str = "auto",
    runtime: RuntimeName = "auto",
    input_size: int | None = None,
    threads: int | None = None,
    allow_outside: bool = False,
    max_pixels: int = MAX_PIXELS,
) -> Explanation:
    """Explain each missed object and each false positive in labeled images.

    For each object: found, or the one cause it was missed, from the raw predictions at all grid points; and the
    settings that find it, with their price: the additional false positives per image on the val split.
    `detector.analysis.misses` defines the causes, and the order in which they are decided.

    Args:
        images: an image file, or several files, folders or glob patterns; empty: all images of the split.
        weights: path of weights or of an exported graph without NMS, the name of shipped weights, or a loaded
            `Detector`. With a loaded detector, no larger input size is tried.
        data: dataset that contains the images; its val split gives the prices, its training split similar crops.
        truth: label file with the objects of the images, in any format that `open_data` reads; None: `data` has them.
        split: split of the images; None: images are searched in all splits; without images, as for `evaluate`.
        out: output folder for annotated images and explanation.json; None: nothing is written.
        overwrite: whether to replace files in the folder that this package did not write, or that were changed since.
        score_threshold: as for `Detector.detect`.
        iou_threshold: as for `Detector.detect`.
        max_detections: as for `Detector.detect`.
        suppression: as for `Detector.detect`.
        class_agnostic: as for `Detector.detect`.
        min_iou: IoU from which a detection finds an object of its class, above 0, at most 1.
        device: as for `Detector.load`; must not be set with a loaded detector.
        runtime: as for `Detector.load`; must not be set with a loaded detector.
        input_size: as for `Detector.load`; must not be set with a loaded detector.
        threads: as for `Detector.load`; must not be set with a loaded detector.
        allow_outside: as for `open_data`.
        max_pixels: as for `open_data`.

    Raises:
        InputError: an image does not exist or is not labeled, the labels or weights cannot be read, the classes differ,
            the graph contains NMS, a parameter is out of range, or the folder cannot be written.
    """
    options = DetectOptions(
        score_threshold=score_threshold,
        iou_threshold=iou_threshold,
        max_detections=max_detections,
        classes=ALL_CLASSES,
        suppression=suppression,
        class_agnostic=class_agnostic,
    )
    if not 0 < min_iou <= 1:
        raise ConfigError(f"min_iou (--match-iou): expected a number above 0 and at most 1, got {min_iou}")
    if data is None and truth is None:
        raise ConfigError("explain needs the objects in the images: give a dataset (--data) or a label file (--truth)")
    read = ReadOptions(allow_outside=allow_outside, max_pixels=max_pixels)
    with ExitStack() as stack:
        folder = None
        if out is not None:
            claimed = claim_folder(local_path(out), "explaining", names=[RESULT_NAME], overwrite=overwrite)
            folder = stack.enter_context(claimed)
        detector, larger = _load(weights, device, runtime, input_size, threads)
        data_set = None if data is None else _open(data, read)
        labels = data_set if truth is None else _open(truth, read)
        assert labels is not None
        found = labeled_images(_specs(images), labels, split, detector.info, options=read)
        names = _file_names(found)
        if folder is not None:
            _check_outside(found, folder)
            folder.claim(names.values())
        detectors = Detectors(detector, detector.resolve_options(options), larger, _tile_size(found), min_iou)
        explanation = _explain(found, detectors, data_set)
        if folder is not None:
            _write(folder, explanation, {image.name: image for image in found}, names)
        return explanation


def _explain(images: Sequence[LabeledImage], detectors: Detectors, data_set: DataSet | None) -> Explanation:
    """Explain each image, and try the settings that find missed objects on the val split.

    Raises:
        LabelError: no image can be read.
    """
    crops = CropFinder(detectors.base, data_set)
    explained, failed = [], {}
    for image in progress_bar(images, unit="image", description="explain"):
        try:
            pixels = image.read()
        except InputError as error:
            log.warning("%s", error)
            failed[image.name] = str(error)
            continue
        explained.append(_explain_image(image, pixels, detectors, crops))
    if not explained:
        raise LabelError(f"none of the images can be explained; {next(iter(failed.values()))}")
    used = {setting for image in explained for own in image.settings for setting in own}
    names = get_args(SettingName)
    settings = sorted(
        used,
        key=lambda setting: (names.index(setting.name), -setting.value if setting.name == "conf" else setting.value),
    )
    prices = price_settings(detectors, data_set, settings)
    return Explanation(
        images=tuple(
            replace(image, settings=tuple(prices.sorted(own) for own in image.settings)) for image in explained
        ),
        failed=failed,
        class_names=detectors.base.class_names,
        options=detectors.options,
        min_iou=detectors.min_iou,
        input_hw=detectors.base.input_hw,
        prices=prices,
        similar_note=crops.note,
    )


def _open(path: str | Path, options: ReadOptions) -> DataSet:
    """Open a dataset or a label file at a local path; of the options, only those of `open_data` are used."""
    return open_data(local_path(path), allow_outside=options.allow_outside, max_pixels=options.max_pixels)


def _specs(images: ImagePath | Iterable[ImagePath]) -> list[str]:
    """Return the images to find as texts."""
    return [fspath(images)] if isinstance(images, str | PathLike) else [fspath(image) for image in images]


def _load(
    weights: str | Path | Detector, device: str, runtime: RuntimeName, input_size: int | None, threads: int | None
) -> tuple[Detector, dict[int, Detector]]:
    """Return the detector, and input size → detector with the same weights, for the larger input sizes to try.

    No larger size is tried for a loaded detector, and for an export with a fixed input size. The arguments are those of
    `explain`.

    Raises:
        InputError: the weights cannot be loaded or contain NMS, or are a loaded detector and another argument is set.
    """
    if isinstance(weights, Detector):
        if (device, runtime, input_size, threads) != ("auto", "auto", None, None):
            raise ConfigError(
                "device, runtime, input_size, threads: a loaded detector has its own values; leave them out"
            )
        _check_raw(weights)
        return weights, {}
    load = partial(Detector.load, weights, device=device, runtime=runtime, threads=threads)
    detector = load(input_size=input_size)
    _check_raw(detector)
    side = max(detector.input_hw)
    sizes = {round(side * factor / SIZE_DIVISOR) * SIZE_DIVISOR for factor in _LARGER}
    larger: dict[int, Detector] = {}
    for size in sorted(size for size in sizes if side < size <= LARGEST_SIDE):
        try:
            larger[size] = load(input_size=size)
        except WeightsError as error:
            log.info("larger input sizes are not tried: %s", error)
            break
    return detector, larger


def _check_raw(detector: Detector) -> None:
    """Raise WeightsError if the predictions before NMS are not known, because the graph contains NMS."""
    if detector.runtime.graph_info.nms is not None:
        raise WeightsError(
            "this export contains NMS, so the predictions before NMS are not known, from which misses are explained: "
            "use the .safetensors file from which it was exported, or export it again without --nms in"
        )


def _check_outside(images: Iterable[LabeledImage], folder: OutputFolder) -> None:
    """Raise FileError if an image is in the output folder, where its annotated image could replace it."""
    inside = folder.path.resolve()
    for image in images:
        # The names of rendered images are no files.
        if image.name.exists() and image.name.resolve().is_relative_to(inside):
            raise FileError(f"{image.name}: this image is in the output folder {folder.path}; choose another --out")


def _explain_image(
    image: LabeledImage, pixels: ImageArray, detectors: Detectors, crops: CropFinder
) -> ImageExplanation:
    """Explain one image [H, W, 3]."""
    predictions, truth, options = detectors.predict(pixels), image.annotation, detectors.options
    outcome = outcome_of(predictions, truth, options, detectors.min_iou)
    stride = 32 if detectors.base.info.config.get("head") == "yolo_v1" else 8
    misses = explain_misses(predictions, truth, options, outcome=outcome, min_iou=detectors.min_iou, stride=stride)
    settings = [list(own) for own in find_settings(predictions, truth, options, misses, min_iou=detectors.min_iou)]
    for setting in detectors.views if misses else ():
        finds = detectors.matches_with(setting, pixels, predictions, truth).found
        for miss, own in zip(misses, settings, strict=True):
            if finds[miss.object] and all(known.name != setting.name for known in own):
                own.append(setting)
    wrong = explain_false_positives(outcome, truth, min_iou=detectors.min_iou)
    background = [item.detection for item in wrong if item.kind == "background"]
    similar = dict(zip(background, crops.find(pixels, outcome.boxes[background]), strict=True))
    return ImageExplanation(image.name, truth, outcome, misses, tuple(map(tuple, settings)), wrong, similar)


def _tile_size(images: Sequence[LabeledImage]) -> int:
    """Return the tile size to try: half the long side of the images, a multiple of 32; 0 if their size is unknown.

    One size for all images, so that its price on val is measured once.
    """
    sides = [max(image.annotation.image_hw) for image in images]
    return round(float(np.median(sides)) / 2 / SIZE_DIVISOR) * SIZE_DIVISOR


def _file_names(images: Sequence[LabeledImage]) -> dict[Path, str]:
    """Return name of an image → name of its annotated image; images of the same name get a number."""
    taken: dict[str, int] = {}
    return {image.name: free_name(safe_name(image.name.stem), taken, ".jpg") for image in images}


def _write(
    folder: OutputFolder, explanation: Explanation, sources: Mapping[Path, LabeledImage], names: Mapping[Path, str]
) -> None:
    """Write one annotated image per image, and the JSON file.

    Args:
        folder: the output folder.
        explanation: the explanation.
        sources: name of an image → the image, which is decoded again.
        names: name of an image → name of its annotated image.
    """
    folder.remove_earlier()
    values = explanation.to_json()
    for image, own in zip(explanation.images, values["images"], strict=True):
        try:
            pixels = sources[image.name].read()
        except InputError as error:  # it was changed or removed since
            log.warning("%s", error)
            continue
        own["annotated"] = names[image.name]
        with folder.writing(names[image.name], ".jpg") as part:
            write_image(part, annotate(pixels, explanation, image))
    folder.write(RESULT_NAME, json_bytes(values))
