"""Some classes of a split, or one merged class: every label row is accounted for, and the ground truth is the same."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detector.data.class_mapping import choose_classes, fit_classes, trained_classes
from detector.data.formats.coco_scoring import to_coco
from detector.data.open_data import open_data
from detector.data.split import Split
from detector.errors import ConfigError, WeightsError
from detector.images import write_image
from detector.metrics.average_precision import average_precision
from detector.trained_classes import ClassChoice, TrainedClasses, class_choice, common_classes

NAMES = ("car", "bus", "person")

Row = tuple[int, int, list[float]]

ROWS: list[Row] = [
    (1, 4, [2, 2, 10, 10]),
    (1, 7, [12.3, 4.1, 9.7, 10.9]),
    (1, 9, [20, 4, 99, 10]),  # clipped
    (2, 7, [3, 3, -1, 9]),  # dropped
    (2, 9, [5, 5, 20, 20]),
    (3, 4, [30, 2, 60, 10]),  # clipped
    (3, 7, [4, 4, 8, 8]),
]
"""Image id, category id and bbox of each label row."""


def write(folder: Path, rows: list[Row] = ROWS, **images: Any) -> Path:
    """Write a COCO folder with four images; the last one is background."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(1, 5):
        write_image(folder / f"{number}.png", np.full((32, 48, 3), 40 * number, dtype=np.uint8))
    data = {
        "images": [{"id": i, "file_name": f"{i}.png", "height": 32, "width": 48} | images for i in range(1, 5)],
        "categories": [{"id": i, "name": name} for i, name in zip((4, 7, 9), NAMES, strict=True)],
        "annotations": [
            {"id": k, "image_id": i, "category_id": c, "bbox": box, "area": abs(box[2] * box[3]), "iscrowd": 0}
            for k, (i, c, box) in enumerate(rows, start=1)
        ],
    }
    (folder / "train.json").write_text(json.dumps(data))
    return folder


def read(folder: Path) -> Split:
    return open_data(folder).read("train")


@pytest.fixture
def split(tmp_path: Path) -> Split:
    return read(write(tmp_path))


@pytest.mark.parametrize("names", [("car",), ("bus",), ("person", "car"), NAMES])
@pytest.mark.parametrize("merged", [None, "thing"])
def test_every_row_is_accounted_for_and_images_stay(split: Split, names: tuple[str, ...], merged: str | None) -> None:
    chosen = choose_classes(split, ClassChoice(names, merged))
    assert chosen.ledger.found == split.ledger.found == len(ROWS)
    assert [a.image_path for a in chosen.annotations] == [a.image_path for a in split.annotations]
    boxes = sum(len(a.boxes) for a in chosen.annotations)
    assert boxes == chosen.ledger.used + chosen.ledger.clipped
    assert chosen.ledger.dropped == split.ledger.dropped == 1
    expected = {n: sum(NAMES[[4, 7, 9].index(c)] == n for _, c, box in ROWS if box[2] > 0) for n in NAMES}
    assert chosen.ledger.other_classes == {n: count for n, count in expected.items() if n not in names}
    assert boxes == sum(expected[n] for n in names)
    with_drops = {entry.image for entry in chosen.ledger.entries if entry.action == "dropped"}
    empty = [a for a in chosen.annotations if not len(a.boxes) and a.image_path not in with_drops]
    assert chosen.ledger.background == len(empty)
    assert chosen.class_names == ((merged,) if merged else tuple(n for n in NAMES if n in names))
    assert ("of other classes" in chosen.ledger.summary()) == (names != NAMES)


def test_chosen_classes_keep_their_ids_and_boxes(split: Split) -> None:
    chosen = choose_classes(split, ClassChoice(("person", "car")))
    assert (chosen.class_names, chosen.category_ids) == (("car", "person"), (4, 9))
    for before, after in zip(split.annotations, chosen.annotations, strict=True):
        kept = before.class_ids != 1
        np.testing.assert_array_equal(after.boxes, before.boxes[kept])
        np.testing.assert_array_equal(after.class_ids, before.class_ids[kept] // 2)
        np.testing.assert_array_equal(after.areas, before.areas[kept])


def test_a_merged_class_has_an_id_of_its_own(split: Split) -> None:
    merged = choose_classes(split, ClassChoice(None, "thing"))
    assert merged.category_ids == (10,)
    assert merged.ledger.other_classes == {}
    assert merged.ledger.used == split.ledger.used


def test_a_second_choice_counts_the_rows_of_both(split: Split) -> None:
    twice = choose_classes(choose_classes(split, ClassChoice(("car", "bus"))), ClassChoice(("bus",)))
    once = choose_classes(split, ClassChoice(("bus",)))
    assert twice.ledger == once.ledger
    assert twice.ledger.found == len(ROWS)


def test_ground_truth_of_a_file_keeps_all_digits(tmp_path: Path) -> None:
    split = read(write(tmp_path, [row for row in ROWS if row[2][2] in (10, 9.7, 8, 20)]))
    assert split.ground_truth is not None
    chosen = choose_classes(split, ClassChoice(("bus",)))
    assert chosen.ground_truth is not None
    assert [row["bbox"] for row in chosen.ground_truth["annotations"]] == [[12.3, 4.1, 9.7, 10.9], [4, 4, 8, 8]]
    assert [row["id"] for row in chosen.ground_truth["categories"]] == [7]
    assert len(chosen.ground_truth["images"]) == 4
    assert choose_classes(split, ClassChoice(None, "thing")).ground_truth is None


def test_ap_of_a_chosen_class_is_the_same(tmp_path: Path) -> None:
    split = read(write(tmp_path, [row for row in ROWS if row[2][2] in (10, 9.7, 8, 20)]))
    rows = [
        {"image_id": 1, "category_id": 7, "bbox": [12, 4, 10, 11], "score": 0.9},
        {"image_id": 2, "category_id": 7, "bbox": [1, 1, 9, 9], "score": 0.8},
        {"image_id": 3, "category_id": 7, "bbox": [4, 4, 8, 7], "score": 0.3},
    ]
    chosen = choose_classes(split, ClassChoice(("bus",)))
    for truth in (chosen.ground_truth, to_coco(chosen)):
        assert truth is not None
        ap = average_precision(truth, rows)
        assert pytest.approx(average_precision(to_coco(split), rows).per_class["bus"]["AP"]) == ap.AP
        assert list(ap.per_class) == ["bus"]


@pytest.mark.parametrize(("name", "hint"), [("Car", "did you mean 'car'"), ("buss", "did you mean 'bus'"), ("x", "")])
def test_an_unknown_class_is_an_error_with_the_names(split: Split, name: str, hint: str) -> None:
    with pytest.raises(ConfigError, match="no class") as error:
        choose_classes(split, ClassChoice(("bus", name)))
    assert "car, bus, person" in str(error.value)
    assert hint in str(error.value)


def test_a_merged_name_of_another_class_is_an_error(split: Split) -> None:
    with pytest.raises(ConfigError, match="another name"):
        choose_classes(split, ClassChoice(("car", "bus"), "person"))
    assert choose_classes(split, ClassChoice(("car", "bus"), "car")).class_names == ("car",)


@pytest.mark.parametrize("arguments", [((), None), ("car", None), ([1], None), (None, " "), (None, True)])
def test_an_invalid_choice_is_an_error(arguments: Any) -> None:
    with pytest.raises(ConfigError):
        class_choice(*arguments)


def test_a_merged_class_is_labeled_if_all_its_classes_are(tmp_path: Path) -> None:
    rows: list[Row] = [(1, 4, [2, 2, 10, 10]), (2, 7, [5, 5, 20, 20])]
    split = read(write(tmp_path, rows, neg_category_ids=[9]))
    labeled = [a.labeled_classes for a in split.annotations]
    assert [None if own is None else own.tolist() for own in labeled[:2]] == [[True, False, True], [False, True, True]]
    merged = choose_classes(split, ClassChoice(("car", "person"), "thing"))
    assert merged.annotations[0].labeled_classes is None
    assert merged.annotations[1].labeled_classes is not None
    assert merged.annotations[1].labeled_classes.tolist() == [False]
    chosen = choose_classes(split, ClassChoice(("person",)))
    assert all(a.labeled_classes is None for a in chosen.annotations)


def learned(split: Split, names: tuple[str, ...] | None, merged: str | None) -> tuple[tuple[str, ...], TrainedClasses]:
    choice = ClassChoice(names, merged)
    return choose_classes(split, choice).class_names, trained_classes(split, choice)


@pytest.mark.parametrize(("names", "merged"), [(("person", "car"), None), (("bus",), "thing"), (None, "thing")])
def test_data_fitted_to_weights_equals_their_training_data(
    split: Split, names: tuple[str, ...] | None, merged: str | None
) -> None:
    class_names, trained = learned(split, names, merged)
    assert TrainedClasses.from_json(json.loads(json.dumps(trained.to_json()))) == trained
    expected, fitted = choose_classes(split, ClassChoice(names, merged)), fit_classes(split, class_names, trained)
    assert fitted.class_names == expected.class_names
    assert fitted.ledger.found == len(ROWS)
    for a, b in zip(fitted.annotations, expected.annotations, strict=True):
        np.testing.assert_array_equal(a.boxes, b.boxes)
        np.testing.assert_array_equal(a.class_ids, b.class_ids)
    assert fit_classes(expected, class_names, trained) is expected


def test_data_without_a_learned_class_is_an_error(split: Split) -> None:
    class_names, trained = learned(split, ("car", "bus"), None)
    with pytest.raises(WeightsError, match="no class 'car'"):
        fit_classes(choose_classes(split, ClassChoice(("bus", "person"))), class_names, trained)


def test_unknown_classes_are_an_error_unless_chosen(split: Split) -> None:
    smaller = choose_classes(split, ClassChoice(("car", "bus")))
    class_names, trained = learned(smaller, None, "thing")
    with pytest.raises(WeightsError, match="'person', of which the weights know nothing"):
        fit_classes(split, class_names, trained)
    class_names, trained = learned(smaller, ("car", "bus"), "thing")
    assert fit_classes(split, class_names, trained).ledger.other_classes == {"person": 2}


def test_a_class_missing_in_one_of_several_sets_is_unlabeled(split: Split) -> None:
    trained = TrainedClasses(("dog", *NAMES), (("dog",), ("person",), ("car",), ("bus",)), missing="unlabeled")
    fitted = fit_classes(split, ("dog", "person", "car", "bus"), trained)
    assert len(set(fitted.category_ids)) == 4
    for before, after in zip(split.annotations, fitted.annotations, strict=True):
        assert after.labeled_classes is not None
        assert after.labeled_classes.tolist() == [False, True, True, True]
        assert [fitted.class_names[c] for c in after.class_ids] == [split.class_names[c] for c in before.class_ids]


@pytest.mark.parametrize(
    "values",
    [
        None,
        {},
        {"data_classes": ["a"], "groups": [], "chosen": 1, "missing": "error"},
        {"data_classes": ["a"], "groups": [["a"], ["a"]], "chosen": True, "missing": "error"},
        {"data_classes": ["a"], "groups": [["a"]], "chosen": True, "missing": "x"},
        {"data_classes": "a", "groups": [["a"]], "chosen": True, "missing": "error"},
    ],
)
def test_damaged_trained_classes_are_refused(values: object) -> None:
    with pytest.raises(ValueError, match="trained_classes"):
        TrainedClasses.from_json(values)


def test_one_part_of_a_merged_class_is_no_merged_class(tmp_path: Path) -> None:
    split = open_data(write(tmp_path / "cars")).read("train")
    cars = choose_classes(split, ClassChoice(("car",)))
    learned = trained_classes(split, ClassChoice(merged="car"))
    with pytest.raises(WeightsError, match="this dataset has no class 'bus'"):
        fit_classes(cars, ("car",), learned)
    assert fit_classes(cars, ("vehicle",), trained_classes(cars, ClassChoice(merged="vehicle"))) is not cars
    vehicles = choose_classes(split, ClassChoice(merged="vehicle"))
    assert fit_classes(vehicles, ("vehicle",), trained_classes(split, ClassChoice(merged="vehicle"))) is vehicles


def test_classes_of_several_weights_are_joined_by_name() -> None:
    car = TrainedClasses(NAMES, (("car",),), chosen=True)
    bus = TrainedClasses((*NAMES, "tram"), (("bus",),), chosen=True, missing="unlabeled")
    joined = common_classes([(("car",), car), (("bus",), bus)])
    assert joined == TrainedClasses((*NAMES, "tram"), (("car",), ("bus",)), True, "unlabeled")
    with_plain = common_classes([(("car",), car), (NAMES, None)])
    assert with_plain == TrainedClasses(NAMES, (("car",), ("bus",), ("person",)), False, "error")
    merged = TrainedClasses(NAMES, (("car", "bus"),))
    assert common_classes([(("car",), car), (("car",), merged)]) is None
    assert common_classes([(("bus",), bus), (("vehicle",), merged)]) is None
    assert common_classes([(NAMES, None), (NAMES, None)]) is None
