"""Checks of a dataset: they find faults that were added on purpose, and accept correct data."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from detector.annotation import Annotation
from detector.arrays import ImageArray
from detector.boxes import area
from detector.config import Config
from detector.data.formats import yolo
from detector.data.formats.yolo_layout import parse_data_yaml
from detector.data.ledger import Ledger, LedgerEntry
from detector.data.near_duplicates import read_thumbnails
from detector.data.open_data import open_data
from detector.data.scenes import scenes
from detector.data.split import Split
from detector.diagnose.boxes import diagnose_boxes_with_two_classes, diagnose_duplicate_boxes, diagnose_unusual_boxes
from detector.diagnose.class_ids import diagnose_class_ids
from detector.diagnose.data import diagnose_data
from detector.diagnose.finding import Finding
from detector.diagnose.images import diagnose_duplicate_images, diagnose_images, diagnose_leakage
from detector.diagnose.input_size import diagnose_grid_points, diagnose_input_size, diagnose_small_objects
from detector.diagnose.labels import (
    diagnose_background,
    diagnose_class_balance,
    diagnose_class_distribution,
    diagnose_classes,
    diagnose_rows,
)
from detector.diagnose.objects import Objects, gather_objects
from detector.errors import ImageError
from detector.images import write_image
from detector.loss.assigner import candidates, has_candidate
from detector.model.grid import make_grid

HW = tuple[int, int]
Box = tuple[float, float, float, float]
Row = tuple[int, Box]
INPUT_HW = (256, 320)
NAMES = ("ant", "bee", "cat", "dog")


def make_split(
    rows: Sequence[Sequence[Row]],
    name: str = "train",
    hw: HW = (480, 640),
    images: Sequence[ImageArray | None] = (),
    ledger: Ledger | None = None,
) -> Split:
    """Return a split with one image per element of `rows`.

    Args:
        rows: (class id, box) of each object, for each image.
        name: name of the split.
        hw: height and width of all images, if `images` is empty.
        images: the image of each element of `rows`; None: the image cannot be decoded.
        ledger: ledger of the split; None: all rows are used.
    """
    annotations = []
    for image_id, (image_rows, image) in enumerate(zip_longest(rows, images)):
        boxes = np.array([box for _, box in image_rows], dtype=np.float32).reshape(-1, 4)
        class_ids = np.array([class_id for class_id, _ in image_rows], dtype=np.int64)
        is_crowd = np.zeros(len(boxes), dtype=np.bool_)
        size = hw if image is None else (image.shape[0], image.shape[1])
        path = Path(name) / f"{image_id}.png"
        annotations.append(Annotation(image_id, path, size, boxes, class_ids, is_crowd, area(boxes)))

    def read_image(annotation: Annotation) -> ImageArray:
        image = images[annotation.image_id]
        if image is None:
            raise ImageError(f"{annotation.image_path}: truncated")
        return image

    used, empty = sum(map(len, rows)), sum(not image_rows for image_rows in rows)
    ledger = ledger or Ledger(used=used, background=empty)
    return Split(name, NAMES, (0, 1, 2, 3), tuple(annotations), ledger, read_image, from_files=False)


def typical_box(class_id: int, rng: np.random.Generator) -> Box:
    """Return a box with the size and aspect of its class, at a random position."""
    width, height = np.array([(40, 40), (90, 45), (60, 130), (200, 180)][class_id]) * rng.uniform(0.9, 1.1)
    x, y = rng.uniform(0, 640 - width), rng.uniform(0, 480 - height)
    return float(x), float(y), float(x + width), float(y + height)


def sound_rows(count: int = 60, seed: int = 0) -> list[list[Row]]:
    """Return (class id, box) rows of `count` images with two objects each; all four classes are equally frequent."""
    rng = np.random.default_rng(seed)
    return [[((i + k) % 4, typical_box((i + k) % 4, rng)) for k in (0, 2)] for i in range(count)]


def noise_images(count: int) -> list[ImageArray]:
    return list(np.random.default_rng(0).integers(0, 256, size=(count, 96, 128, 3), dtype=np.uint8))


def gather(*splits: Split, input_hw: HW = INPUT_HW) -> list[Objects]:
    return [gather_objects(split, input_hw) for split in splits]


def train_and_val(rows: list[list[Row]], val_rows: list[list[Row]]) -> list[Objects]:
    return gather(make_split(rows), make_split(val_rows, "val"))


def with_positions(objects: list[Objects]) -> list[Objects]:
    """Return the objects of a format in which class ids are positions in a list of names."""
    return [replace(o, split=replace(o.split, ids_are_positions=True)) for o in objects]


def change_ids(rows: list[list[Row]], new: Sequence[int | None]) -> list[list[Row]]:
    """Return a copy of the rows in which each class id i is `new[i]`; rows for which `new[i]` is None are removed."""
    return [[(to, box) for i, box in image_rows if (to := new[i]) is not None] for image_rows in rows]


def assert_found(finding: Finding, verdict: str, *texts: str) -> None:
    assert finding.verdict == verdict, str(finding)
    assert all(text in str(finding) for text in texts), str(finding)
    assert bool(finding.advice) == (verdict != "ok"), str(finding)


# All checks.


def test_built_in_scenes_have_no_findings() -> None:
    splits = [scenes.read_split(name) for name in ("train", "val", "test")]
    assert [str(f) for f in diagnose_data(splits, INPUT_HW, Config(), quick=True) if f.verdict != "ok"] == []
    few = [replace(split, annotations=split.annotations[:12]) for split in splits]
    thumbnails = read_thumbnails(few)
    assert_found(diagnose_images(thumbnails), "ok", "0 of 36 images")
    assert_found(diagnose_leakage(thumbnails), "ok", "0 exact and 0 near in val")
    assert_found(diagnose_duplicate_images(thumbnails[0]), "ok")


def test_all_checks_run_on_a_folder_of_files(tiny_data: Path) -> None:
    source = open_data(tiny_data)
    splits = [source.read(name) for name in ("train", "val", "test")]
    findings = diagnose_data(splits, (64, 96), Config())
    assert "stop" not in {finding.verdict for finding in findings}
    assert len({finding.check for finding in findings}) == len(findings)
    quick = diagnose_data(splits, (64, 96), Config(), quick=True)
    assert [finding for finding in findings if finding in quick] == quick
    settings = {"data: input size", "data: small objects", "data: grid points"}
    assert {finding.check for finding in findings if not finding.from_data} == settings


@pytest.mark.parametrize("images", [noise_images(3), [np.zeros((3000, 4000, 3), np.uint8)] * 2, [None]])
@pytest.mark.parametrize("names", [("train",), ("train", "val")])
def test_all_checks_run_on_splits_without_objects(images: list[ImageArray | None], names: tuple[str, ...]) -> None:
    splits = [make_split([[]] * len(images), name, (96, 128), images) for name in names]
    findings = diagnose_data(splits, INPUT_HW, Config())
    verdicts = {f.check: f.verdict for f in findings}
    assert (verdicts["data: images without objects"], verdicts["data: objects"]) == ("look", "stop")


def test_all_checks_run_on_one_crowded_image() -> None:
    row: Row = (0, (30, 30, 60, 60))
    findings = diagnose_data([make_split([[row] * 200], images=noise_images(1))], INPUT_HW, Config(input_size=320))
    verdicts = {f.check: f.verdict for f in findings}
    assert verdicts["data: duplicate boxes"] == verdicts["data: grid points"] == "look"
    (crowded,) = (f for f in findings if f.check == "data: objects per image")
    assert_found(crowded, "ok", "1 image of train", "recall cannot exceed 50%", "--max-det 200")


# Rows and classes.


def test_dropped_rows_are_found_and_too_many_stop() -> None:
    ledger = Ledger(used=98, entries=(LedgerEntry("no_area", Path("labels/a.txt"), 3, "no area"),))
    assert_found(diagnose_rows([make_split([], ledger=ledger)], 0.02), "look", "99 boxes found", "labels/a.txt:3")
    assert "--allow-dropped" not in diagnose_rows([make_split([], ledger=ledger)], 0.02).advice
    four = replace(ledger, entries=ledger.entries * 4)
    assert_found(diagnose_rows([make_split([], ledger=four)], 0.02), "stop", "--allow-dropped")
    assert_found(diagnose_rows([make_split([], ledger=Ledger(used=98))], 0.0), "ok")


def test_dropped_rows_are_named_before_clipped_ones() -> None:
    clipped = tuple(LedgerEntry("clipped", Path("a.txt"), line, "outside") for line in range(4))
    ledger = Ledger(used=5, entries=clipped)
    assert "--allow-dropped" not in diagnose_rows([make_split([], ledger=ledger)], 0.5).advice
    assert_found(diagnose_rows([make_split([], ledger=ledger)], 0.5), "look", "a.txt:0: clipped")
    ledger = replace(ledger, entries=(*clipped, LedgerEntry("no_area", Path("b.txt"), 7, "no area")))
    assert_found(diagnose_rows([make_split([], ledger=ledger)], 0.5), "look", "Fix the files: b.txt:7")
    missing = Ledger(used=50, missing=(Path("c.jpg"),))
    assert_found(diagnose_rows([make_split([], ledger=missing)], 0.5), "look", "Fix the files: c.jpg")


def test_one_split_with_too_many_dropped_rows_stops() -> None:
    broken = Ledger(used=9, entries=(LedgerEntry("no_area", Path("b.txt"), 1, "no area"),) * 4)
    splits = [make_split([], ledger=Ledger(used=9999)), make_split([], ledger=broken)]
    assert_found(diagnose_rows(splits, 0.02), "stop")


def test_many_images_without_objects_are_found() -> None:
    good, bad = make_split(sound_rows(8)), make_split([[], [], [], [], *sound_rows(1)], "val")
    assert_found(diagnose_background([good]), "ok")
    assert_found(diagnose_background([good, bad]), "look", "80% of the val images")
    chosen = replace(bad, ledger=replace(bad.ledger, other_classes={"tram": 4}))
    assert_found(diagnose_background([good, chosen]), "ok", "80% of the val images")


def test_class_without_training_objects_stops_if_evaluated() -> None:
    rows = sound_rows()
    assert_found(diagnose_classes(train_and_val(change_ids(rows, (0, 1, 2, None)), rows)), "stop", "dog")
    one_dog: list[list[Row]] = [*change_ids(rows, (0, 1, 2, None)), [(3, (0.0, 0.0, 9.0, 9.0))]]
    assert_found(diagnose_classes(train_and_val(change_ids(rows, (0, 1, 2, None)), one_dog)), "look", "1 of 4 classes")
    assert_found(
        diagnose_classes(train_and_val(change_ids(rows, (0, 1, 2, None)), [])), "ok", "without any object: dog"
    )
    assert_found(diagnose_classes(train_and_val(rows, [])), "ok", "4 classes")


def test_rare_class_is_named() -> None:
    one: list[list[Row]] = [[(i, (0.0, 0.0, 9.0, 9.0))] for i in range(4)]
    rare = make_split(one[:1] * 19 + one[1:] * 20)
    assert_found(diagnose_class_balance(gather(rare)[0]), "ok", "ant (19)")


@pytest.mark.parametrize("name", ["Bee", "bees", " bee", "B-ee"])
def test_rare_second_spelling_of_a_class_is_found(name: str) -> None:
    one: list[list[Row]] = [[(i, (0.0, 0.0, 9.0, 9.0))] for i in range(4)]
    split = replace(make_split(one[:1] * 3 + one[1:] * 20), class_names=(name, "bee", "cat", "dog"))
    assert_found(diagnose_class_balance(gather(split)[0]), "look", f"{name} = bee")


def test_yolo_ids_that_start_at_one_stop(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    for i in range(8):
        write_image(tmp_path / "images" / f"{i}.png", np.zeros((8, 8, 3), dtype=np.uint8))
        (tmp_path / "labels" / f"{i}.txt").write_text(f"{i % 4 + 1} 0.5 0.5 0.5 0.5\n")
    values = {"names": list(NAMES), "train": "images"}
    split = yolo.read_split(parse_data_yaml(tmp_path / "data.yaml", values), "train")
    finding = diagnose_class_ids(gather(split))
    assert_found(finding, "stop", "id 0 (ant) is never used", "2 label rows have the id 4", "start at 1")


def test_unused_classes_are_no_fault() -> None:
    rows = change_ids(sound_rows(), (1, 2, 3, None))
    assert_found(diagnose_class_ids(with_positions(train_and_val(rows, rows))), "ok", "3 of 4 ids are used: 1 to 3")


def test_names_that_say_nothing_are_mentioned() -> None:
    for objects in (
        train_and_val(sound_rows(), sound_rows()),
        with_positions(train_and_val(sound_rows(), sound_rows())),
    ):
        named = [replace(o, split=replace(o.split, class_names=("class_0", "1", "Object 2", "c3"))) for o in objects]
        assert_found(diagnose_class_ids(named), "ok", "class_0, 1, Object 2, c3 do not say what the classes are")
        assert "do not say" not in diagnose_class_ids(objects).measured


def test_formats_that_name_classes_get_no_advice_about_ids() -> None:
    val = change_ids(sound_rows(seed=1), (1, 2, 3, None))
    objects = train_and_val(sound_rows(), val)
    assert_found(diagnose_class_ids(with_positions(objects)), "look")
    assert_found(diagnose_class_ids(objects), "ok", "names its class")


@pytest.mark.parametrize("shift", [1, -1])
@pytest.mark.parametrize("rotated", [True, False])
def test_ids_shifted_by_one_in_one_split_are_found(shift: int, rotated: bool) -> None:
    new = [(i + shift) % 4 if rotated or 0 <= i + shift < 4 else None for i in range(4)]
    objects = train_and_val(sound_rows(), change_ids(sound_rows(seed=1), new))
    finding = diagnose_class_ids(with_positions(objects))
    assert_found(finding, "look", f"shifted by {shift:+d}")


@pytest.mark.parametrize("count", [0, 1, 3, 20])
def test_equal_ids_are_ok_with_any_number_of_objects(count: int) -> None:
    objects = with_positions(train_and_val(sound_rows(), sound_rows(count, seed=1)))
    assert_found(diagnose_class_ids(objects), "ok", "0 to 3")


def test_split_with_other_class_frequencies_is_found() -> None:
    rows = sound_rows()
    other = [image_rows[:1] for image_rows in rows if image_rows[0][0] < 1]
    assert_found(diagnose_class_distribution(train_and_val(rows, other)), "look", "val 75%")
    # A single image is not enough evidence.
    assert_found(diagnose_class_distribution(train_and_val(rows, other[:1])), "ok", "val 75%")
    assert_found(diagnose_class_distribution(train_and_val(rows, sound_rows(8))), "ok", "val 0%")


# Boxes.


def test_object_labeled_twice_is_found() -> None:
    rows = sound_rows(3)
    class_id, (x1, y1, x2, y2) = rows[1][0]
    again = (x1 + 0.2, y1, x2, y2)
    same_class = gather(make_split([rows[0], [*rows[1], (class_id, again)], rows[2]]))
    assert_found(diagnose_duplicate_boxes(same_class), "look", "1 pair of", "train/1.png")
    assert_found(diagnose_boxes_with_two_classes(same_class), "ok")
    two_classes = gather(make_split([rows[0], [*rows[1], ((class_id + 1) % 4, again)], rows[2]]))
    assert_found(diagnose_duplicate_boxes(two_classes), "ok")
    assert_found(diagnose_boxes_with_two_classes(two_classes), "look", "1 pair of", "train/1.png")


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ((0, (0, 0, 640, 470)), "9 boxes with more than 95% of the image area"),
        ((1, (0, 100, 500, 120)), "9 boxes with one side more than 20 times as long"),
        ((3, (10, 10, 14, 14)), "9 boxes of an unusual size for the class"),
    ],
)
def test_unusual_boxes_are_named_with_their_image(row: Row, reason: str) -> None:
    rows = sound_rows(40)
    assert_found(diagnose_unusual_boxes(gather(make_split(rows))), "ok")
    rows[7] += [row] * 8
    assert_found(diagnose_unusual_boxes(gather(make_split(rows))), "ok", "8 boxes")  # a few are normal
    rows[7].append(row)
    finding = diagnose_unusual_boxes(gather(make_split(rows)))
    assert_found(finding, "look", reason, f"{NAMES[row[0]]} in train/7.png")


# The input size.


@pytest.mark.parametrize(
    ("hw", "input_hw", "side", "verdict", "advice"),
    [
        ((480, 640), (256, 320), 100, "ok", ""),
        ((480, 640), (640, 480), 100, "look", "--set input_size=[480, 640]"),
        ((120, 160), (480, 640), 20, "look", "--imgsz 160"),
        ((3000, 4000), (256, 320), 60, "look", "up to 4000"),
        ((3000, 4000), (256, 320), 400, "ok", ""),
    ],
)
def test_input_size_that_does_not_suit_the_images_is_found(
    hw: HW, input_hw: HW, side: int, verdict: str, advice: str
) -> None:
    split = make_split([[(0, (0, 0, side, side))]] * 3, hw=hw)
    objects = gather_objects(split, input_hw)
    assert_found(diagnose_input_size(objects, input_hw, Config(input_size=input_hw)), verdict, advice)
    assert_found(diagnose_input_size(objects, input_hw, Config()), "ok")


def test_images_of_very_different_aspects_are_accepted() -> None:
    images = [np.zeros(hw, np.uint8) for hw in ((60, 600, 3), (600, 600, 3), (600, 60, 3))]
    split = make_split([[]] * 3, images=images)
    finding = diagnose_input_size(gather_objects(split, (320, 320)), (320, 320), Config(input_size=(320, 320)))
    assert_found(finding, "ok", "60% are padding")


@pytest.mark.parametrize(("side", "verdict", "hint"), [(4, "look", "--imgsz 480"), (1.5, "look", "--imgsz 640"),
                                                       (10, "ok", "")])  # fmt: skip
def test_small_objects_need_a_larger_input(side: float, verdict: str, hint: str) -> None:
    train = gather_objects(make_split([[(0, (5, 5, 5 + side, 50))]] * 3), INPUT_HW)
    assert_found(diagnose_small_objects(train, INPUT_HW, Config(input_size=320)), verdict, hint)
    assert_found(diagnose_small_objects(train, INPUT_HW, Config()), "ok")


def test_small_objects_at_full_image_size_need_tiles() -> None:
    train = gather_objects(make_split([[(0, (5, 5, 6, 50))]] * 3), (480, 640))
    assert_found(diagnose_small_objects(train, (480, 640), Config(input_size=640)), "look", "tiles")


@given(
    st.lists(st.tuples(*[st.floats(0, 127)] * 2, *[st.floats(0.01, 60)] * 2), min_size=1, max_size=8),
    st.floats(0, 1.5),
)
def test_has_candidate_agrees_with_the_assigner(corners: list[Box], radius: float) -> None:
    boxes = np.array([(x, y, min(x + w, 128), min(y + h, 128)) for x, y, w, h in corners], dtype=np.float32)
    grid = make_grid((128, 128), torch.device("cpu"))
    by_assigner = candidates(torch.from_numpy(boxes), grid, radius).any(dim=1)
    # For a point exactly on the border of a box, the two functions may round differently.
    margin = np.array([1e-3, 1e-3, -1e-3, -1e-3], dtype=np.float32)
    assert (has_candidate(boxes - margin, radius + 1e-3) >= by_assigner.numpy()).all()
    assert (by_assigner.numpy() >= has_candidate(boxes + margin, radius - 1e-3)).all()


def test_objects_without_a_candidate_point_stop() -> None:
    # The box lies around a corner of the cells of all strides, away from all points.
    small = gather_objects(make_split([[(0, (31, 31, 33, 33))]] * 3, hw=(256, 320)), INPUT_HW)
    assert_found(diagnose_grid_points(small, Config()), "ok", "0.0% of the objects")
    assert_found(diagnose_grid_points(small, Config(assign_radius=0.2)), "stop", "100.0%", "assign_radius")
    assert_found(diagnose_grid_points(small, Config(assign_radius=0.2, head="yolo_v1")), "ok", "0.0% of the objects")


def test_objects_with_their_centers_in_one_cell_are_found() -> None:
    crowd = gather_objects(make_split([[(0, (100, 100, 120 + i, 120)) for i in range(4)]]), INPUT_HW)
    config = Config(input_size=320)
    assert_found(diagnose_grid_points(crowd, Config()), "ok", "75.0% have")  # the automatic size is not criticized
    assert_found(diagnose_grid_points(crowd, config), "look", "75.0% have their center in the same cell of 8 pixels")
    apart = gather_objects(make_split([[(0, (100 + 30 * i, 100, 120 + 30 * i, 120)) for i in range(4)]]), INPUT_HW)
    assert_found(diagnose_grid_points(apart, Config()), "ok")
    assert_found(diagnose_grid_points(apart, replace(config, head="yolo_v1")), "look", "of 32 pixels")
