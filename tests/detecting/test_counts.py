"""`detect --counts`: the number of objects per image and class, as a table."""

import csv
import shutil
from collections import Counter
from pathlib import Path

import numpy as np

from detector.cli.commands import main
from detector.detecting.writer import DetectionWriter
from detector.detections import Detections
from detector.images import write_image

CLASSES = ("red, dark", "blue", "细胞\x1b")


def detections(*class_ids: int) -> Detections:
    n = len(class_ids)
    boxes = np.tile(np.array([1, 2, 30, 40], np.float32), (n, 1))
    return Detections(boxes, np.full(n, 0.5, np.float32), np.array(class_ids, np.int64), CLASSES)


def rows(path: Path) -> list[list[str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def test_counts_have_a_row_per_image_and_a_column_per_class(tmp_path: Path) -> None:
    image = np.zeros((48, 64, 3), np.uint8)
    with DetectionWriter(tmp_path, (9, 4, 7), formats={"counts"}, class_names=CLASSES) as writer:
        for name, found in (("a.png", (0, 2, 0)), ("b, c.png", ()), ("d\n.png", (2,))):
            writer.add(Path(name), image, detections(*found))
        writer.close()
    assert rows(tmp_path / "counts.csv") == [
        ["file", *CLASSES], ["a.png", "2", "0", "1"], ["b, c.png", "0", "0", "0"], ["d\n.png", "0", "0", "1"],
    ]  # fmt: skip


def test_resumed_run_counts_all_images(tiny_data: Path, tiny_weights: Path, tmp_path: Path) -> None:
    images = tmp_path / "images"
    shutil.copytree(tiny_data / "images", images)
    out = tmp_path / "found"
    arguments = ["detect", str(images), "--weights", str(tiny_weights), "--out", str(out), "--conf", "0.001"]
    arguments += ["--device", "cpu", "--no-images", "--counts", "--csv"]
    assert main(arguments) == 0
    write_image(images / "z.png", np.zeros((64, 96, 3), np.uint8))
    assert main([*arguments, "--skip-done"]) == 0
    header, *table = rows(out / "counts.csv")
    assert header == ["file", "red", "blue"]
    assert [row[0] for row in table][-1] == str(images / "z.png")
    assert len(table) == len(list(images.iterdir()))
    expected = Counter((file, name) for file, name, *_ in rows(out / "detections.csv")[1:])
    counted = {(row[0], name): int(number) for row in table for name, number in zip(header[1:], row[1:], strict=True)}
    assert expected.total() > 0
    assert +Counter(counted) == expected
