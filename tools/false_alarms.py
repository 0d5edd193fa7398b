"""Measure how often `check` is wrong: run it on synthetic good datasets and on datasets with a planted fault.

    python tools/false_alarms.py                     # all variants
    python tools/false_alarms.py --good --only tiny  # good variants whose name contains "tiny"
    python tools/false_alarms.py --quick             # only the checks that do not train
    python tools/false_alarms.py --data my_images/   # also datasets that are known to be good

A good variant must get "ok". A planted fault must get the verdict in its definition, or a worse one. Each line of the
table has the verdict and all findings that are not "ok". The exit status is 1 if a good variant gets "stop", more than
one gets "look", or a fault is missed.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from detector.arrays import ImageArray
from detector.checking.check import check
from detector.config import Config
from detector.data.open_data import open_data
from detector.diagnose.data import diagnose_data
from detector.diagnose.finding import Finding, Verdict, worst
from detector.loader.input_size import choose_input_size

Row = tuple[int, float, float, float, float]
"""(class id, x1, y1, x2, y2) in pixels."""

Rows = list[Row]

_ORDER: tuple[Verdict, ...] = ("ok", "look", "stop")


@dataclass(frozen=True)
class Scene:
    """How the images of a dataset look, and what is written.

    Attributes:
        hw: (height, width) of the images.
        classes: number of classes.
        objects: smallest and largest number of objects per image.
        sizes: smallest and largest side of an object, as a fraction of the shorter side of the image.
        aspect: largest ratio of the sides of an object.
        images: number of training images; the validation split has a third as many.
        background: fraction of images without objects.
        overlap: largest IoU of two objects.
        imbalance: how many times as frequent the most frequent class is as the rarest.
        unused: number of class names without objects, after the used ones.
        plain: whether the background has a single color.
        gray: whether the images have no colors.
        brightness: factor on all levels.
        blur: standard deviation of a Gaussian blur, in pixels.
        contrast: factor on the difference between objects and background.
        video: whether consecutive images are frames of a video of a fixed camera.
        at_border: whether all objects touch the image border.
        form: "yolo" or "coco".
        crowd: whether each image has a crowd region; only for "coco".
        placeholder: whether there is an unused category 0; only for "coco".
        exif: whether the images are stored rotated, with an EXIF tag.
        augmented: number of augmented copies of each training image, as Roboflow names them.
        deep: whether the images have 16 bits and use the full range.
    """

    hw: tuple[int, int] = (240, 320)
    classes: int = 3
    objects: tuple[int, int] = (1, 5)
    sizes: tuple[float, float] = (0.12, 0.35)
    aspect: float = 1.6
    images: int = 60
    background: float = 0.0
    overlap: float = 0.1
    imbalance: float = 1.0
    unused: int = 0
    plain: bool = False
    gray: bool = False
    brightness: float = 1.0
    blur: float = 0.0
    contrast: float = 1.0
    video: bool = False
    at_border: bool = False
    form: str = "yolo"
    crowd: bool = False
    placeholder: bool = False
    exif: bool = False
    augmented: int = 0
    deep: bool = False


GOOD: dict[str, Scene] = {
    "plain-default": Scene(),
    "one-class": Scene(classes=1),
    "twenty-classes": Scene(classes=20, objects=(2, 8), images=120),
    "many-unused-names": Scene(unused=40),
    "tiny-images": Scene(hw=(48, 64), sizes=(0.2, 0.5), objects=(1, 3)),
    "small-images": Scene(hw=(96, 96), sizes=(0.15, 0.4), objects=(1, 3)),
    "large-images": Scene(hw=(1000, 1500), images=24),
    "panorama": Scene(hw=(160, 960), objects=(2, 8)),
    "tiny-objects": Scene(hw=(480, 640), sizes=(0.012, 0.025), aspect=1.2, objects=(5, 15)),
    "large-objects": Scene(sizes=(0.6, 0.95), objects=(1, 1)),
    "crowded-150": Scene(hw=(640, 640), sizes=(0.03, 0.05), objects=(100, 150), images=24),
    "single-object": Scene(objects=(1, 1)),
    "gray": Scene(gray=True),
    "dark": Scene(brightness=0.12),
    "blurred": Scene(blur=4.0),
    "low-contrast": Scene(contrast=0.25),
    "plain-background": Scene(plain=True),
    "plain-tiny-objects": Scene(hw=(600, 800), plain=True, sizes=(0.015, 0.03), aspect=1.2, objects=(1, 4)),
    "video": Scene(video=True, images=80),
    "video-plain": Scene(video=True, plain=True, images=80, classes=1),
    "background-30": Scene(background=0.3),
    "background-60": Scene(background=0.6, images=90),
    "imbalance": Scene(imbalance=60.0, images=120, classes=4),
    "text-lines": Scene(hw=(480, 640), sizes=(0.02, 0.035), aspect=14.0, objects=(8, 20), classes=1),
    "overlapping": Scene(overlap=0.6, objects=(3, 7)),
    "exif-rotated": Scene(exif=True),
    "augmented-copies": Scene(augmented=2, images=40),
    "sixteen-bits": Scene(deep=True),
    "twelve-images": Scene(images=12),
    "coco-crowd": Scene(form="coco", crowd=True),
    "coco-placeholder": Scene(form="coco", placeholder=True),
    "at-border": Scene(at_border=True),
}

Edit = Callable[[list[Rows], Scene, np.random.Generator], list[Rows]]
"""Function that changes the rows of all images of a split: (rows, scene, random numbers) → rows."""


@dataclass(frozen=True)
class Fault:
    """A planted fault.

    Attributes:
        verdict: the verdict that it must get at least.
        edit: function that changes the labels of both splits.
        scene: the dataset.
        val_is_train: whether the validation images are copies of training images.
        wrong_size: whether the COCO file gives a wrong image size.
        fractions: whether COCO boxes are written as fractions of the image size.
    """

    verdict: Verdict
    edit: Edit = lambda rows, scene, rng: rows
    scene: Scene = Scene()
    val_is_train: bool = False
    wrong_size: bool = False
    fractions: bool = False


def _map_boxes(change: Callable[[float, float, float, float, float, float], tuple[float, ...]]) -> Edit:
    """Return an edit that changes each box: (x1, y1, x2, y2, width, height) → box. Empty boxes are left out."""

    def edit(rows: list[Rows], scene: Scene, rng: np.random.Generator) -> list[Rows]:
        height, width = scene.hw
        changed = [[(c, *change(x1, y1, x2, y2, width, height)) for c, x1, y1, x2, y2 in image] for image in rows]
        return [[r for row in image if (r := _clip(row, scene))] for image in changed]

    return edit


def _clip(row: Sequence[float], scene: Scene) -> Row | None:
    """Return the part of a row inside the image, or None if it has no area."""
    height, width = scene.hw
    x1, y1 = max(0.0, row[1]), max(0.0, row[2])
    x2, y2 = min(float(width), row[3]), min(float(height), row[4])
    return (int(row[0]), x1, y1, x2, y2) if x2 - x1 > 1 and y2 - y1 > 1 else None


def _permuted(rows: list[Rows], scene: Scene, rng: np.random.Generator) -> list[Rows]:
    """Give each image the labels of another image."""
    return [*rows[7:], *rows[:7]]


def _random_boxes(classes: Sequence[int] | None) -> Edit:
    """Return an edit that moves the boxes of these classes (None: all) to random places."""

    def edit(rows: list[Rows], scene: Scene, rng: np.random.Generator) -> list[Rows]:
        height, width = scene.hw

        def move(row: Row) -> Row:
            c, x1, y1, x2, y2 = row
            if classes is not None and c not in classes:
                return row
            x, y = rng.uniform(0, width - (x2 - x1)), rng.uniform(0, height - (y2 - y1))
            return c, x, y, x + x2 - x1, y + y2 - y1

        return [[move(row) for row in image] for image in rows]

    return edit


def _ids(shift: int) -> Edit:
    """Return an edit that adds a number to all class ids."""
    return lambda rows, scene, rng: [[(c + shift, *box) for c, *box in image] for image in rows]  # type: ignore[misc]


def _half_wrapped(x1: float, y1: float, x2: float, y2: float, w: float, h: float) -> tuple[float, ...]:
    """Shift a box by half of the image width, and continue at the left side."""
    x = (x1 + w / 2) % w
    return x, y1, x + x2 - x1, y2


_EMPTY: Edit = lambda rows, scene, rng: [[] for _ in rows]  # noqa: E731

FAULTS: dict[str, Fault] = {
    "half-image-x": Fault("stop", _map_boxes(_half_wrapped)),
    "half-image-clipped": Fault("stop", _map_boxes(lambda a, b, c, d, w, h: (a + w / 2, b, c + w / 2, d))),
    "half-image-many": Fault("stop", _map_boxes(_half_wrapped), Scene(objects=(8, 15), sizes=(0.1, 0.2))),
    "permuted": Fault("look", _permuted),
    "swapped-xy": Fault("look", _map_boxes(lambda a, b, c, d, w, h: (b, a, d, c))),
    "flipped": Fault("look", _map_boxes(lambda a, b, c, d, w, h: (w - c, b, w - a, d))),
    "ids-plus-one": Fault("stop", _ids(1)),
    "ids-minus-one": Fault("stop", _ids(-1)),
    "random-boxes": Fault("look", _random_boxes(None)),
    "one-class-random": Fault("look", _random_boxes([1])),
    "twice-the-size": Fault(
        "look",
        _map_boxes(lambda a, b, c, d, w, h: (1.5 * a - c / 2, 1.5 * b - d / 2, 1.5 * c - a / 2, 1.5 * d - b / 2)),
    ),
    "center-as-corner": Fault(
        "look", _map_boxes(lambda a, b, c, d, w, h: ((a + c) / 2, (b + d) / 2, 1.5 * c - a / 2, 1.5 * d - b / 2))
    ),
    "val-is-train": Fault("stop", val_is_train=True),
    "no-objects": Fault("stop", _EMPTY, Scene(form="coco")),
    "wrong-size": Fault("stop", scene=Scene(form="coco"), wrong_size=True),
    "fractions": Fault("stop", scene=Scene(form="coco"), fractions=True),
    "xyxy-as-xywh": Fault(
        "look", _map_boxes(lambda a, b, c, d, w, h: (a, b, a + c, b + d)), Scene(form="coco", sizes=(0.08, 0.2))
    ),
}


def _paint_background(scene: Scene, rng: np.random.Generator) -> ImageArray:
    """Return a background [H, W, 3]: a single color, or smooth clouds with noise."""
    height, width = scene.hw
    if scene.plain:
        return np.full((height, width, 3), rng.integers(90, 150, 3), dtype=np.uint8)
    coarse = rng.integers(60, 180, (max(2, height // 40), max(2, width // 40), 3), dtype=np.uint8)
    smooth = np.asarray(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC), dtype=np.int16)
    return np.clip(smooth + rng.normal(0, 6, smooth.shape), 0, 255).astype(np.uint8)


def _paint_object(image: ImageArray, row: Row, scene: Scene) -> None:
    """Paint an object into its box, in place: the class determines color and shape."""
    class_id, x1, y1, x2, y2 = row
    hue = int(class_id * 180 / max(1, scene.classes))
    color = cv2.cvtColor(np.array([[[hue, 210, 235 if class_id % 2 else 200]]], np.uint8), cv2.COLOR_HSV2RGB)[0, 0]
    left, top, right, bottom = round(x1), round(y1), round(x2), round(y2)
    window = image[top:bottom, left:right]
    height, width = window.shape[:2]
    if not height or not width:
        return
    y, x = np.mgrid[:height, :width]
    u, v = (x + 0.5) / width * 2 - 1, (y + 0.5) / height * 2 - 1
    mask = (np.ones_like(u, bool), u**2 + v**2 <= 1, np.abs(u) + np.abs(v) <= 1)[class_id % 3]
    stripes = 1.0 if min(height, width) < 8 else np.where((x + y) // 4 % 2, 1.0, 0.8)[..., None]
    painted = np.broadcast_to(color, window.shape) * stripes
    blended = scene.contrast * painted + (1 - scene.contrast) * window
    window[mask] = np.clip(blended, 0, 255).astype(np.uint8)[mask]


def _iou(a: Row, b: Row) -> float:
    """Return the IoU of the boxes of two rows."""
    width = min(a[3], b[3]) - max(a[1], b[1])
    height = min(a[4], b[4]) - max(a[2], b[2])
    if width <= 0 or height <= 0:
        return 0.0
    both = width * height
    return both / ((a[3] - a[1]) * (a[4] - a[2]) + (b[3] - b[1]) * (b[4] - b[2]) - both)


def _place_objects(scene: Scene, rng: np.random.Generator) -> Rows:
    """Return the rows of one image: whole pixels, inside the image."""
    height, width = scene.hw
    weights = np.geomspace(scene.imbalance, 1, scene.classes)
    rows: Rows = []
    if rng.random() < scene.background:
        return rows
    wanted = int(rng.integers(scene.objects[0], scene.objects[1] + 1))
    for _ in range(30 * wanted):
        if len(rows) == wanted:
            break
        side = max(4.0, rng.uniform(*scene.sizes) * min(height, width))
        ratio = rng.uniform(1, scene.aspect) if scene.aspect > 4 else scene.aspect ** rng.uniform(-0.5, 0.5)
        w, h = (side * ratio, side) if scene.aspect > 4 else (side * ratio, side / ratio)
        w, h = float(min(round(w), width)), float(min(round(h), height))
        x, y = float(rng.integers(0, int(width - w) + 1)), float(rng.integers(0, int(height - h) + 1))
        if scene.at_border:
            x = float(rng.choice([0, width - w]))
        row = (int(rng.choice(scene.classes, p=weights / weights.sum())), x, y, x + w, y + h)
        if all(_iou(row, other) <= scene.overlap for other in rows):
            rows.append(row)
    return rows


def _make_images(scene: Scene, count: int, rng: np.random.Generator) -> tuple[list[ImageArray], list[Rows]]:
    """Return the images of a split and their rows."""
    images, all_rows = [], []
    camera = _paint_background(scene, rng)
    rows = _place_objects(scene, rng)
    speeds = rng.uniform(-8, 8, (200, 2))
    for _ in range(count):
        if scene.video:
            moved = [_clip((c, a + dx, b + dy, e + dx, f + dy), scene)
                     for (c, a, b, e, f), (dx, dy) in zip(rows, speeds, strict=False)]  # fmt: skip
            rows = [row for row in moved if row and min(row[3] - row[1], row[4] - row[2]) > 12]
            if not rows:
                rows, speeds = _place_objects(scene, rng), rng.uniform(-8, 8, (200, 2))
            noise = rng.normal(0, 2, camera.shape)
            image = np.clip(camera + noise, 0, 255).astype(np.uint8)
        else:
            rows = _place_objects(scene, rng)
            image = _paint_background(scene, rng)
        for row in rows:
            _paint_object(image, row, scene)
        if scene.blur:
            image = np.asarray(cv2.GaussianBlur(image, (0, 0), scene.blur), dtype=np.uint8)
        image = (image * scene.brightness).astype(np.uint8)
        if scene.gray:
            image = np.repeat(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2)
        images.append(image)
        all_rows.append(list(rows))
    return images, all_rows


def _write_image(path: Path, image: ImageArray, scene: Scene) -> None:
    """Write an image; with `exif`, the stored image is rotated; with `deep`, it has 16 bits."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if scene.deep:
        gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.uint16) * 257
        Image.fromarray(gray).save(path)
        return
    file = Image.fromarray(image)
    if not scene.exif:
        file.save(path, quality=92)
        return
    tags = file.getexif()
    tags[0x0112] = 6  # to be shown, the stored image must be rotated by 90 degrees clockwise
    file.transpose(Image.Transpose.ROTATE_90).save(path, quality=92, exif=tags)


def _yolo_text(rows: Rows, scene: Scene) -> str:
    """Return the text of a YOLO label file."""
    h, w = scene.hw
    return "".join(
        f"{c} {(a + e) / 2 / w:.6f} {(b + f) / 2 / h:.6f} {(e - a) / w:.6f} {(f - b) / h:.6f}\n"
        for c, a, b, e, f in rows
    )


def _write_split(folder: Path, name: str, images: list[ImageArray], rows: list[Rows], fault: Fault) -> None:
    """Write the images and labels of one split."""
    scene = fault.scene
    suffix = ".png" if scene.deep else ".jpg"
    height, width = (side // 2 for side in scene.hw) if fault.wrong_size else scene.hw
    entries: list[dict[str, object]] = []
    boxes: list[dict[str, object]] = []
    for index, (image, image_rows) in enumerate(zip(images, rows, strict=True), start=1):
        copies = scene.augmented if name == "train" else 0
        for copy in range(1 + copies):
            stem = f"{name}{index}_jpg.rf.{index:04x}{copy:04x}" if scene.augmented else f"{name}{index}"
            changed, changed_rows = image, image_rows
            if copy:
                changed = np.clip(image * (0.8 + 0.2 * copy), 0, 255).astype(np.uint8)[:, ::-1]
                changed_rows = [(c, width - e, b, width - a, f) for c, a, b, e, f in image_rows]
            _write_image(folder / "images" / name / f"{stem}{suffix}", np.ascontiguousarray(changed), scene)
            if scene.form == "yolo":
                label = folder / "labels" / name / f"{stem}.txt"
                label.parent.mkdir(parents=True, exist_ok=True)
                label.write_text(_yolo_text(changed_rows, scene))
        if scene.form == "coco":
            entries.append({"id": index, "file_name": f"{name}{index}{suffix}", "height": height, "width": width})
            for c, a, b, e, f in image_rows:
                bbox = [a, b, e - a, f - b]
                if fault.fractions:
                    bbox = [a / width, b / height, (e - a) / width, (f - b) / height]
                boxes.append({"id": len(boxes) + 1, "image_id": index, "category_id": c + 1, "bbox": bbox,
                              "area": (e - a) * (f - b), "iscrowd": 0})  # fmt: skip
            if scene.crowd:
                boxes.append({"id": len(boxes) + 1, "image_id": index, "category_id": 1, "iscrowd": 1,
                              "bbox": [0, 0, width / 3, height / 3], "area": width * height / 9})  # fmt: skip
    if scene.form == "coco":
        categories = [{"id": c + 1, "name": f"class{c}", "supercategory": "things"} for c in range(scene.classes)]
        if scene.placeholder:
            categories.insert(0, {"id": 0, "name": "things", "supercategory": "none"})
        path = folder / "annotations" / f"instances_{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"images": entries, "annotations": boxes, "categories": categories}))


def write_data(folder: Path, fault: Fault, seed: int) -> Path:
    """Write a synthetic dataset to a folder, and return what to pass as `--data`."""
    scene, rng = fault.scene, np.random.default_rng(seed)
    made = {
        name: _make_images(scene, count, rng) for name, count in (("train", scene.images), ("val", scene.images // 3))
    }
    if fault.val_is_train:
        made["val"] = tuple(items[: scene.images // 3] for items in made["train"])  # type: ignore[assignment]
    for name, (images, rows) in made.items():
        _write_split(folder, name, images, fault.edit(rows, scene, rng), fault)
    if scene.form == "yolo":
        names = [f"class{c}" for c in range(scene.classes + scene.unused)]
        (folder / "data.yaml").write_text(f"train: images/train\nval: images/val\nnames: {json.dumps(names)}\n")
    return folder


def run_check(data: str, config: Config, quick: bool) -> list[Finding]:
    """Run the check and return its findings; an error of the reader becomes a finding with the verdict "stop"."""
    try:
        if not quick:
            return list(check(data, config, report=lambda _: None).findings)
        source = open_data(data)
        splits = [source.read(name) for name in ("train", "val") if name in source.split_names]
        return diagnose_data(splits, choose_input_size(config, splits[0].annotations), config)
    except ValueError as error:
        return [Finding("error", "stop", str(error).splitlines()[0], "data that can be read")]


def _run(name: str, data: str, expected: Verdict, config: Config, quick: bool) -> bool:
    """Check one dataset, print the verdict and all findings that are not ok; return True if the verdict is right."""
    start = time.monotonic()
    findings = run_check(data, config, quick)
    verdict = worst(findings)
    right = verdict == "ok" if expected == "ok" else _ORDER.index(verdict) >= _ORDER.index(expected)
    print(f"{'' if right else 'WRONG':5}  {verdict:4}  {name:22} {time.monotonic() - start:5.0f} s", flush=True)
    for finding in findings:
        if finding.verdict != "ok":
            print(f"              {finding}", flush=True)
    return right


def main() -> int:
    """Run the variants that the command line selects, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=[""], help="variants whose name contains one of these texts")
    parser.add_argument("--good", action="store_true", help="only good variants")
    parser.add_argument("--faults", action="store_true", help="only planted faults")
    parser.add_argument("--quick", action="store_true", help="only the checks that do not train")
    parser.add_argument("--data", nargs="*", default=[], help="datasets that are known to be good")
    parser.add_argument("--seed", type=int, default=0, help="seed of the synthetic datasets (default: %(default)s)")
    options = parser.parse_args()
    config = Config()
    chosen: dict[str, tuple[Verdict, Fault]] = {}
    if not options.faults:
        chosen |= {name: ("ok", Fault("ok", scene=scene)) for name, scene in GOOD.items()}
    if not options.good:
        chosen |= {name: (fault.verdict, fault) for name, fault in FAULTS.items()}
    chosen = {name: value for name, value in chosen.items() if any(part in name for part in options.only)}
    wrong: dict[str, list[str]] = {"good": [], "faults": []}
    for data in options.data:
        if not _run(Path(data).name, data, "ok", config, options.quick):
            wrong["good"].append(data)
    for name, (expected, fault) in chosen.items():
        with tempfile.TemporaryDirectory() as folder:
            data = str(write_data(Path(folder), fault, options.seed))
            if not _run(name, data, expected, config, options.quick):
                wrong["good" if expected == "ok" else "faults"].append(name)
    print(
        f"false alarms: {len(wrong['good'])} {wrong['good']}; missed faults: {len(wrong['faults'])} {wrong['faults']}"
    )
    return int(len(wrong["good"]) > 1 or bool(wrong["faults"]))


if __name__ == "__main__":
    sys.exit(main())
