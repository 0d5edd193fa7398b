"""What the data themselves tell before anything is learned: rows, classes, boxes and pictures; NumPy, never torch.

Each check is a function that gives one `Finding`. The first split is always the one to learn from, the others are those
to evaluate on. Pictures are looked at small, and an even sample of them where there are many.
"""

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from detector import images
from detector.annotation import Annotation
from detector.boxes import Floats, area, pairwise_iou
from detector.config import Config
from detector.data.ledger import Ledger
from detector.data.split import Split, read_file
from detector.engine.checks.finding import Finding, Verdict
from detector.errors import InputError
from detector.images import Pixels
from detector.letterbox import CANVAS_STEP, Letterbox, canvas_of_aspect

_FEW_OBJECTS = 20
"""A class with fewer objects to learn from will hardly be learned."""

_IMBALANCE = 100
"""So many times more objects of the commonest class than of the rarest are worth a look."""

_SMALLEST_SIDE = 3.0
"""Canvas pixels below which a side of a box shows next to nothing."""

_STRIDES = (8, 16, 32)
"""Of the network's grids: `model.grid.STRIDES`, which cannot be imported without torch."""

_THUMBNAIL = 32
"""Side of the small pictures; a JPEG of 256 pixels or more is decoded at an eighth for them."""

_MOST_PICTURES = 5000
_MOST_PIXELS = 1.5e9
_MOST_DRAWN = 600
"""At most so many pictures, and pixels in their files, are decoded as thumbnails: some five seconds. Fewer of pictures
that are no files, since they have no quick way to be made small."""

_FLAT = 2.0
"""Grey levels of 255: a thumbnail with a smaller deviation shows nothing."""

_ALIKE = 0.97
"""Correlation of the brightness steps from which two pictures count as near duplicates.

Measured: copies darkened, shrunk, compressed or with noise 0.98 to 1 (0.87 on bare floor), other pictures of a
microscope at most 0.38, other objects on one floor under one lamp at most 0.969.
"""

_EDGE_REACH = 24
_EDGE_WIDTH = 640
_EDGE_PICTURES = 150
_EDGE_PIXELS = 4e8
"""A common shift of boxes is sought up to so far, in pixels of pictures made so long, on at most so many of them."""

_SHIFTED = 4.0
"""Pixels of `_EDGE_WIDTH` from which a shift is a fault. Measured: true boxes 0 to 1.5, 2.5 of half of them."""

_EDGE_CONTRAST = 0.4
"""How much more edge there must be under boxes than around. Measured: true boxes 0.97 to 3.6, those of other pictures
mostly 0.1 to 0.6."""

_FEW_EDGES = 80
"""With fewer objects away from the picture's border edges tell nothing."""


@dataclass(frozen=True, eq=False)
class Objects:
    """The N objects of a split as one table, crowd regions left out.

    Attributes:
        split: where they stand.
        boxes: [N, 4] in pixels of their pictures.
        on_canvas: [N, 4] in canvas pixels.
        class_ids: [N].
        picture: [N] position in `split.annotations`.
        image_hw: [N, 2] size of the picture of each.
    """

    split: Split
    boxes: Floats
    on_canvas: Floats
    class_ids: npt.NDArray[np.int64]
    picture: npt.NDArray[np.int64]
    image_hw: npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Thumbnails:
    """Small pictures of a split, or of an even sample of it.

    Attributes:
        split: where they are from.
        paths: of the K pictures.
        pixels: [K, side, side, 3] RGB, their aspect lost.
        unreadable: pictures of the sample that do not decode.
    """

    split: Split
    paths: tuple[Path, ...]
    pixels: Pixels
    unreadable: tuple[Path, ...]


def check_data(
    splits: Sequence[Split], canvas_hw: tuple[int, int], config: Config, quick: bool = False
) -> list[Finding]:
    """Run every check of the data.

    Args:
        splits: the one to learn from first.
        canvas_hw: full size of the network's pictures.
        config: settings of the run.
        quick: only what the annotations tell, without decoding pictures.
    """
    objects = [gather(split, canvas_hw) for split in splits]
    train = objects[0]
    findings = [
        check_rows(splits, config.allow_dropped),
        check_background(splits),
        check_classes(objects),
        check_balance(train),
        check_class_ids(objects),
        check_class_shares(objects),
        check_shared_files(splits),
        check_repeated_boxes(objects),
        check_two_classes(objects),
        check_odd_boxes(objects),
        check_canvas(train, canvas_hw),
        check_small_objects(train, canvas_hw),
        check_points(train, config),
    ]
    if not quick:
        thumbnails = read_thumbnails(splits)
        findings += [
            check_pictures(thumbnails),
            check_repeated_pictures(thumbnails[0]),
            check_leakage(thumbnails),
            check_label_shift(splits[0]),
        ]
    return findings


def gather(split: Split, canvas_hw: tuple[int, int]) -> Objects:
    """Return the objects of a split as one table."""
    kept = [~annotation.is_crowd for annotation in split.annotations]
    boxes = [annotation.boxes[keep] for annotation, keep in zip(split.annotations, kept, strict=True)]
    sizes = np.array([annotation.image_hw for annotation in split.annotations], dtype=np.int64).reshape(-1, 2)
    picture = np.repeat(np.arange(len(boxes)), [len(own) for own in boxes])
    placed = [
        Letterbox.fit(annotation.image_hw, canvas_hw).to_canvas(own)
        for annotation, own in zip(split.annotations, boxes, strict=True)
    ]
    none = np.zeros((0, 4), dtype=np.float32)
    return Objects(
        split=split,
        boxes=np.concatenate([none, *boxes]),
        on_canvas=np.concatenate([none, *placed]),
        class_ids=np.concatenate(
            [np.zeros(0, np.int64), *(a.class_ids[keep] for a, keep in zip(split.annotations, kept, strict=True))]
        ),
        picture=picture,
        image_hw=sizes[picture],
    )


# The rows and the classes.


def check_rows(splits: Sequence[Split], allow_dropped: float) -> Finding:
    """Every row should be used as it stands."""
    total = sum((split.ledger for split in splits), Ledger())
    refused = any(split.ledger.dropped > allow_dropped * split.ledger.found for split in splits)
    lost = total.dropped or total.missing or total.clipped > 0.05 * total.found
    worst_first = [*sorted(total.entries, key=lambda entry: entry.action == "clipped"), *total.missing]
    return Finding(
        "data: rows",
        "stop" if refused else "look" if lost else "ok",
        total.summary(),
        f"none dropped, at most {allow_dropped:.1%} of a split",
        f"Mend the files: {_some(worst_first)}. Or accept the loss with --allow-dropped." if refused or lost else "",
    )


def check_background(splits: Sequence[Split]) -> Finding:
    """Most pictures should hold something."""
    shares = [split.ledger.background / max(1, len(split.annotations)) for split in splits]
    worst = int(np.argmax(shares))
    return Finding(
        "data: pictures without objects",
        "look" if shares[worst] > 0.5 else "ok",
        f"{shares[worst]:.0%} of {splits[worst].name}",
        "less than half",
        "Are these meant as background pictures, or were their label files not found?" if shares[worst] > 0.5 else "",
    )


def check_classes(objects: Sequence[Objects]) -> Finding:
    """Every class should have objects to learn from."""
    names = objects[0].split.class_names
    train, *others = (count_classes(of_split) for of_split in objects)
    elsewhere = sum(others, np.zeros(len(names), dtype=np.int64))
    untaught = [name for name, here, there in zip(names, train, elsewhere, strict=True) if there and not here]
    empty = [name for name, here, there in zip(names, train, elsewhere, strict=True) if not there and not here]
    expected = "every class has objects in the split to learn from"
    if untaught:
        measured = f"{len(untaught)} of {len(names)} classes only in other splits: {_some(untaught)}"
        advice = "They will be scored and cannot be learned: split the pictures anew, or mend the class ids."
        return Finding("data: classes", "stop", measured, expected, advice)
    if empty:
        measured = f"{len(empty)} of {len(names)} classes have no object at all: {_some(empty)}"
        advice = "Take them out of the names, or look for their labels."
        return Finding("data: classes", "look", measured, expected, advice)
    return Finding("data: classes", "ok", f"{len(names)} classes, all with objects", expected)


def check_balance(train: Objects) -> Finding:
    """Every class should have more than a few objects, and none a hundred times more than another."""
    counts = count_classes(train)
    names = train.split.class_names
    rarest = int(np.argmin(np.where(counts > 0, counts, np.iinfo(np.int64).max)))
    commonest = int(np.argmax(counts))
    few = [f"{names[i]} ({counts[i]})" for i in np.argsort(counts, kind="stable") if 0 < counts[i] < _FEW_OBJECTS]
    ratio = counts[commonest] / max(1, counts[rarest])
    advice = ""
    if few:
        advice = f"Hardly to be learned: {_some(few)}. Label more of them, or leave these classes out."
    elif ratio > _IMBALANCE:
        advice = f"{names[rarest]} will be learned late: label more of it, or train longer."
    return Finding(
        "data: class balance",
        "look" if advice else "ok",
        f"rarest {names[rarest]} with {counts[rarest]} objects, commonest {names[commonest]} with {counts[commonest]}",
        f"at least {_FEW_OBJECTS} of each, at most {_IMBALANCE} times as many of one as of another",
        advice,
    )


def check_class_ids(objects: Sequence[Objects]) -> Finding:
    """Ids should start at 0 and mean the same class in every split.

    Only drawn examples show it where ids are shifted alike in all splits and every name is used, or where all classes
    are alike in number, size and aspect.
    """
    expected = "ids from 0 on, with one meaning in every split"
    names = objects[0].split.class_names
    counts = sum((count_classes(of_split) for of_split in objects), np.zeros(len(names), dtype=np.int64))
    if len(names) > 1 and not counts[0]:
        # So the YOLO reader words it.
        beyond = f"class {len(names)} is not a whole number"
        rows = sum(entry.reason.startswith(beyond) for o in objects for entry in o.split.ledger.entries)
        if rows or counts[-1]:
            measured = f"id 0 ({names[0]}) is never used, id {len(names) - 1} ({names[-1]}) is {counts[-1]} times"
            measured += f", and {rows} rows say {len(names)}" if rows else ""
            advice = (
                "The ids seem to count from 1 and the names from 0, so that objects bear the name of the next class: "
                "subtract 1 from the ids, or add a name at the front."
            )
            return Finding("data: class ids", "stop" if rows else "look", measured, expected, advice)
    train = class_profiles(objects[0])
    for other in objects[1:]:
        there = class_profiles(other)
        plain = _distance(train, there)
        for shift, moved in ((1, _distance(train[:-1], there[1:])), (-1, _distance(train[1:], there[:-1]))):
            # Measured: true ids 1.4 at least, ids off by one 0.01 to 0.6; of few classes chance makes more.
            if plain > 0.3 and moved < (0.7 if len(names) >= 20 else 0.5) * plain:
                measured = (
                    f"the classes of {other.split.name} differ in number, size and aspect by {plain:.2f} from those of "
                    f"{objects[0].split.name}, and by {moved:.2f} with ids moved by {shift:+d}"
                )
                advice = "One of the two was probably written with ids off by one: compare drawn examples."
                return Finding("data: class ids", "look", measured, expected, advice)
    used = np.flatnonzero(counts)
    measured = f"{len(used)} of {len(names)} used" + (f", {used[0]} to {used[-1]}" if len(used) else "")
    return Finding("data: class ids", "ok", measured, expected)


def check_class_shares(objects: Sequence[Objects]) -> Finding:
    """The classes should be as frequent where a network learns as where it is scored."""
    train, *others = (count_classes(of_split) / max(1, len(of_split.boxes)) for of_split in objects)
    distances = [float(np.abs(train - other).sum() / 2) for other in others]
    parts = [f"{o.split.name} {d:.0%}" for o, d in zip(objects[1:], distances, strict=True)]
    name = objects[0].split.name
    far = max(distances, default=0) > 0.2
    return Finding(
        "data: class shares",
        "look" if far else "ok",
        f"share of objects in other classes than in {name}: {', '.join(parts) or 'no other split'}",
        "at most 20%",
        f"Scores there say less about pictures like those of {name}: split at random or by scene." if far else "",
    )


def count_classes(objects: Objects) -> npt.NDArray[np.int64]:
    """Return the number of objects of each class [C]."""
    return np.bincount(objects.class_ids, minlength=len(objects.split.class_names))


def class_profiles(objects: Objects) -> npt.NDArray[np.float64]:
    """Return by what a class can be known again [C, 3]: logs of its share, its usual size and aspect.

    NaN for classes with too few objects. The size is the root of the share of the picture.
    """
    wh = np.maximum(objects.boxes[:, 2:] - objects.boxes[:, :2], 1e-6).astype(np.float64)
    size = np.log(np.prod(wh, axis=1) / np.prod(objects.image_hw, axis=1)) / 2
    aspect = np.log(wh[:, 0] / wh[:, 1])
    profiles = np.full((len(objects.split.class_names), 3), np.nan)
    for class_id, count in enumerate(count_classes(objects)):
        if count >= _FEW_OBJECTS:
            own = objects.class_ids == class_id
            profiles[class_id] = np.log(count / len(wh)), np.median(size[own]), np.median(aspect[own])
    return profiles


def _distance(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> float:
    """Return the mean difference of two classes' profiles [C, 3]; infinite where fewer than two can be compared."""
    differences = np.abs(a - b)[np.isfinite(a).all(axis=1) & np.isfinite(b).all(axis=1)]
    return float(differences.mean()) if len(differences) > 1 else np.inf


# The boxes.


def check_repeated_boxes(objects: Sequence[Objects]) -> Finding:
    """No object should be labelled twice."""
    found = list(_overlapping(objects, 0.95, same_class=True))
    return Finding(
        "data: repeated boxes",
        "look" if found else "ok",
        f"{len(found)} pairs of boxes of one class with an IoU above 0.95",
        "none",
        f"Objects labelled twice cost precision; delete one of each: {_some(_unique(found))}." if found else "",
    )


def check_two_classes(objects: Sequence[Objects]) -> Finding:
    """No object should bear two classes."""
    found = list(_overlapping(objects, 0.9, same_class=False))
    return Finding(
        "data: boxes of two classes",
        "look" if found else "ok",
        f"{len(found)} pairs of boxes of two classes with an IoU above 0.9",
        "none",
        f"One of the two classes is probably wrong: {_some(_unique(found))}." if found else "",
    )


def _overlapping(objects: Sequence[Objects], least_iou: float, same_class: bool) -> Iterator[Path]:
    """Yield the picture of every pair of boxes that overlap by more than `least_iou`."""
    for annotation in chain.from_iterable(of_split.split.annotations for of_split in objects):
        boxes, class_ids = annotation.boxes[~annotation.is_crowd], annotation.class_ids[~annotation.is_crowd]
        if len(boxes) > 1:
            pairs = np.triu(pairwise_iou(boxes, boxes) > least_iou, 1)
            pairs &= (class_ids[:, None] == class_ids) == same_class
            yield from [annotation.image_path] * int(pairs.sum())


def check_odd_boxes(objects: Sequence[Objects]) -> Finding:
    """Boxes should not fill the picture, be thin as a thread, or be far from the usual size of their class."""
    counts: Counter[str] = Counter()
    places = []
    for of_split in objects:
        names, annotations = of_split.split.class_names, of_split.split.annotations
        for reason, which in _odd(of_split).items():
            rows = np.flatnonzero(which)
            counts[reason] += len(rows)
            places += [f"{names[of_split.class_ids[i]]} in {annotations[of_split.picture[i]].image_path}" for i in rows]
    return Finding(
        "data: odd boxes",
        "look" if places else "ok",
        ", ".join(f"{count} boxes {reason}" for reason, count in counts.items()),
        "none",
        f"Look whether they are meant: {_some(places)}." if places else "",
    )


def _odd(objects: Objects) -> dict[str, npt.NDArray[np.bool_]]:
    """Return reason → which boxes [N] are odd by it."""
    wh = np.maximum(objects.boxes[:, 2:] - objects.boxes[:, :2], 1e-6).astype(np.float64)
    share = np.prod(wh, axis=1) / np.prod(objects.image_hw, axis=1)
    log_share = np.log(share)
    unusual = np.zeros(len(wh), dtype=np.bool_)
    for class_id, count in enumerate(count_classes(objects)):
        if count >= _FEW_OBJECTS:
            own = objects.class_ids == class_id
            from_median = np.abs(log_share[own] - np.median(log_share[own]))
            # 1.48 median deviations are a standard deviation of normal values.
            unusual[own] = from_median > 6 * max(1.48 * float(np.median(from_median)), 0.1)
    return {
        "fill the picture": share > 0.95,
        "are 20 times longer than wide": wh.max(axis=1) > 20 * wh.min(axis=1),
        "are far from the size of their class": unusual,
    }


# The canvas.


def check_canvas(train: Objects, canvas_hw: tuple[int, int]) -> Finding:
    """Pictures should fill the canvas, and be neither enlarged nor shrunk out of sight."""
    sizes = np.array([annotation.image_hw for annotation in train.split.annotations], dtype=np.float64)
    scale = (np.array(canvas_hw) / sizes).min(axis=1)
    grey = 1 - float(np.mean(np.prod(sizes, axis=1) * scale**2)) / (canvas_hw[0] * canvas_hw[1])
    usual_scale = float(np.median(scale))
    long_side = _canvas_side(float(np.median(sizes.max(axis=1))))
    best = canvas_of_aspect(max(canvas_hw), float(np.median(sizes[:, 1] / sizes[:, 0])))
    small = float(np.sum(np.sqrt(area(train.on_canvas)) < 10)) / max(1, len(train.on_canvas))
    advice = ""
    if usual_scale > 1.5:
        advice = f"Pictures are enlarged, which costs time and shows nothing new: --imgsz {long_side}."
    elif usual_scale < 1 / 3 and small > 0.25:
        advice = f"{small:.0%} of the objects come out below 10 pixels: a larger --imgsz, up to {long_side}."
    elif grey > 0.25 and best != tuple(canvas_hw):
        advice = f"The pictures have another aspect: {best[1]}x{best[0]} would fit, --set canvas={list(best)}."
    elif grey > 0.25:
        advice = "The pictures have very different aspects; cut or split the longest ones."
    height, width = canvas_hw
    return Finding(
        "data: canvas",
        "look" if advice else "ok",
        f"{width}x{height} pixels, {max(grey, 0):.0%} of them grey; pictures at {usual_scale:.2f} times their size",
        "at most 25% grey, 0.33 to 1.5 times their size",
        advice,
    )


def check_small_objects(train: Objects, canvas_hw: tuple[int, int]) -> Finding:
    """Objects should be seen on the canvas."""
    sides = (train.on_canvas[:, 2:] - train.on_canvas[:, :2]).min(axis=1)
    share = float(np.mean(sides < _SMALLEST_SIDE)) if len(sides) else 0.0
    advice = ""
    if share > 0.05:
        wanted = _canvas_side(max(canvas_hw) * _SMALLEST_SIDE / float(np.quantile(sides, 0.05)))
        largest = _canvas_side(float(np.median([max(a.image_hw) for a in train.split.annotations])))
        if min(wanted, largest) > max(canvas_hw):
            advice = (
                f"--imgsz {min(wanted, largest)} would show {'95% of them' if wanted <= largest else 'more of them'}."
            )
        else:
            advice = "The pictures themselves show no more: cut them into tiles, or take pictures from nearer."
    return Finding(
        "data: small objects",
        "look" if advice else "ok",
        f"{share:.1%} of the objects have a side below {_SMALLEST_SIDE:g} pixels on the canvas",
        "at most 5%",
        advice,
    )


def check_points(train: Objects, config: Config) -> Finding:
    """Every object should have a point of the grid that can answer for it, and one of its own."""
    total = max(1, len(train.boxes))
    cells = config.head == "yolo_v1"
    without = 0 if cells else int(np.sum(~answered(train.on_canvas, config.assign_reach)))
    stride = _STRIDES[-1] if cells else _STRIDES[0]
    centres = (train.on_canvas[:, :2] + train.on_canvas[:, 2:]) / 2
    places = np.column_stack([train.picture, (centres // stride).astype(np.int64)])
    crowded = len(places) - len(np.unique(places, axis=0))
    advice = ""
    if without:
        advice = "Raise assign_reach to 0.5 or more: with it every object has a candidate."
    elif crowded > 0.01 * total:
        advice = "Of objects with one centre some cannot be told apart: a larger --imgsz draws their centres apart."
    return Finding(
        "data: grid points",
        "stop" if without > 0.05 * total else "look" if advice else "ok",
        f"{without / total:.1%} of the objects have no point that may answer for them; "
        f"{crowded / total:.1%} share their cell of {stride} pixels with another one's centre",
        "none; at most 1%",
        advice,
    )


def answered(boxes: Floats, reach: float) -> npt.NDArray[np.bool_]:
    """Return which boxes [N, 4], in canvas pixels with their centres on the canvas, have a candidate point.

    As `loss.assigner.candidates`, for grids that cover the canvas.
    """
    found = np.zeros(len(boxes), dtype=np.bool_)
    for stride in _STRIDES:
        corners = boxes.astype(np.float64) / stride
        centres = (corners[:, :2] + corners[:, 2:]) / 2
        found |= (np.abs(centres % 1 - 0.5) < reach).all(axis=1)
        first_point = np.floor(corners[:, :2] - 0.5) + 1.5  # the first one right of and below the top left corner
        found |= (first_point < corners[:, 2:]).all(axis=1)
    return found


def _canvas_side(pixels: float) -> int:
    """Return the shortest side of a canvas with so many pixels, within what a setting may be."""
    return min(4096, int(np.ceil(pixels / CANVAS_STEP)) * CANVAS_STEP)


# The pictures.


def check_shared_files(splits: Sequence[Split]) -> Finding:
    """No file to be scored on should be one to learn from."""
    train, *others = ({annotation.image_path for annotation in split.annotations} for split in splits)
    shared = sorted(train.intersection(chain(*others)))
    return Finding(
        "data: shared files",
        "stop" if shared else "ok",
        f"{len(shared)} files of {splits[0].name} are in other splits too",
        "none",
        f"Scores on pictures that were learned from say nothing: {_some(shared)}." if shared else "",
    )


def read_thumbnails(splits: Sequence[Split]) -> list[Thumbnails]:
    """Decode the pictures of splits small, an even sample of each where there are too many."""
    total = sum(len(split.annotations) for split in splits)
    pixels = sum(_pixels(split.annotations) for split in splits)
    most = _MOST_PICTURES if all(split.read_image is read_file for split in splits) else _MOST_DRAWN
    share = min(1.0, most / total, _MOST_PIXELS / pixels)
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        return [_read_thumbnails(split, share, pool) for split in splits]


def _read_thumbnails(split: Split, share: float, pool: ThreadPoolExecutor) -> Thumbnails:
    def read(annotation: Annotation) -> Pixels | None:
        try:
            if split.read_image is read_file:
                return images.read_thumbnail(annotation.image_path, _THUMBNAIL)
            size = (_THUMBNAIL, _THUMBNAIL)
            return np.asarray(cv2.resize(split.read_image(annotation), size, interpolation=cv2.INTER_AREA), np.uint8)
        except InputError:
            return None

    chosen = evenly(split.annotations, max(1, round(share * len(split.annotations))))
    read_ones = list(zip(chosen, pool.map(read, chosen), strict=True))
    shown = [(annotation.image_path, thumbnail) for annotation, thumbnail in read_ones if thumbnail is not None]
    return Thumbnails(
        split,
        tuple(path for path, _ in shown),
        np.array([thumbnail for _, thumbnail in shown], dtype=np.uint8).reshape(-1, _THUMBNAIL, _THUMBNAIL, 3),
        tuple(annotation.image_path for annotation, thumbnail in read_ones if thumbnail is None),
    )


def check_pictures(thumbnails: Sequence[Thumbnails]) -> Finding:
    """Every picture should decode and show something."""
    looked_at = sum(len(t.paths) + len(t.unreadable) for t in thumbnails)
    unreadable = [path for t in thumbnails for path in t.unreadable]
    flat = [path for t in thumbnails for path, is_flat in zip(t.paths, flat_ones(t.pixels), strict=True) if is_flat]
    bad = [*unreadable, *flat]
    verdict: Verdict = "stop" if len(bad) > looked_at / 2 else "look" if bad else "ok"
    return Finding(
        "data: pictures",
        verdict,
        f"{len(flat)} of {_of(thumbnails)} are of one colour, {len(unreadable)} do not decode",
        "none",
        f"Look at {_some(bad)}." if bad else "",
    )


def check_repeated_pictures(train: Thumbnails) -> Finding:
    """Most pictures to learn from should differ."""
    shown = np.flatnonzero(~flat_ones(train.pixels))
    exact, near = find_twins(train.pixels[shown])
    share = (len(exact) + len(near)) / max(1, len(shown))
    pairs = (f"{train.paths[shown[i]]} = {train.paths[shown[j]]}" for i, j in chain(exact.items(), near.items()))
    many = bool(exact) or share > 0.2
    return Finding(
        "data: repeated pictures",
        "look" if many else "ok",
        f"{len(exact)} of {_of([train])} repeat an earlier one exactly, {len(near)} nearly",
        "none exactly, at most 20% nearly",
        f"They teach nothing new, as neighbouring frames of a video do: {_some(pairs)}." if many else "",
    )


def check_leakage(thumbnails: Sequence[Thumbnails]) -> Finding:
    """No picture to be scored on should be among those to learn from."""
    train, *others = thumbnails
    sampled = len(train.paths) / max(1, len(train.split.annotations))
    own = np.flatnonzero(~flat_ones(train.pixels))
    parts, pairs, worst = [], [], 0.0
    for other in others:
        shown = np.flatnonzero(~flat_ones(other.pixels))
        exact, near = find_twins(other.pixels[shown], train.pixels[own])
        # In a sample of both splits most twins miss each other.
        worst = max(worst, len(exact) / max(1, min(len(own), len(shown))) / max(sampled, 1e-9))
        parts.append(f"{other.split.name} {len(exact)} exactly and {len(near)} nearly")
        pairs += [f"{other.paths[shown[i]]} = {train.paths[own[j]]}" for i, j in (*exact.items(), *near.items())]
    advice = ""
    if pairs:
        advice = (
            "Scores on pictures that were learned from are too good: split anew, with copies and neighbouring frames "
            f"on one side. {_some(pairs)}."
        )
    return Finding(
        "data: leakage",
        "stop" if worst > 0.05 else "look" if pairs else "ok",
        f"of {_of(thumbnails)} found again in {train.split.name}: {', '.join(parts) or 'no other split'}",
        "none",
        advice,
    )


def find_twins(these: Pixels, others: Pixels | None = None) -> tuple[dict[int, int], dict[int, int]]:
    """Find the same pictures in two sets of thumbnails [K, side, side, 3], none of them flat.

    Args:
        these: for which a twin is sought.
        others: in which; None: among the earlier ones of `these`.

    Returns:
        Exact twins and near ones, also mirrored, each as position in `these` → position in `others`.
    """
    among_earlier, others = others is None, these if others is None else others
    first: dict[bytes, int] = {}
    for j, thumbnail in enumerate(others):
        first.setdefault(thumbnail.tobytes(), j)
    exact = {i: first[key] for i, thumbnail in enumerate(these) if (key := thumbnail.tobytes()) in first}
    if among_earlier:
        exact = {i: j for i, j in exact.items() if j < i}
    near: dict[int, int] = {}
    steps, plain, mirrored = brightness_steps(these), brightness_steps(others), brightness_steps(others[:, :, ::-1])
    for start in range(0, len(these), 256):
        block = steps[start : start + 256]
        agreement = np.maximum(block @ plain.T, block @ mirrored.T)
        if among_earlier:
            agreement[np.arange(len(others)) >= start + np.arange(len(block))[:, None]] = 0
        for i in np.flatnonzero((agreement >= _ALIKE).any(axis=1)).tolist():
            if start + i not in exact:
                near[start + i] = int(agreement[i].argmax())
    return exact, near


def brightness_steps(thumbnails: Pixels) -> Floats:
    """Return by how much it gets brighter from each of 16 x 16 cells to the next ones, as unit vectors [K, 480].

    As a difference hash, their product hardly depends on brightness, contrast, size and compression of a picture; other
    than a hash it gives little weight to bare ground, where single bits are chance.
    """
    k, side = len(thumbnails), _THUMBNAIL // 16
    cells = thumbnails.reshape(k, 16, side, 16, side, 3).mean(axis=(2, 4, 5), dtype=np.float32)
    steps = np.concatenate([np.diff(cells, axis=1).reshape(k, 240), np.diff(cells, axis=2).reshape(k, 240)], axis=1)
    return np.asarray(steps / np.maximum(np.linalg.norm(steps, axis=1, keepdims=True), 1e-6), dtype=np.float32)


def flat_ones(thumbnails: Pixels) -> npt.NDArray[np.bool_]:
    """Return which thumbnails [K, side, side, 3] are of one colour."""
    deviations = thumbnails.reshape(len(thumbnails), _THUMBNAIL**2, 3).std(axis=1, dtype=np.float32)
    return np.asarray(deviations.max(axis=1) < _FLAT)


def check_label_shift(split: Split) -> Finding:
    """Boxes should stand on edges of the picture, and not beside them all in one direction.

    Finds shifts of 5 to 16 pixels with their size, and of up to 24; larger ones only as boxes without edges, if at all.
    """
    with_objects = [annotation for annotation in split.annotations if not annotation.is_crowd.all()]
    affordable = _EDGE_PIXELS / max(1, _pixels(with_objects)) * len(with_objects)
    chosen = evenly(with_objects, min(_EDGE_PICTURES, int(affordable)))
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        of_pictures = [found for found in pool.map(partial(_profiles_along_axes, split), chosen) if found]
    expected = f"on average within {_SHIFTED:g} pixels of a picture {_EDGE_WIDTH} long"
    shifts, contrasts = [], []
    for along_axis in zip(*of_pictures, strict=True):
        profiles = np.concatenate(along_axis)
        if len(profiles) >= _FEW_EDGES:
            # What both halves of the objects agree on: chance would move them differently.
            halves = [mirror_point(profiles[half::2]) for half in (0, 1)]
            agreed = min(map(abs, halves)) if halves[0] * halves[1] > 0 else 0.0
            shifts.append((0.0 - mirror_point(profiles), agreed))
            contrasts.append(float(np.ptp(profiles.mean(axis=0), axis=1).sum()))
    if len(shifts) < 2:
        measured = "too few objects away from the border of their pictures to tell"
        return Finding("data: label shift", "ok", measured, expected)
    (right, _), (down, _) = shifts
    measured = f"boxes stand {right:+.1f} right of and {down:+.1f} below the edges around them"
    if min(contrasts) < _EDGE_CONTRAST:
        measured = f"hardly more edge under the boxes than beside them (contrast {min(contrasts):.2f})"
        advice = "Labels of other pictures, far off or swapped, or objects without edges: look at drawn examples."
        return Finding("data: label shift", "look", measured, f"contrast at least {_EDGE_CONTRAST:g}", advice)
    if max(agreed for _, agreed in shifts) >= _SHIFTED:
        advice = "Were pictures cut or padded after labelling, or corners written as centres? Look at drawn examples."
        return Finding("data: label shift", "look", measured, expected, advice)
    return Finding("data: label shift", "ok", measured, expected)


def _profiles_along_axes(split: Split, annotation: Annotation) -> tuple[Floats, Floats] | None:
    """Return the edge profiles of a picture's objects along x and along y; None if it does not decode."""
    try:
        image = split.read_image(annotation)
    except InputError:
        return None
    scale = _EDGE_WIDTH / max(image.shape[:2])
    mode = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    sized = cv2.resize(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), None, fx=scale, fy=scale, interpolation=mode)
    grey = np.asarray(sized, dtype=np.uint8)
    boxes = annotation.boxes[~annotation.is_crowd] * np.float32(scale)
    return edge_profiles(grey, boxes), edge_profiles(grey.T, boxes[:, [1, 0, 3, 2]])


def edge_profiles(grey: npt.NDArray[np.uint8], boxes: Floats) -> Floats:
    """Return how much edge there is at and beside the left and right sides of boxes.

    Args:
        grey: [H, W].
        boxes: [N, 4]; those smaller than 8 pixels or near the left and right border of the picture are left out.

    Returns:
        [K, 2, 2 * reach + 1] mean brightness step, over the height of the box, across the lines from `reach` pixels
        left to `reach` right of its left side, and of its right side; divided by their mean.
    """
    height, width = grey.shape
    sums = np.zeros((height + 1, width + 1), dtype=np.float32)
    sums[1:, 1:-1] = np.cumsum(np.abs(np.diff(grey.astype(np.float32), axis=1)), axis=0)
    x1, y1, x2, y2 = np.clip(np.rint(boxes), 0, (width, height, width, height)).astype(np.int64).T
    fits = (np.minimum(x2 - x1, y2 - y1) >= 8) & (x1 > _EDGE_REACH) & (x2 < width - _EDGE_REACH)
    x1, y1, x2, y2 = x1[fits], y1[fits], x2[fits], y2[fits]
    lines = (sums[y2] - sums[y1]) / (y2 - y1)[:, None]
    places = np.stack([x1, x2], axis=1)[:, :, None] + np.arange(-_EDGE_REACH, _EDGE_REACH + 1)
    profiles = np.take_along_axis(lines[:, None], places, axis=2)
    return np.asarray(profiles / np.maximum(profiles.mean(axis=(1, 2), keepdims=True), 0.5), dtype=np.float32)


def mirror_point(profiles: Floats) -> float:
    """Return the offset, in half pixels, about which the mean profile of left sides mirrors that of right sides.

    Boxes too wide, or objects with more edges inside than around, leave it at 0: both sides are off alike, mirrored.
    Only a common shift moves it.

    Args:
        profiles: [K, 2, 2 * reach + 1], see `edge_profiles`.
    """
    left, right = profiles.mean(axis=0)
    last = 2 * _EDGE_REACH

    def error(twice: int) -> float:
        i = np.arange(max(0, twice), min(last, last + twice) + 1)
        a, b = left[i], right[last + twice - i]
        return float(np.mean((a - b) ** 2) / max(np.var(np.concatenate([a, b])), 1e-9))

    # A third of the profile at least must overlap its mirror image.
    return min(range(-last * 2 // 3, last * 2 // 3 + 1), key=error) / 2


# Samples and words.


def evenly(annotations: Sequence[Annotation], most: int) -> list[Annotation]:
    """Return at most so many, evenly spaced, the first and the last among them."""
    places = np.linspace(0, len(annotations) - 1, min(most, len(annotations)))
    return [annotations[int(place)] for place in places]


def _pixels(annotations: Iterable[Annotation]) -> int:
    return sum(annotation.image_hw[0] * annotation.image_hw[1] for annotation in annotations)


def _of(thumbnails: Sequence[Thumbnails]) -> str:
    """Say how many pictures were looked at, and of how many."""
    looked_at = sum(len(t.paths) + len(t.unreadable) for t in thumbnails)
    there = sum(len(t.split.annotations) for t in thumbnails)
    return f"{looked_at} pictures" + (f" (a sample of {there})" if looked_at < there else "")


def _unique(items: Iterable[Path]) -> list[Path]:
    return list(dict.fromkeys(items))


def _some(items: Iterable[object], most: int = 3) -> str:
    """Name the first few, and say how many more there are.

    >>> _some("abcde")
    'a, b, c and 2 more'
    """
    items = list(items)
    more = f" and {len(items) - most} more" if len(items) > most else ""
    return ", ".join(map(str, items[:most])) + more
