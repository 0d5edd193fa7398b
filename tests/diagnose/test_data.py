from collections.abc import Sequence
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from detector.annotation import Annotation
from detector.arrays import ImageArray
from detector.boxes import area
from detector.config import Config
from detector.data import near_duplicates
from detector.data.formats import yolo
from detector.data.ledger import Ledger
from detector.data.near_duplicates import find_near_duplicates, read_thumbnails
from detector.data.open_data import open_data
from detector.data.scenes import scenes
from detector.data.split import Split
from detector.diagnose.data import check_data
from detector.diagnose.finding import Finding
from detector.diagnose.images import check_images, check_leakage, check_repeated_images, check_shared_files
from detector.diagnose.label_shift import check_label_shift, edge_profiles, symmetry_center
from detector.diagnose.labels import (
    check_background,
    check_balance,
    check_class_ids,
    check_class_shares,
    check_classes,
    check_odd_boxes,
    check_repeated_boxes,
    check_rows,
    check_two_classes,
)
from detector.diagnose.objects import Objects, gather
from detector.diagnose.resolution import check_canvas, check_points, check_small_objects
from detector.errors import InputError
from detector.images import read_image, write_image
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
    """A split of one image per list of (class, box); None among the images does not decode."""
    annotations = []
    for image_id, (of_image, image) in enumerate(zip_longest(rows, images)):
        boxes = np.array([box for _, box in of_image], dtype=np.float32).reshape(-1, 4)
        class_ids = np.array([class_id for class_id, _ in of_image], dtype=np.int64)
        crowd = np.zeros(len(boxes), dtype=np.bool_)
        size = hw if image is None else (image.shape[0], image.shape[1])
        path = Path(name) / f"{image_id}.png"
        annotations.append(Annotation(image_id, path, size, boxes, class_ids, crowd, area(boxes)))

    def read_image(annotation: Annotation) -> ImageArray:
        image = images[annotation.image_id]
        if image is None:
            raise InputError(f"{annotation.image_path}: cut off")
        return image

    used, empty = sum(map(len, rows)), sum(not of_image for of_image in rows)
    ledger = ledger or Ledger(used=used, background=empty)
    return Split(name, NAMES, (0, 1, 2, 3), tuple(annotations), ledger, read_image)


def box_of(class_id: int, rng: np.random.Generator) -> Box:
    """A box of the size and aspect that its class has, at a random place."""
    width, height = np.array([(40, 40), (90, 45), (60, 130), (200, 180)][class_id]) * rng.uniform(0.9, 1.1)
    x, y = rng.uniform(0, 640 - width), rng.uniform(0, 480 - height)
    return float(x), float(y), float(x + width), float(y + height)


def healthy_rows(count: int = 60, seed: int = 0) -> list[list[Row]]:
    """Images with two objects each, of all four classes alike."""
    rng = np.random.default_rng(seed)
    return [[((i + k) % 4, box_of((i + k) % 4, rng)) for k in (0, 2)] for i in range(count)]


def scenery(count: int, seed: int = 0) -> list[ImageArray]:
    """Images of 96 x 128 pixels that show soft blobs, all of them different."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, size=(count, 6, 8, 3), dtype=np.uint8)
    return [np.asarray(cv2.resize(one, (128, 96), interpolation=cv2.INTER_CUBIC), np.uint8) for one in coarse]


def shown(images: Sequence[ImageArray | None], name: str = "train") -> Split:
    return make_split([[]] * len(images), name, (96, 128), images)


def gathered(*splits: Split, input_hw: HW = INPUT_HW) -> list[Objects]:
    return [gather(split, input_hw) for split in splits]


def train_and_val(rows: list[list[Row]], val_rows: list[list[Row]]) -> list[Objects]:
    return gathered(make_split(rows), make_split(val_rows, "val"))


def renamed(rows: list[list[Row]], new: Sequence[int | None]) -> list[list[Row]]:
    """The rows with other class ids; those of None left out."""
    return [[(to, box) for i, box in of_image if (to := new[i]) is not None] for of_image in rows]


def assert_found(finding: Finding, verdict: str, *words: str) -> None:
    assert finding.verdict == verdict, str(finding)
    assert all(word in str(finding) for word in words), str(finding)
    assert bool(finding.advice) == (verdict != "ok"), str(finding)


# All is well.


def test_in_the_built_in_scenes_there_is_nothing_to_find() -> None:
    splits = [scenes.read_split(name) for name in ("train", "val", "test")]
    assert [str(f) for f in check_data(splits, INPUT_HW, Config(), quick=True) if f.verdict != "ok"] == []
    few = [replace(split, annotations=split.annotations[:12]) for split in splits]
    thumbnails = read_thumbnails(few)
    assert_found(check_images(thumbnails), "ok", "0 of 36 images")
    assert_found(check_leakage(thumbnails), "ok", "val 0 exactly and 0 nearly")
    assert_found(check_repeated_images(thumbnails[0]), "ok")


def test_all_checks_run_on_a_folder_of_files(tiny_data: Path) -> None:
    source = open_data(tiny_data)
    splits = [source.read(name) for name in ("train", "val", "test")]
    findings = check_data(splits, (64, 96), Config())
    assert "stop" not in {finding.verdict for finding in findings}
    assert len({finding.check for finding in findings}) == len(findings)
    quick = check_data(splits, (64, 96), Config(), quick=True)
    assert quick == findings[: len(quick)]


@pytest.mark.parametrize("images", [scenery(3), [np.zeros((3000, 4000, 3), np.uint8)] * 2, [None]])
@pytest.mark.parametrize("names", [("train",), ("train", "val")])
def test_all_checks_run_on_splits_without_any_object(images: list[ImageArray | None], names: tuple[str, ...]) -> None:
    findings = check_data([shown(images, name) for name in names], INPUT_HW, Config())
    assert {f.check: f.verdict for f in findings}["data: images without objects"] == "look"


def test_all_checks_run_on_one_image_full_of_objects() -> None:
    row: Row = (0, (30, 30, 60, 60))
    findings = check_data([make_split([[row] * 200], images=scenery(1))], INPUT_HW, Config())
    verdicts = {f.check: f.verdict for f in findings}
    assert verdicts["data: repeated boxes"] == verdicts["data: grid points"] == "look"


# Rows and classes.


def test_rows_that_were_dropped_are_looked_at_and_too_many_stop() -> None:
    ledger = Ledger(used=98)
    ledger.drop(Path("labels/a.txt"), 3, "no area")
    assert_found(check_rows([make_split([], ledger=ledger)], 0.02), "look", "99 boxes found", "labels/a.txt:3")
    assert_found(check_rows([make_split([], ledger=ledger)], 0.01), "stop")
    assert_found(check_rows([make_split([], ledger=Ledger(used=98))], 0.0), "ok")


def test_missing_images_and_rows_cut_to_their_image_are_named_the_worst_first() -> None:
    ledger = Ledger(used=50)
    for line in range(4):
        ledger.clip(Path("a.txt"), line, "reaches out")
    assert_found(check_rows([make_split([], ledger=ledger)], 0.5), "look", "a.txt:0: clipped")
    ledger.drop(Path("b.txt"), 7, "no area")
    assert_found(check_rows([make_split([], ledger=ledger)], 0.5), "look", "Mend the files: b.txt:7")
    missing = Ledger(used=50, missing=[Path("c.jpg")])
    assert_found(check_rows([make_split([], ledger=missing)], 0.5), "look", "Mend the files: c.jpg")


def test_one_split_that_lost_too_much_stops_however_well_the_others_are() -> None:
    broken = Ledger(used=9)
    broken.drop(Path("b.txt"), 1, "no area")
    splits = [make_split([], ledger=Ledger(used=9999)), make_split([], ledger=broken)]
    assert_found(check_rows(splits, 0.02), "stop")


def test_label_files_that_were_not_found_show_as_images_without_objects() -> None:
    good, bad = make_split(healthy_rows(8)), make_split([[], [], *healthy_rows(1)], "val")
    assert_found(check_background([good]), "ok")
    assert_found(check_background([good, bad]), "look", "67% of val")


def test_a_class_that_is_scored_but_never_taught_stops() -> None:
    rows = healthy_rows()
    assert_found(check_classes(train_and_val(renamed(rows, (0, 1, 2, None)), rows)), "stop", "dog")
    assert_found(check_classes(train_and_val(renamed(rows, (0, 1, 2, None)), [])), "look", "dog")
    assert_found(check_classes(train_and_val(rows, [])), "ok", "4 classes")


def test_a_rare_class_is_named() -> None:
    one: list[list[Row]] = [[(i, (0.0, 0.0, 9.0, 9.0))] for i in range(4)]
    rare = one[:1] * 19 + one[1:] * 20
    assert_found(check_balance(gathered(make_split(rare))[0]), "look", "ant (19)")
    assert_found(check_balance(gathered(make_split([*rare, rare[0]]))[0]), "ok")
    assert_found(check_balance(gathered(make_split(one[:3] * 20 + one[3:] * 2001))[0]), "look", "with 2001")


def test_yolo_files_whose_ids_count_from_one_stop(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    for i in range(8):
        write_image(tmp_path / "images" / f"{i}.png", np.zeros((8, 8, 3), dtype=np.uint8))
        (tmp_path / "labels" / f"{i}.txt").write_text(f"{i % 4 + 1} 0.5 0.5 0.5 0.5\n")
    values = {"names": list(NAMES), "train": "images"}
    split = yolo.read_split(yolo.parse_data_yaml(tmp_path / "data.yaml", values), "train")
    finding = check_class_ids(gathered(split))
    assert_found(finding, "stop", "id 0 (ant) is never used", "2 rows say 4", "count from 1")


def test_a_first_class_that_nothing_belongs_to_is_looked_at_where_the_last_is_used() -> None:
    rows = renamed(healthy_rows(), (1, 2, 3, None))
    assert_found(check_class_ids(train_and_val(rows, rows)), "look", "ant")


@pytest.mark.parametrize("shift", [1, -1])
@pytest.mark.parametrize("rotated", [True, False])
def test_one_split_with_its_ids_off_by_one_is_looked_at(shift: int, rotated: bool) -> None:
    new = [(i + shift) % 4 if rotated or 0 <= i + shift < 4 else None for i in range(4)]
    finding = check_class_ids(train_and_val(healthy_rows(), renamed(healthy_rows(seed=1), new)))
    assert_found(finding, "look", f"moved by {shift:+d}")


def test_splits_with_the_same_ids_are_well_however_few_their_objects() -> None:
    for count in (0, 1, 3, 20):
        assert_found(check_class_ids(train_and_val(healthy_rows(), healthy_rows(count, seed=1))), "ok", "0 to 3")


def test_a_split_with_other_classes_than_were_taught_is_looked_at() -> None:
    rows = healthy_rows()
    other = [of_image[:1] for of_image in rows if of_image[0][0] < 2]
    assert_found(check_class_shares(train_and_val(rows, other)), "look", "val 50%")
    assert_found(check_class_shares(train_and_val(rows, healthy_rows(8))), "ok", "val 0%")


# Boxes.


def test_an_object_labeled_twice_is_found_in_one_class_and_in_two() -> None:
    rows = healthy_rows(3)
    class_id, (x1, y1, x2, y2) = rows[1][0]
    again = (x1 + 0.2, y1, x2, y2)
    twice = gathered(make_split([rows[0], [*rows[1], (class_id, again)], rows[2]]))
    assert_found(check_repeated_boxes(twice), "look", "1 pairs", "train/1.png")
    assert_found(check_two_classes(twice), "ok")
    other = gathered(make_split([rows[0], [*rows[1], ((class_id + 1) % 4, again)], rows[2]]))
    assert_found(check_repeated_boxes(other), "ok")
    assert_found(check_two_classes(other), "look", "1 pairs", "train/1.png")


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ((0, (0, 0, 640, 470)), "1 boxes fill the image"),
        ((1, (0, 100, 500, 120)), "1 boxes are 20 times longer"),
        ((3, (10, 10, 14, 14)), "1 boxes are far from the size"),
    ],
)
def test_odd_boxes_are_named_with_their_image(row: Row, reason: str) -> None:
    rows = healthy_rows()
    assert_found(check_odd_boxes(gathered(make_split(rows))), "ok")
    rows[7].append(row)
    found = check_odd_boxes(gathered(make_split(rows)))
    assert_found(found, "look", reason, f"{NAMES[row[0]]} in train/7.png")


# The canvas.


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
def test_a_canvas_that_does_not_suit_the_images_is_looked_at(
    hw: HW, input_hw: HW, side: int, verdict: str, advice: str
) -> None:
    split = make_split([[(0, (0, 0, side, side))]] * 3, hw=hw)
    assert_found(check_canvas(gather(split, input_hw), input_hw), verdict, advice)


def test_images_of_very_different_aspects_leave_much_of_any_canvas_gray() -> None:
    images = [np.zeros(hw, np.uint8) for hw in ((60, 600, 3), (600, 600, 3), (600, 60, 3))]
    split = make_split([[]] * 3, images=images)
    assert_found(check_canvas(gather(split, (320, 320)), (320, 320)), "look", "very different aspects")


def test_objects_too_small_for_the_canvas_ask_for_a_larger_one_as_far_as_the_images_go() -> None:
    for side, hint in ((4, "--imgsz 480"), (1.5, "--imgsz 640"), (10, "")):
        train = gather(make_split([[(0, (5, 5, 5 + side, 50))]] * 3), INPUT_HW)
        assert_found(check_small_objects(train, INPUT_HW), "look" if hint else "ok", hint)
    at_full_size = gather(make_split([[(0, (5, 5, 6, 50))]] * 3), (480, 640))
    assert_found(check_small_objects(at_full_size, (480, 640)), "look", "tiles")


@given(
    st.lists(st.tuples(*[st.floats(0, 127)] * 2, *[st.floats(0.01, 60)] * 2), min_size=1, max_size=8),
    st.floats(0, 1.5),
)
def test_the_rule_of_who_may_answer_is_the_assigners(corners: list[Box], reach: float) -> None:
    boxes = np.array([(x, y, min(x + w, 128), min(y + h, 128)) for x, y, w, h in corners], dtype=np.float32)
    grid = make_grid((128, 128), torch.device("cpu"))
    by_assigner = candidates(torch.from_numpy(boxes), grid, reach).any(dim=1)
    # On a border of the rule the two may round to different sides.
    margin = np.array([1e-3, 1e-3, -1e-3, -1e-3], dtype=np.float32)
    assert (has_candidate(boxes - margin, reach + 1e-3) >= by_assigner.numpy()).all()
    assert (by_assigner.numpy() >= has_candidate(boxes + margin, reach - 1e-3)).all()


def test_objects_that_no_point_may_answer_for_and_crowds_are_counted() -> None:
    # Around a corner of the cells of all strides but the coarsest, whose points lie elsewhere.
    small = gather(make_split([[(0, (31, 31, 33, 33))]] * 3, hw=(256, 320)), INPUT_HW)
    assert_found(check_points(small, Config()), "ok", "0.0% of the objects")
    assert_found(check_points(small, Config(assign_radius=0.2)), "stop", "100.0%", "assign_radius")
    crowd = gather(make_split([[(0, (100, 100, 120 + i, 120)) for i in range(4)]]), INPUT_HW)
    assert_found(check_points(crowd, Config()), "look", "75.0% share their cell of 8 pixels")
    far = gather(make_split([[(0, (100 + 30 * i, 100, 120 + 30 * i, 120)) for i in range(4)]]), INPUT_HW)
    assert_found(check_points(far, Config()), "ok")
    assert_found(check_points(far, Config(head="yolo_v1")), "look", "of 32 pixels")


# Images.


def test_a_file_in_two_splits_stops() -> None:
    train = make_split(healthy_rows(5))
    val = replace(train, name="val", annotations=train.annotations[3:])
    assert_found(check_shared_files([train, val]), "stop", "2 files of train", "train/3.png")
    assert_found(check_shared_files([train, make_split(healthy_rows(5), "val")]), "ok")


def test_black_images_are_looked_at_and_stop_where_they_are_most() -> None:
    images, black = scenery(6), np.zeros((96, 128, 3), dtype=np.uint8)
    for count, verdict in ((0, "ok"), (1, "look"), (3, "look"), (4, "stop")):
        thumbnails = read_thumbnails([shown([*[black] * count, *images[count:]])])
        assert_found(check_images(thumbnails), verdict, f"{count} of 6 images")
        # They are no copies of each other to anyone's mind.
        assert_found(check_repeated_images(thumbnails[0]), "ok")


def test_images_that_do_not_decode_are_counted_and_named() -> None:
    thumbnails = read_thumbnails([shown([None, *scenery(3)])])
    assert_found(check_images(thumbnails), "look", "1 do not decode", "train/0.png")


@pytest.mark.parametrize(("copies", "verdict"), [(0, "ok"), (1, "look"), (2, "stop"), (20, "stop")])
def test_copies_of_what_was_learned_among_what_is_scored_are_found(copies: int, verdict: str) -> None:
    train, fresh = scenery(40), scenery(20, seed=1)
    val = [*train[:copies], *fresh[copies:]]
    finding = check_leakage(read_thumbnails([shown(train), shown(val, "val")]))
    assert_found(finding, verdict, f"val {copies} exactly", *["val/0.png = train/0.png"] * (copies > 0))


def darker(image: ImageArray) -> ImageArray:
    return (image * 0.6 + 10).astype(np.uint8)


def noisy(image: ImageArray) -> ImageArray:
    noise = np.random.default_rng(0).normal(0, 5, image.shape)
    return np.clip(image + noise, 0, 255).astype(np.uint8)


def shrunk(image: ImageArray) -> ImageArray:
    return np.asarray(cv2.resize(image, (80, 60), interpolation=cv2.INTER_AREA), dtype=np.uint8)


def flipped(image: ImageArray) -> ImageArray:
    return np.ascontiguousarray(image[:, ::-1])


@pytest.mark.parametrize("change", [darker, noisy, shrunk, flipped])
def test_a_changed_copy_is_nearly_the_same_image(change: object) -> None:
    assert callable(change)
    train, fresh = scenery(40), scenery(20, seed=1)
    val = [change(train[7]), *fresh[1:]]
    finding = check_leakage(read_thumbnails([shown(train), shown(val, "val")]))
    assert_found(finding, "look", "val 0 exactly and 1 nearly", "val/0.png = train/7.png")


def test_twins_are_those_that_a_comparison_of_all_pairs_finds() -> None:
    base = scenery(30)
    images = [*base, *map(noisy, base[:9]), *base[4:6], *map(flipped, base[20:24])]
    thumbnails = read_thumbnails([shown(images)])[0].pixels
    exact, near = find_near_duplicates(thumbnails)

    def correlation(a: ImageArray, b: ImageArray) -> float:
        cells = (t.astype(np.float64).reshape(16, 2, 16, 2, 3).mean(axis=(1, 3, 4)) for t in (a, b))
        one, other = (np.concatenate([np.diff(c, axis=0).ravel(), np.diff(c, axis=1).ravel()]) for c in cells)
        return float(one @ other / np.sqrt((one @ one) * (other @ other)))

    for i, this in enumerate(thumbnails):
        same = [j for j in range(i) if np.array_equal(this, thumbnails[j])]
        alike = [
            j for j in range(i) if max(correlation(this, t) for t in (thumbnails[j], thumbnails[j][:, ::-1])) > 0.97
        ]
        assert exact.get(i) == (same[0] if same else None)
        assert (near.get(i) in alike) if alike and not same else i not in near
    assert (len(exact), len(near)) == (2, 13)


def test_an_even_sample_is_taken_and_said_where_there_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(near_duplicates, "_MOST_DRAWN", 10)
    train, val = shown(scenery(30)), shown(scenery(10, seed=1), "val")
    thumbnails = read_thumbnails([train, val])
    assert [len(t.paths) for t in thumbnails] == [8, 2]
    assert thumbnails[0].paths[0].name == "0.png"
    assert thumbnails[0].paths[-1].name == "29.png"
    assert "10 images (a sample of 40)" in check_leakage(thumbnails).measured


def test_files_and_images_in_memory_give_nearly_the_same_thumbnails(tiny_data: Path) -> None:
    split = open_data(tiny_data).read("train")
    in_memory = replace(split, read_image=lambda annotation: read_image(annotation.image_path))
    from_files, read = read_thumbnails([split])[0], read_thumbnails([in_memory])[0]
    assert from_files.paths == read.paths
    np.testing.assert_allclose(from_files.pixels.astype(int), read.pixels, atol=2)


def shifted(split: Split, right: float, down: float) -> Split:
    move = np.array([right, down] * 2, dtype=np.float32)
    size = np.array([480, 384] * 2, dtype=np.float32)
    moved = [replace(a, boxes=np.clip(a.boxes + move, 0, size)) for a in split.annotations]
    return replace(split, annotations=tuple(moved))


@pytest.fixture(scope="module")
def drawn() -> Split:
    """The first scenes, each drawn once."""
    whole = scenes.read_split("val")
    first = whole.annotations[:36]
    images = {annotation.image_id: whole.read_image(annotation) for annotation in first}
    return replace(whole, annotations=first, read_image=lambda annotation: images[annotation.image_id])


@pytest.mark.parametrize(("right", "down"), [(0, 0), (6, 0), (0, -6), (-12, 12), (12, 0)])
def test_labels_shifted_all_alike_are_looked_at_with_the_shift(drawn: Split, right: int, down: int) -> None:
    finding = check_label_shift(shifted(drawn, right, down))
    assert finding.verdict == ("look" if right or down else "ok"), finding
    # In pixels of an image 640 wide: these are 480.
    measured = [float(word) for word in finding.measured.split() if word[0] in "+-"]
    np.testing.assert_allclose(measured, [right * 640 / 480, down * 640 / 480], atol=1.5)


@pytest.mark.parametrize("margin", [-3, 6])
def test_boxes_too_tight_or_too_wide_are_not_taken_for_shifted(drawn: Split, margin: float) -> None:
    grow = np.array([-margin, -margin, margin, margin], dtype=np.float32)
    grown = [replace(a, boxes=a.boxes + grow) for a in drawn.annotations]
    assert_found(check_label_shift(replace(drawn, annotations=tuple(grown))), "ok")


def test_labels_of_other_images_stand_on_no_edges(drawn: Split) -> None:
    boxes = [annotation.boxes for annotation in drawn.annotations]
    ids = [annotation.class_ids for annotation in drawn.annotations]
    mixed = [
        replace(a, boxes=b, class_ids=i, is_crowd=np.zeros(len(b), np.bool_), areas=area(b))
        for a, b, i in zip(drawn.annotations, boxes[1:] + boxes[:1], ids[1:] + ids[:1], strict=True)
    ]
    assert_found(check_label_shift(replace(drawn, annotations=tuple(mixed))), "look", "other images")


def test_too_few_objects_tell_nothing_of_a_shift(drawn: Split) -> None:
    few = replace(shifted(drawn, 12, 0), annotations=drawn.annotations[:3])
    assert_found(check_label_shift(few), "ok", "too few")


@given(st.integers(-12, 12), st.integers(0, 2**32))
@settings(max_examples=30)
def test_the_mirror_point_of_profiles_is_where_they_were_mirrored(place: int, seed: int) -> None:
    # A smooth profile of any form, about `place`: mirrored it is that of the other side.
    offsets = np.arange(-24, 25) - place
    rng = np.random.default_rng(seed)
    form = np.cumsum(rng.normal(size=200))
    left = np.interp(offsets, np.arange(-100, 100), form)
    right = np.interp(-offsets, np.arange(-100, 100), form)
    assert symmetry_center(np.stack([left, right])[None].astype(np.float32)) == place


def test_edge_profiles_are_means_over_the_sides_of_the_boxes() -> None:
    gray = np.random.default_rng(0).integers(0, 256, (70, 120), dtype=np.uint8)
    boxes = np.array([[40, 10, 60, 50], [5, 10, 60, 50], [40, 10, 110, 50], [40, 10, 44, 50]], dtype=np.float32)
    (profile,) = edge_profiles(gray, boxes)  # the others are too near the border, or too small
    for side, x in enumerate((40, 60)):
        wanted = [
            np.mean([abs(int(gray[y, x + d]) - int(gray[y, x + d - 1])) for y in range(10, 50)]) for d in range(-24, 25)
        ]
        np.testing.assert_allclose(profile[side] / profile[side].sum(), wanted / np.sum(wanted), rtol=1e-4)
