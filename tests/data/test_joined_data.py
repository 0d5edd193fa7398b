"""Several datasets as one: classes by name, unlabeled classes, unique ids, each set with its own val images."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from detector.data.formats.coco_scoring import to_coco
from detector.data.joined_data import join_data_sets, join_splits, open_all, read_joined_splits, specs_of
from detector.data.open_data import open_data
from detector.data.training_splits import TrainingSplits, read_training_splits
from detector.errors import ConfigError
from detector.images import write_image
from detector.metrics.average_precision import average_precision


def write(
    folder: Path, names: list[str], count: int, *, used: list[str] | None = None, split: str = "train", seed: int = 0
) -> Path:
    """Write a COCO folder; image k has one object of the class k % len(used); file names count from 1."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng([seed, count, *map(ord, folder.name + split)])
    rows, images = [], []
    for number in range(1, count + 1):
        name = f"{split}{number}.png"
        write_image(folder / name, rng.integers(0, 256, (32, 48, 3), dtype=np.uint8))
        images.append({"id": number, "file_name": name, "height": 32, "width": 48})
        own = used or names
        category = names.index(own[number % len(own)])
        rows.append({"id": number, "image_id": number, "category_id": category, "bbox": [4, 4, 20, 20], "area": 400})
    categories = [{"id": i, "name": name} for i, name in enumerate(names)]
    content = {"images": images, "annotations": [row | {"iscrowd": 0} for row in rows], "categories": categories}
    (folder / f"{split}.json").write_text(json.dumps(content))
    return folder


def read(*folders: Path, **options: object) -> TrainingSplits:
    return read_joined_splits(open_all(folders), None, 0.2, **options)  # type: ignore[arg-type]


def test_classes_are_merged_by_name_in_order_of_appearance(tmp_path: Path) -> None:
    a, b = write(tmp_path / "a", ["cat", "dog"], 12), write(tmp_path / "b", ["bird", "dog"], 15)
    train = read(a, b).train
    assert train.class_names == ("cat", "dog", "bird")
    assert len(set(train.category_ids)) == 3
    assert train.category_ids[:2] == (0, 1)
    for annotation in train.annotations:
        [c] = annotation.class_ids
        number = int(annotation.image_path.stem.removeprefix("train"))
        own = ["cat", "dog"] if annotation.image_path.parent == a else ["bird", "dog"]
        assert train.class_names[c] == own[number % 2]


def test_a_class_that_a_set_does_not_have_is_unlabeled(tmp_path: Path) -> None:
    a, b = write(tmp_path / "a", ["cat", "dog"], 12), write(tmp_path / "b", ["bird", "dog"], 15)
    splits = read(a, b)
    assert splits.val is not None
    for part in (splits.train, splits.val):
        for annotation in part.annotations:
            assert annotation.labeled_classes is not None
            expected = [True, True, False] if annotation.image_path.parent == a else [False, True, True]
            assert annotation.labeled_classes.tolist() == expected
    assert any("class bird are not labeled here" in note for note in splits.notes)
    background = read(a, b, missing="background")
    assert all(annotation.labeled_classes is None for annotation in background.train.annotations)
    assert any("class bird count as background here" in note for note in background.notes)


def test_equal_classes_give_no_partial_labels_or_warnings(tmp_path: Path) -> None:
    a, b = write(tmp_path / "a", ["cat", "dog"], 12), write(tmp_path / "b", ["cat", "dog"], 15)
    splits = read(a, b)
    assert all(annotation.labeled_classes is None for annotation in splits.train.annotations)
    assert splits.warnings == ()
    assert not any("labeled" in note for note in splits.notes)


def test_ids_are_unique_and_equal_file_names_stay_apart(tmp_path: Path) -> None:
    a, b = write(tmp_path / "a", ["cat"], 12), write(tmp_path / "b", ["cat"], 15)
    splits = read(a, b)
    assert splits.val is not None
    for part in (splits.train, splits.val):
        ids = [annotation.image_id for annotation in part.annotations]
        assert ids == sorted(set(ids))
        for annotation in part.annotations:
            image = open_data(annotation.image_path.parent).read("train").decode(annotation)
            np.testing.assert_array_equal(part.decode(annotation), image)
    assert len(splits.train.annotations) + len(splits.val.annotations) == 27
    assert splits.train.ledger.found + splits.val.ledger.found == 27


def test_each_set_holds_back_the_same_images_as_alone(tmp_path: Path) -> None:
    a, b = write(tmp_path / "a", ["cat", "dog"], 20), write(tmp_path / "b", ["dog", "bird"], 30)
    joined = read(a, b)
    alone = [read_training_splits(open_data(folder), None, 0.2) for folder in (a, b)]
    for name in ("train", "val"):
        paths = [x.image_path for own in alone for x in getattr(own, name).annotations]
        assert [x.image_path for x in getattr(joined, name).annotations] == paths
    assert joined.val is not None
    assert joined.val.held_back
    assert joined.val.category_ids == joined.train.category_ids
    assert joined.image_hashes().val.isdisjoint(joined.image_hashes().train)


def test_val_splits_and_held_back_images_come_together(tmp_path: Path) -> None:
    a = write(tmp_path / "a", ["cat"], 12)
    write(a, ["cat"], 4, split="val")
    b, c = write(tmp_path / "b", ["dog"], 20), write(tmp_path / "c", ["fox"], 4)
    splits = read(c, b, a)
    assert splits.val is not None
    assert splits.val.class_names == splits.train.class_names == ("fox", "dog", "cat")
    assert splits.val.category_ids == splits.train.category_ids
    assert {x.image_path.parent.name for x in splits.val.annotations} == {"a", "b"}
    assert sum(x.image_path.parent == a for x in splits.val.annotations) == 4
    assert any("no val images" in warning for warning in splits.warnings)


def test_trainval_uses_all_training_images_of_a_set_without_val(tmp_path: Path) -> None:
    a, b = write(tmp_path / "a", ["cat"], 12), write(tmp_path / "b", ["cat"], 15)
    write(a, ["cat"], 4, split="val")
    splits = read_joined_splits(open_all((a, b)), "trainval", 0.2)
    assert (splits.train.name, len(splits.train.annotations), splits.val) == ("trainval", 12 + 4 + 15, None)
    assert any("b: train: no val split, so trainval is all images of train" in note for note in splits.notes)


def test_an_image_in_two_sets_is_on_one_side(tmp_path: Path) -> None:
    a, b = write(tmp_path / "a", ["cat"], 20), write(tmp_path / "b", ["dog"], 30)
    for number in range(1, 21):
        shutil.copy(a / f"train{number}.png", b / f"train{number}.png")
    splits = read(a, b)
    hashes = splits.file_hashes
    assert splits.val is not None
    trained, evaluated = ({hashes[x.image_path] for x in own.annotations} for own in (splits.train, splits.val))
    assert trained.isdisjoint(evaluated)
    assert splits.warnings == ()


def test_val_images_that_another_set_trains_on_are_reported(tmp_path: Path) -> None:
    a, b = write(tmp_path / "a", ["cat"], 12), write(tmp_path / "b", ["cat"], 12)
    write(b, ["cat"], 6, split="val")
    write(a, ["cat"], 6, split="val")
    shutil.copy(b / "val3.png", a / "train7.png")
    [warning] = read(a, b).warnings
    assert "contains 1 of 6 val images" in warning
    assert "val3.png" in warning


@pytest.mark.parametrize(
    ("first", "second", "is_similar"),
    [
        ("Traffic light", "traffic_lights", True),
        ("car", "Car", True),
        ("bus", "buses", True),
        ("berry", "Berries", True),
        ("cat", "cats", True),
        ("car", "cart", False),
        ("glass", "grass", False),
        ("bus", "bu", False),
        ("t-shirt", "skirt", False),
        ("1", "11", False),
    ],
)
def test_names_that_look_alike_are_reported(tmp_path: Path, first: str, second: str, is_similar: bool) -> None:
    a, b = write(tmp_path / "a", [first, "x"], 12), write(tmp_path / "b", [second, "x"], 12)
    warnings = read(a, b).warnings
    assert len(warnings) == is_similar
    assert all(f"'{first}'" in warning and f"'{second}'" in warning for warning in warnings)


def test_a_listed_class_without_objects_is_reported(tmp_path: Path) -> None:
    a, b = write(tmp_path / "a", ["cat", "dog"], 12), write(tmp_path / "b", ["cat", "dog"], 12, used=["cat"])
    [note] = [note for note in read(a, b).notes if "no object of it" in note]
    assert "it lists the class dog" in note


def test_a_data_set_given_twice_is_an_error(tmp_path: Path) -> None:
    a = write(tmp_path / "a", ["cat"], 3)
    with pytest.raises(ConfigError, match="given twice"):
        specs_of([a, tmp_path / "b", tmp_path / "b" / ".." / "a"])
    with pytest.raises(ConfigError, match="at least one"):
        specs_of([])
    assert specs_of(a) == (str(a),)


def test_detections_of_unlabeled_classes_are_not_counted(tmp_path: Path) -> None:
    a, b = write(tmp_path / "a", ["cat"], 4), write(tmp_path / "b", ["dog"], 4)
    joined = join_splits("test", [open_data(folder).read("train") for folder in (a, b)])
    rows = [
        {"image_id": x.image_id, "category_id": i, "bbox": [4, 4, 20, 20], "score": 0.5}
        for x in joined.annotations
        for i in joined.category_ids
    ]
    assert pytest.approx(1) == average_precision(to_coco(joined), rows).AP
    background = join_splits("test", [open_data(folder).read("train") for folder in (a, b)], "background")
    assert average_precision(to_coco(background), rows).AP < 0.9


def test_a_split_that_one_set_lacks_is_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    a, b = write(tmp_path / "a", ["cat"], 4), write(tmp_path / "b", ["dog"], 4)
    write(a, ["cat"], 3, split="test")
    joined = join_data_sets(open_all([a, b]))
    assert joined.split_names == ("train", "test")
    assert len(joined.read("train").annotations) == 8
    assert len(joined.read("test").annotations) == 3
    assert "no split 'test'" in caplog.text
