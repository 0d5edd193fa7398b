import csv
import json
from pathlib import Path

import numpy as np
import pytest

from detector import images
from detector.detections import Detections
from detector.draw import draw
from detector.engine.save_detections import DetectionWriter
from detector.errors import InputError

IMAGE = np.full((100, 200, 3), 90, np.uint8)
NAMES = ("cat", "dog")


def found(*boxes: tuple[float, float, float, float]) -> Detections:
    n = len(boxes)
    scores = np.linspace(0.9, 0.5, n).astype(np.float32)
    return Detections(np.array(boxes, np.float32).reshape(n, 4), scores, np.arange(n) % 2, NAMES)


TWO = found((20, 10, 60, 50), (100, 0, 200, 100))


def test_the_tables_hold_every_detection_in_their_own_formats(tmp_path: Path) -> None:
    writer = DetectionWriter(tmp_path / "out", (3, 17), txt=True, table=True)
    writer.add(Path("x/a.png"), IMAGE, TWO)
    writer.add(Path("x/b.png"), IMAGE, found((1, 2, 3, 5)))
    writer.close()
    out = tmp_path / "out"
    rows = json.loads((out / "detections.json").read_text())
    assert rows[1] == {
        "image_id": 1,
        "file_name": "x/a.png",
        "category_id": 17,
        "bbox": [100, 0, 100, 100],
        "score": 0.5,
    }
    assert [(row["image_id"], row["category_id"]) for row in rows] == [(1, 3), (1, 17), (2, 3)]
    assert (out / "labels" / "a.txt").read_text() == (
        "0 0.200000 0.300000 0.200000 0.400000 0.900000\n1 0.750000 0.500000 0.500000 1.000000 0.500000\n"
    )
    with (out / "detections.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert lines[1] == dict(
        file="x/a.png", **{"class": "dog"}, score="0.5", x1="100.0", y1="0.0", x2="200.0", y2="100.0"
    )
    assert len(lines) == 3


def test_pictures_are_drawn_and_keep_their_size(tmp_path: Path) -> None:
    writer = DetectionWriter(tmp_path, (3, 17))
    writer.add(Path("a.png"), IMAGE, TWO)
    assert np.array_equal(images.read(tmp_path / "a.png"), draw(IMAGE, TWO))


def test_only_what_is_asked_for_is_written(tmp_path: Path) -> None:
    writer = DetectionWriter(tmp_path / "out", (3, 17), pictures=False)
    writer.add(Path("a.png"), IMAGE, TWO)
    writer.close()
    assert [path.name for path in (tmp_path / "out").rglob("*")] == ["detections.json"]


def test_a_picture_without_objects_has_an_empty_label_file_and_no_rows(tmp_path: Path) -> None:
    writer = DetectionWriter(tmp_path, (3, 17), txt=True, table=True)
    writer.add(Path("a.png"), IMAGE, found())
    writer.close()
    assert json.loads((tmp_path / "detections.json").read_text()) == []
    assert (tmp_path / "labels" / "a.txt").read_text() == ""
    assert (tmp_path / "detections.csv").read_text().splitlines() == ["file,class,score,x1,y1,x2,y2"]
    assert np.array_equal(images.read(tmp_path / "a.png"), IMAGE)


def test_pictures_of_one_name_from_several_folders_all_stay(tmp_path: Path) -> None:
    writer = DetectionWriter(tmp_path, (3, 17), txt=True)
    for name in ("x/a.png", "y/a.png", "z/a-2.png", "z/a.jpg"):
        writer.add(Path(name), IMAGE, TWO)
    writer.close()
    assert len(list(tmp_path.glob("*.png")) + list(tmp_path.glob("*.jpg"))) == 4
    assert len(list((tmp_path / "labels").iterdir())) == 4
    files = [row["file_name"] for row in json.loads((tmp_path / "detections.json").read_text())]
    assert files == [name for name in ("x/a.png", "y/a.png", "z/a-2.png", "z/a.jpg") for _ in range(2)]


@pytest.mark.parametrize(("name", "written"), [("a.tiff", "a.jpg"), ("a.webp", "a.jpg"), ("A.PNG", "A.png")])
def test_formats_that_browsers_do_not_show_become_jpeg(tmp_path: Path, name: str, written: str) -> None:
    DetectionWriter(tmp_path, (3, 17)).add(Path(name), IMAGE, TWO)
    assert {path.name for path in tmp_path.iterdir()} == {written, "detections.json.part"}


def test_a_folder_with_files_of_the_users_is_left_alone(tmp_path: Path) -> None:
    images.write(tmp_path / "a.png", IMAGE)
    with pytest.raises(InputError, match="holds files that are not detections; give another --out"):
        DetectionWriter(tmp_path, (3, 17))
    assert np.array_equal(images.read(tmp_path / "a.png"), IMAGE)


def test_a_second_run_replaces_the_results_of_the_first(tmp_path: Path) -> None:
    for answer in (TWO, found()):
        writer = DetectionWriter(tmp_path, (3, 17), txt=True)
        writer.add(Path("x/a.png"), IMAGE, answer)
        writer.close()
    assert (tmp_path / "labels" / "a.txt").read_text() == ""
    assert json.loads((tmp_path / "detections.json").read_text()) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "detections.json", "labels"]


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file/out: cannot be written"):
        DetectionWriter(tmp_path / "file" / "out", (3, 17))
