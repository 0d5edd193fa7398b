"""Convert a dataset: round trips between all formats, images, names, errors, and what remains after a failure."""

import hashlib
import itertools
import json
import os
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import yaml
from PIL import Image

import detector
from detector.cli.commands import main
from detector.converting.convert import FormatName
from detector.data.open_data import open_data
from detector.data.split import Split
from detector.errors import ConfigError, FileError, LabelError

FORMATS: tuple[FormatName, ...] = ("coco", "yolo", "voc")
CLASSES = [
    "zebra",
    "no",
    "1",
    "null",
    "a & <b> \"c\" 'd'",
    "two\r\nlines",
    "été 日本 😀",
    "#x: y",
    "apple",
    "never used",
]
"""Names in an order that is not alphabetical, which YAML, XML or a terminal could read as something else."""

HARD: dict[str, list[tuple[str, tuple[int, int], list[tuple[int, list[float], int]]]]] = {
    "train": [
        ("a.png", (60, 80), [(0, [0, 0, 80, 60], 0), (1, [10, 20, 30, 25], 0)]),
        ("cam1/0001.jpg", (50, 33), [(2, [0.1, 0.2, 30.7, 11.3], 0), (3, [1 / 3, 2 / 3, 5.5, 7.25], 0)]),
        ("cam2/0001.jpg", (33, 50), [(4, [49, 32, 1, 1], 0)]),
        ("cam2/0001.png", (33, 50), [(5, [0, 0, 1e-3, 33], 0)]),
        ("été 日本.jpg", (40, 40), [(6, [3, 4, 5, 6], 0), (0, [7, 8, 30, 30], 1)]),
        ("with space & <sign>.png", (97, 31), [(7, [7, 13, 17, 19], 0)]),
        ("empty.png", (20, 20), []),
    ],
    "val": [("A.PNG", (641, 479), [(8, [1.23456, 600.4321, 400.1, 40.5], 0)]), ("no_objects.jpg", (16, 16), [])],
    "test": [("a.png", (100, 100), [(8, [0, 99, 100, 1], 0), (0, [5, 5, 90, 90], 1)])],
}
"""Split → (file name, (height, width), rows of (class id, [x, y, width, height], iscrowd))."""


def write_hard(folder: Path, crowd: bool = True) -> Path:
    """Write the dataset `HARD` as a COCO folder, with ids that have gaps and areas smaller than the boxes."""
    rng = np.random.default_rng(0)
    image_id = 0
    for split, images in HARD.items():
        data: dict[str, list[dict[str, Any]]] = {
            "images": [],
            "annotations": [],
            "categories": [{"id": 3 * i + 5, "name": name} for i, name in enumerate(CLASSES)],
        }
        for name, (height, width), rows in images:
            image_id += 7
            file_name = f"{split}/{name}"
            path = folder / "images" / file_name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 255, (height, width, 3)).astype(np.uint8)).save(path)
            data["images"].append({"id": image_id, "file_name": file_name, "height": height, "width": width})
            for class_id, box, is_crowd in rows:
                if is_crowd and not crowd:
                    continue
                row = {"id": len(data["annotations"]) + 1, "image_id": image_id, "category_id": 3 * class_id + 5}
                data["annotations"].append(row | {"bbox": box, "area": 0.5 * box[2] * box[3], "iscrowd": is_crowd})
        (folder / f"{split}.json").write_text(json.dumps(data), encoding="utf-8")
    return folder


def by_content(split: Split) -> dict[str, list[tuple[str, tuple[float, ...], bool]]]:
    """Return hash of the image's bytes → rows of (class name, corners, is crowd), in the order of the label file."""
    return {
        hashlib.sha256(a.image_path.read_bytes()).hexdigest(): [
            (split.class_names[class_id], tuple(box.tolist()), bool(is_crowd))
            for class_id, box, is_crowd in zip(a.class_ids, a.boxes, a.is_crowd, strict=True)
        ]
        for a in split.annotations
    }


def expected(split: str, crowd: bool) -> dict[str, list[tuple[str, tuple[float, ...], bool]]]:
    """Return what `by_content` must return, from the numbers in `HARD`; the keys are the positions of the images."""
    return {
        str(i): [
            (CLASSES[class_id], (x, y, x + width, y + height), bool(is_crowd))
            for class_id, (x, y, width, height), is_crowd in rows
            if crowd or not is_crowd
        ]
        for i, (_, _, rows) in enumerate(HARD[split])
    }


def assert_equal_to_hard(data: Path, source: Path, crowd: bool, allow_outside: bool = False) -> None:
    """Compare a dataset with the numbers in `HARD`: classes, images, boxes to 0.01 pixels, crowd flags."""
    data_set = open_data(data, allow_outside=allow_outside)
    assert data_set.split_names == ("train", "val", "test")
    for name in HARD:
        split = data_set.read(name)
        assert split.class_names == tuple(CLASSES)
        assert not split.ledger.entries
        found, wanted = by_content(split), expected(name, crowd)
        assert len(found) == len(wanted) == len(split.annotations)
        for i, (file_name, _, _) in enumerate(HARD[name]):
            rows = found[hashlib.sha256((source / "images" / name / file_name).read_bytes()).hexdigest()]
            assert [(row[0], row[2]) for row in rows] == [(row[0], row[2]) for row in wanted[str(i)]]
            for row, right in zip(rows, wanted[str(i)], strict=True):
                np.testing.assert_allclose(row[1], right[1], rtol=0, atol=0.01)
                whole = [(value, number) for value, number in zip(row[1], right[1], strict=True) if number % 1 == 0]
                assert all(value == number for value, number in whole)


def tree_hash(folder: Path) -> str:
    """Return a hash of all paths, contents and modification times in a folder."""
    items = sorted(folder.rglob("*"))
    values = [(str(p), p.stat().st_mtime_ns, p.read_bytes() if p.is_file() else b"") for p in items]
    return hashlib.sha256(repr(values).encode()).hexdigest()


@pytest.mark.parametrize(("first", "second"), list(itertools.product(FORMATS, FORMATS)))
def test_round_trip_keeps_every_class_image_and_box(first: FormatName, second: FormatName, tmp_path: Path) -> None:
    source = write_hard(tmp_path / "source")
    before = tree_hash(source)
    detector.convert(source, first, tmp_path / "first")
    assert tree_hash(source) == before
    detector.convert(tmp_path / "first", second, tmp_path / "second")
    detector.convert(tmp_path / "second", "coco", tmp_path / "third")
    crowd = "yolo" not in (first, second)
    assert_equal_to_hard(tmp_path / "first", source, first != "yolo")
    assert_equal_to_hard(tmp_path / "second", source, crowd)
    assert_equal_to_hard(tmp_path / "third", source, crowd)


def test_coco_keeps_areas_and_ids(tmp_path: Path) -> None:
    source = write_hard(tmp_path / "source")
    detector.convert(source, "coco", tmp_path / "out")
    for split in HARD:
        old, new = (json.loads((folder / f"{split}.json").read_text()) for folder in (source, tmp_path / "out"))
        assert [image["id"] for image in new["images"]] == [image["id"] for image in old["images"]]
        assert new["categories"] == old["categories"]
        for row, original in zip(new["annotations"], old["annotations"], strict=True):
            assert row["area"] == pytest.approx(original["area"], rel=1e-6)
            assert row["category_id"] == original["category_id"]


def test_whole_numbers_are_written_without_a_decimal_point(tmp_path: Path) -> None:
    source = write_hard(tmp_path / "source")
    detector.convert(source, "coco", tmp_path / "coco")
    detector.convert(source, "voc", tmp_path / "voc")
    data = json.loads((tmp_path / "coco" / "train.json").read_text())
    assert '"bbox": [10, 20, 30, 25], "area": 375,' in (tmp_path / "coco" / "train.json").read_text()
    assert data["annotations"][2]["bbox"] == [0.1, 0.2, 30.7, 11.3]
    text = (tmp_path / "voc" / "Annotations" / "a.xml").read_text()
    assert "<xmin>10</xmin>" in text
    assert "<xmax>40</xmax>" in text


def test_other_programs_read_class_names_as_text(tmp_path: Path) -> None:
    source = write_hard(tmp_path / "source")
    for name in ("yolo", "voc"):
        detector.convert(source, name, tmp_path / name)
        assert yaml.safe_load((tmp_path / name / "data.yaml").read_text(encoding="utf-8"))["names"] == CLASSES


def test_equal_file_names_get_different_names(tmp_path: Path) -> None:
    result = detector.convert(write_hard(tmp_path / "source"), "yolo", tmp_path / "out")
    names = sorted(path.name for path in (tmp_path / "out" / "images" / "train").iterdir())
    assert names == sorted(
        ["a.png", "0001.jpg", "0001-2.jpg", "0001-3.png", "été 日本.jpg", "with space & _sign_.png", "empty.png"]
    )
    assert any("3 images are renamed" in note for note in result.notes)
    renamed = json.loads((tmp_path / "out" / "ledger.json").read_text())["renamed_images"]
    assert renamed[str(tmp_path / "source" / "images" / "train" / "cam2" / "0001.jpg")] == "0001-2.jpg"
    assert (tmp_path / "out" / "labels" / "train" / "empty.txt").read_text() == ""


def test_voc_images_of_all_splits_have_different_names(tmp_path: Path) -> None:
    detector.convert(write_hard(tmp_path / "source"), "voc", tmp_path / "out")
    stems = [path.stem.lower() for path in (tmp_path / "out" / "JPEGImages").iterdir()]
    assert len(stems) == len(set(stems)) == sum(map(len, HARD.values()))
    assert "<object>" not in (tmp_path / "out" / "Annotations" / "empty.xml").read_text()


def test_yolo_reports_crowd_regions_that_it_leaves_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    result = detector.convert(write_hard(tmp_path / "source"), "yolo", tmp_path / "out")
    assert "2 of them are LEFT OUT" in caplog.text
    assert result.box_counts == {"train": 8, "val": 1, "test": 1}
    assert "LEFT OUT" in (tmp_path / "out" / "ledger.json").read_text()


def test_hard_links_are_the_same_files(tmp_path: Path) -> None:
    source = write_hard(tmp_path / "source")
    detector.convert(source, "yolo", tmp_path / "out", images="link")
    image = tmp_path / "out" / "images" / "val" / "A.PNG"
    assert image.samefile(source / "images" / "val" / "A.PNG")
    assert not image.is_symlink()
    assert_equal_to_hard(tmp_path / "out", source, crowd=False)


def test_links_to_linked_images_lead_to_the_files(tmp_path: Path) -> None:
    source = write_hard(tmp_path / "source")
    for path in [path for path in (source / "images").rglob("*") if path.is_file()]:
        target = source / f"{path.parent.parent.name}-{path.parent.name}-{path.name}"
        path.rename(target)
        path.symlink_to(target)
    detector.convert(source, "coco", tmp_path / "out", images="link")
    assert not any(path.is_symlink() for path in (tmp_path / "out").rglob("*"))


def test_a_failed_link_names_the_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_hard(tmp_path / "source")

    def fail(*_: object, **__: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", fail)
    with pytest.raises(FileError, match=r"cross-device.*--images copy"):
        detector.convert(source, "yolo", tmp_path / "new" / "out", images="link")
    assert not (tmp_path / "new").exists()


def test_images_none_refers_to_the_source(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_hard(tmp_path / "source")
    assert main(["convert", str(source), "--to", "coco", "--out", str(tmp_path / "out"), "--images", "none"]) == 0
    assert f"detector train --data {tmp_path / 'out'} --allow-outside" in capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "ledger.json", "test.json", "train.json", "val.json",
    ]  # fmt: skip
    assert_equal_to_hard(tmp_path / "out", source, crowd=True, allow_outside=True)
    with pytest.raises(LabelError, match="--allow-outside"):
        open_data(tmp_path / "out").read("train")


@pytest.mark.parametrize("name", ["yolo", "voc"])
def test_images_none_is_refused_where_labels_follow_images(name: Literal["yolo", "voc"], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--images link"):
        detector.convert(write_hard(tmp_path / "source"), name, tmp_path / "out", images="none")
    assert not (tmp_path / "out").exists()


def test_rendered_scenes_are_written_as_png(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("detector.data.scenes.scenes.SPLIT_SIZES", {"train": 3, "val": 2, "test": 2})
    monkeypatch.chdir(tmp_path)
    detector.convert("scenes", "voc", "out")
    scenes, split = open_data("scenes").read("val"), open_data("out").read("val")
    assert len(split.annotations) == len(scenes.annotations) > 0
    for old, new in zip(scenes.annotations, split.annotations, strict=True):
        np.testing.assert_array_equal(scenes.read_image(old), split.read_image(new))
        np.testing.assert_array_equal(old.boxes, new.boxes)
    with pytest.raises(ConfigError, match="rendered"):
        detector.convert("scenes", "coco", "linked", images="link")


def test_failure_leaves_nothing_behind(tmp_path: Path) -> None:
    source = write_hard(tmp_path / "source")
    data = json.loads((source / "val.json").read_text())
    data["images"][0]["width"] += 50  # not the size of the file, which YOLO labels depend on
    (source / "val.json").write_text(json.dumps(data))
    before = tree_hash(source)
    empty = tmp_path / "empty"
    empty.mkdir()
    for out in (tmp_path / "a" / "b", empty):
        result = None
        try:
            result = detector.convert(source, "yolo", out)
        except LabelError:
            assert not list(empty.iterdir())
            assert not (tmp_path / "a").exists()
        # A reader that compares sizes leaves the image out instead, and the ledger says so.
        assert result is None or result.ledgers["val"].missing or result.ledgers["val"].dropped
    assert tree_hash(source) == before


def test_interruption_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_hard(tmp_path / "source")
    real, calls = os.link, []

    def interrupted(old: Path, new: Path) -> None:
        calls.append(new)
        if len(calls) == 4:
            raise KeyboardInterrupt
        real(old, new)

    monkeypatch.setattr(os, "link", interrupted)
    with pytest.raises(KeyboardInterrupt):
        detector.convert(source, "voc", tmp_path / "out", images="link")
    assert len(calls) == 4
    assert not (tmp_path / "out").exists()


def test_output_must_be_empty_and_outside_of_the_source(tmp_path: Path) -> None:
    source = write_hard(tmp_path / "source")
    before = tree_hash(source)
    with pytest.raises(FileError, match="not an empty folder"):
        detector.convert(source, "yolo", source)
    for out in (source / "yolo", source / "images" / "train" / "x"):
        with pytest.raises(FileError, match="is inside of"):
            detector.convert(source, "yolo", out)
    assert tree_hash(source) == before


@pytest.mark.parametrize(
    ("names", "refused_by"),
    [(["a", "a"], {"yolo", "voc"}), (["a", " b"], {"voc"}), (["a", "b\x01"], {"voc"}), (["a", "\ud800"], {"voc"})],
)
def test_class_names_that_a_format_cannot_hold(names: list[str], refused_by: set[str], tmp_path: Path) -> None:
    source = write_hard(tmp_path / "source")
    for split in HARD:
        data = json.loads((source / f"{split}.json").read_text())
        data["categories"] = [{"id": 3 * i + 5, "name": f"c{i}"} for i in range(len(CLASSES))]
        for category, name in zip(data["categories"], names, strict=False):
            category["name"] = name
        (source / f"{split}.json").write_text(json.dumps(data))
    for name in FORMATS:
        if name in refused_by:
            with pytest.raises(LabelError, match="cannot hold"):
                detector.convert(source, name, tmp_path / name)
            assert not (tmp_path / name).exists()
        else:
            detector.convert(source, name, tmp_path / name)
            assert open_data(tmp_path / name).read("train").class_names[:2] == tuple(names)


def test_empty_class_name_is_kept_by_yolo_only(tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "images").mkdir(parents=True)
    (source / "labels").mkdir()
    Image.new("RGB", (20, 10)).save(source / "images" / "a.png")
    (source / "labels" / "a.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    (source / "data.yaml").write_text("train: images\nnames: ['', b]\n")
    detector.convert(source, "yolo", tmp_path / "yolo")
    assert open_data(tmp_path / "yolo").read("train").class_names == ("", "b")
    for name in ("coco", "voc"):
        with pytest.raises(LabelError, match="cannot hold"):
            detector.convert(source, name, tmp_path / name)


def test_yolo_refuses_images_that_it_would_not_find(tmp_path: Path) -> None:
    source = write_hard(tmp_path / "source")
    old = source / "images" / "val" / "A.PNG"
    old.rename(old.with_suffix(".image"))
    (source / "val.json").write_text((source / "val.json").read_text().replace("A.PNG", "A.image"))
    with pytest.raises(LabelError, match=r"A\.image.*suffixes"):
        detector.convert(source, "yolo", tmp_path / "yolo")
    detector.convert(source, "coco", tmp_path / "coco")
    assert (tmp_path / "coco" / "images" / "val" / "A.image").is_file()


def test_clipped_and_dropped_rows_are_printed_and_stored(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_hard(tmp_path / "source")
    data = json.loads((source / "train.json").read_text())
    data["annotations"][0]["bbox"] = [-5, 0, 30, 30]
    data["annotations"][1]["bbox"] = [10, 10, 0, 5]
    (source / "train.json").write_text(json.dumps(data, indent=1))
    assert main(["convert", str(source), "--to", "voc", "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert "1 clipped + 1 dropped" in printed
    assert "extends beyond the image of 80 x 60 pixels" in printed
    ledger = json.loads((tmp_path / "out" / "ledger.json").read_text())["splits"]["train"]
    assert (ledger["clipped"], ledger["dropped"], len(ledger["entries"])) == (1, 1, 2)


def test_one_split_can_be_converted_alone(tmp_path: Path) -> None:
    source = write_hard(tmp_path / "source")
    result = detector.convert(source, "yolo", tmp_path / "out", splits=["valid"])
    assert set(result.image_counts) == {"val"}
    assert open_data(tmp_path / "out").split_names == ("val",)
    with pytest.raises(LabelError, match="no split 'night'"):
        detector.convert(source, "yolo", tmp_path / "other", splits=["night"])


def test_trainval_is_not_converted_twice(tmp_path: Path) -> None:
    detector.convert(write_hard(tmp_path / "source"), "voc", tmp_path / "voc")
    lists = tmp_path / "voc" / "ImageSets" / "Main"
    (lists / "trainval.txt").write_text("".join((lists / f"{s}.txt").read_text("utf-8") for s in ("train", "val")))
    result = detector.convert(tmp_path / "voc", "yolo", tmp_path / "yolo")
    assert result.image_counts == {"train": 7, "val": 2, "test": 1}
    assert any("trainval is not converted" in note for note in result.notes)
    (lists / "train.txt").unlink()
    (lists / "val.txt").unlink()
    result = detector.convert(tmp_path / "voc", "yolo", tmp_path / "alone")
    assert result.image_counts == {"train": 9, "test": 1}
    assert any("trainval is written as train" in note for note in result.notes)


def test_rotated_images_keep_bytes_and_boxes(tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "images").mkdir(parents=True)
    image = Image.new("RGB", (40, 20), "red")
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(source / "images" / "a.jpg", exif=exif)
    data = {
        "images": [{"id": 1, "file_name": "a.jpg", "width": 20, "height": 40}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 25, 10, 10], "area": 100, "iscrowd": 0}],
        "categories": [{"id": 1, "name": "x"}],
    }
    (source / "train.json").write_text(json.dumps(data))
    for name in FORMATS:
        detector.convert(source, name, tmp_path / name)
        annotation = open_data(tmp_path / name).read("train").annotations[0]
        assert annotation.image_hw == (40, 20)
        assert annotation.boxes.tolist() == [[1, 25, 11, 35]]
        assert annotation.image_path.read_bytes() == (source / "images" / "a.jpg").read_bytes()


def test_random_boxes_survive_a_chain_of_formats(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    source = tmp_path / "source"
    (source / "images").mkdir(parents=True)
    data: dict[str, list[Any]] = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "x"}]}
    for image_id, (width, height) in enumerate([(4001, 23), (17, 3000), (641, 479), (1, 1)], start=1):
        Image.new("L", (width, height)).save(source / "images" / f"{image_id}.png")
        data["images"].append({"id": image_id, "file_name": f"{image_id}.png", "width": width, "height": height})
        for number in range(200):
            corners = np.sort(rng.random((2, 2)), axis=0) * (width, height)
            x1, y1, x2, y2 = (corners.round() if number % 2 and width > 1 else corners).ravel().astype(np.float32)
            if x2 > x1 and y2 > y1:
                row = {"id": len(data["annotations"]), "image_id": image_id, "category_id": 1, "iscrowd": 0}
                box = [float(x1), float(y1), float(x2) - float(x1), float(y2) - float(y1)]
                data["annotations"].append(row | {"bbox": box, "area": box[2] * box[3]})
    (source / "train.json").write_text(json.dumps(data))
    place = source
    for number, name in enumerate(("yolo", "voc", "coco", "yolo", "coco", "voc")):
        detector.convert(place, name, tmp_path / str(number))  # type: ignore[arg-type]
        place = tmp_path / str(number)
    first, last = open_data(source).read("train"), open_data(place).read("train")
    assert len(first.annotations) == 4
    for old, new in zip(first.annotations, last.annotations, strict=True):
        np.testing.assert_allclose(new.boxes, old.boxes, rtol=0, atol=0.01)
        whole = old.boxes == old.boxes.round()
        np.testing.assert_array_equal(new.boxes[whole], old.boxes[whole])


def test_a_converted_data_set_trains(tmp_path: Path, tiny_data: Path, tiny_config: detector.Config) -> None:
    from dataclasses import replace

    detector.convert(tiny_data, "yolo", tmp_path / "yolo", images="link")
    result = detector.train(tmp_path / "yolo", replace(tiny_config, steps=2, evaluations=1), out=tmp_path / "run")
    assert result.weights.is_file()
