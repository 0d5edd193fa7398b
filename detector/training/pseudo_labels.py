"""Pseudo-labels: what the averaged weights detect in the unlabeled images, as labels for the rest of the run.

Detections with a high score become objects; those with a lower score become ignore regions, which are neither object
nor background. A class that the teacher detects less often than it occurs in the labeled images counts as not labeled:
it is not learned as background. The labels are written to unlabeled.json, and training uses what was read from this
file, so that a resumed run has exactly the same labels.

Source: Tarvainen and Valpola, Mean teachers are better role models, 2017 (the averaged weights as the teacher); Sohn et
al., A Simple Semi-Supervised Learning Framework for Object Detection (STAC), 2020 (labels are made once, by a score
threshold).
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from detector.annotation import Annotation
from detector.arrays import Doubles, Floats
from detector.boxes import area, clip
from detector.data.split import evenly_spaced
from detector.detections import Detections
from detector.errors import FileError
from detector.loader.dataset import DetectionDataset
from detector.options import ALL_CLASSES, DetectOptions
from detector.predict.detector import Detector
from detector.training.unlabeled import NAME, UnlabeledImages
from detector.wording import plural

log = logging.getLogger(__name__)

PASSES_PER_SAMPLE = 0.25
"""Largest number of inference passes of the teacher, per training sample of the run. A pass takes about a third of the
time of a training sample, so the labeling takes about a tenth of the run."""

_LOWEST_SCORE = 0.05
"""Detections with a lower score are background."""

_LOWEST_LABEL = 0.2
"""With `unlabeled_score: by_class`, lowest score of a label."""

_LABELED_FRACTION, _IGNORED_FRACTION = 0.6, 2.0
"""With `unlabeled_score: by_class`: the best detections of a class become labels, so many that each image has this
fraction of the objects of a labeled image. Labels and ignore regions together are the second number times as many."""

_DECIMALS = 2
"""Number of decimals of the coordinates in unlabeled.json."""

_SMALLEST_SIDE = 1.0
"""Narrower detections are not used, in pixels."""

Score = Literal["by_class"] | float


def affordable_passes(steps: int, batch_size: int) -> int:
    """Return the largest number of inference passes for the labeling, in a run of `steps` steps."""
    return int(PASSES_PER_SAMPLE * steps * batch_size)


def choose_images(count: int, passes: int) -> tuple[list[int], bool]:
    """Return the indices of the images in which the teacher detects, and whether flip TTA is affordable.

    Args:
        count: number of unlabeled images.
        passes: largest number of inference passes.
    """
    chosen = evenly_spaced(range(count), max(1, passes))
    return chosen, 2 * len(chosen) <= passes


def detect_unlabeled(
    detector: Detector, dataset: DetectionDataset, indices: Sequence[int], *, tta: bool, stop: Callable[[], bool]
) -> list[Detections] | None:
    """Return the detections in some of the unlabeled images, in pixels of the images; None if `stop` returned True.

    Args:
        detector: the teacher.
        dataset: the unlabeled images.
        indices: indices of the images.
        tta: whether to detect in the flipped images, too.
        stop: called between batches; True ends the detection.
    """
    options = DetectOptions(score_threshold=_LOWEST_SCORE, classes=ALL_CLASSES, tta=tta)
    found: list[Detections] = []
    for start in range(0, len(indices), options.batch_size):
        if stop():
            return None
        block = indices[start : start + options.batch_size]
        images = [dataset.sample(index).image for index in block]
        # A list, not an iterator, so that the batches are the same in each run.
        results = list(detector.detect_with_images(images, options))
        for index, image, result in zip(block, images, results, strict=True):
            assert not isinstance(result, Exception)
            height, width = dataset.annotations[index].image_hw
            scale = np.array([width / image.shape[1], height / image.shape[0]] * 2, dtype=np.float32)
            found.append(replace(result[1], boxes=clip(result[1].boxes * scale, (height, width))))
    return found


def label_scores(
    found: Sequence[Detections], labeled: Sequence[Annotation], class_count: int, score: Score
) -> tuple[list[float | None], list[float]]:
    """Return for each class the lowest score of a label, None for no labels, and the lowest score of an ignore region.

    With "by_class", the number of labels per image follows from the number of objects per labeled image. A fixed score
    would not fit all runs: the scores of a short run are low.

    Args:
        found: detections in the unlabeled images.
        labeled: annotations of the labeled images.
        class_count: number of classes.
        score: the setting `unlabeled_score`.
    """
    if score != "by_class":
        return [score] * class_count, [max(_LOWEST_SCORE, score / 2)] * class_count
    ids = np.concatenate([own.class_ids for own in found])
    scores = np.concatenate([own.scores for own in found])
    expected = _expected(found, labeled, class_count)
    label: list[float | None] = []
    ignore: list[float] = []
    for class_id in range(class_count):
        own = np.sort(scores[ids == class_id])[::-1]
        if not expected[class_id]:
            label.append(None)
            ignore.append(_LOWEST_LABEL)
            continue
        lowest = max(_LOWEST_LABEL, _score_at(own, _LABELED_FRACTION * expected[class_id]))
        label.append(lowest)
        ignore.append(min(lowest, _score_at(own, _IGNORED_FRACTION * expected[class_id])))
    return label, ignore


def _largest_expected(found: Sequence[Detections], labeled: Sequence[Annotation], class_count: int) -> Doubles:
    """Return the result of `_expected` if images in which a class is not labeled have as many objects as the others."""
    images = np.zeros(class_count)
    for annotation in labeled:
        images += 1 if annotation.labeled_classes is None else annotation.labeled_classes
    return _expected(found, labeled, class_count) * len(labeled) / np.maximum(images, 1)


def _expected(found: Sequence[Detections], labeled: Sequence[Annotation], class_count: int) -> Doubles:
    """Return the expected number of objects of each class in the unlabeled images, by that in the labeled images."""
    objects = np.concatenate([annotation.class_ids[~annotation.is_crowd] for annotation in labeled])
    return np.asarray(np.bincount(objects, minlength=class_count) * len(found) / len(labeled), np.float64)


def _score_at(scores: Floats, count: float) -> float:
    """Return the score that the `count` best of some descending scores reach; `_LOWEST_SCORE` if there are fewer."""
    rank = max(1, round(count))
    return float(scores[rank - 1]) if rank <= len(scores) else _LOWEST_SCORE


def pseudo_labels(
    found: Sequence[Detections],
    indices: Sequence[int],
    images: UnlabeledImages,
    labeled: Sequence[Annotation],
    score: Score,
) -> dict[str, Any]:
    """Return the content of unlabeled.json; log how many labels each class gets.

    Args:
        found: detections in the unlabeled images.
        indices: index of the image of each element of `found`.
        images: the unlabeled images.
        labeled: annotations of the labeled images.
        score: the setting `unlabeled_score`.
    """
    names = found[0].class_names
    label, ignore = label_scores(found, labeled, len(names), score)
    expected = _largest_expected(found, labeled, len(names))
    detected = np.zeros(len(names), dtype=np.int64)
    counts = np.zeros((2, len(names)), dtype=np.int64)
    rows = []
    for index, own in zip(indices, found, strict=True):
        objects: list[dict[str, Any]] = []
        ignored: list[dict[str, Any]] = []
        for class_id, value, box in zip(own.class_ids.tolist(), own.scores.tolist(), own.boxes.tolist(), strict=True):
            box = [round(side, _DECIMALS) for side in box]
            if min(box[2] - box[0], box[3] - box[1]) < _SMALLEST_SIDE or value < ignore[class_id]:
                continue
            detected[class_id] += 1
            lowest = label[class_id]
            kind = objects if lowest is not None and value >= lowest else ignored
            kind.append({"class": names[class_id], "class_id": class_id, "score": round(value, 4), "box": box})
        if objects:
            for number, kind in enumerate((objects, ignored)):
                for row in kind:
                    counts[number, row["class_id"]] += 1
            path, digest = images.dataset.annotations[index].image_path, images.hashes[index]
            rows.append({"image": str(path), "hash": digest.hex(), "objects": objects, "ignored": ignored})
    log.info(
        f"{NAME}: {len(rows)} of {len(found)} get {plural(int(counts[0].sum()), 'pseudo-label')} and "
        f"{plural(int(counts[1].sum()), 'ignore region')}; {len(found) - len(rows)} without a confident detection, and "
        f"{len(images.hashes) - len(found)} for which there is no time, are left out"
    )
    classes = []
    for class_id, name in enumerate(names):
        lowest, labels, regions = label[class_id], int(counts[0, class_id]), int(counts[1, class_id])
        shown = None if lowest is None else round(lowest, 4)
        classes.append({"class": name, "label_score": shown, "ignore_score": round(ignore[class_id], 4)})
        is_background = bool(0 < expected[class_id] <= detected[class_id])
        classes[-1] |= {"labels": labels, "ignored": regions, "background_elsewhere": is_background}
        text = "none" if lowest is None else f"from score {lowest:.2f}"
        text = f"  {name}: {plural(labels, 'pseudo-label')} ({text}), {plural(regions, 'ignore region')}"
        if not is_background:
            text += f"; too few for about {expected[class_id]:.0f} objects, so the rest is not learned as background"
        log.info("%s", text)
    if not rows:
        log.warning(
            f"{NAME}: no image has a confident detection, so the rest of the run uses labeled images only; a longer "
            "run or a lower unlabeled_score may give some"
        )
    return {"detected_images": len(found), "classes": classes, "images": rows}


def with_pseudo_labels(values: Any, images: UnlabeledImages) -> tuple[list[int], list[Annotation]]:
    """Return the indices of the images with pseudo-labels, and their annotations, from the content of unlabeled.json.

    Args:
        values: content of the file; its hash was checked.
        images: the unlabeled images.

    Raises:
        FileError: an image of the file is not among the unlabeled images.
    """
    index_of = {digest.hex(): index for index, digest in enumerate(images.hashes)}
    complete = np.array([row["background_elsewhere"] for row in values["classes"]], dtype=np.bool_)
    indices, annotations = [], []
    for row in values["images"]:
        if row["hash"] not in index_of:
            raise FileError(f"{row['image']}: has pseudo-labels, but is no longer among the unlabeled images")
        index = index_of[row["hash"]]
        boxes = [*row["objects"], *row["ignored"]]
        corners = np.array([box["box"] for box in boxes], dtype=np.float32)
        indices.append(index)
        annotations.append(
            replace(
                images.dataset.annotations[index],
                boxes=corners,
                class_ids=np.array([box["class_id"] for box in boxes], dtype=np.int64),
                is_crowd=np.arange(len(boxes)) >= len(row["objects"]),
                areas=area(corners),
                labeled_classes=None if complete.all() else complete,
            )
        )
    return indices, annotations
