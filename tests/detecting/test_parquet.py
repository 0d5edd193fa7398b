import os
from pathlib import Path

import pytest

from detector.detecting.journal import JournalEntry
from detector.detecting.parquet import check_parquet, write_parquet
from detector.errors import FileError

pytest.importorskip("pyarrow", reason="needs the package pyarrow (the extra `parquet`)")


def entry(number: int, objects: int) -> JournalEntry:
    rows = [{"class": "dog", "category_id": 17, "bbox": [1.5, 2.0, 3.0, 4.0], "score": 0.5}] * objects
    return {"image_id": number, "file_name": f"é{number}.png", "height": 10, "width": 20, "detections": rows}  # type: ignore[typeddict-item]


def test_every_image_has_a_row(tmp_path: Path) -> None:
    import pyarrow.parquet

    write_parquet(tmp_path / "a.parquet", (entry(number, number % 3) for number in range(1, 10_003)))
    table = pyarrow.parquet.read_table(tmp_path / "a.parquet")
    assert table.column("image_id").to_pylist() == list(range(1, 10_003))
    assert table.slice(0, 1).to_pylist() == [
        {
            "image_id": 1,
            "file_name": "é1.png",
            "height": 10,
            "width": 20,
            "detections": [
                {"class": "dog", "category_id": 17, "score": 0.5, "x1": 1.5, "y1": 2.0, "x2": 4.5, "y2": 6.0}
            ],
        }
    ]
    assert table.slice(2, 1).column("detections").to_pylist() == [[]]
    assert pyarrow.parquet.ParquetFile(tmp_path / "a.parquet").num_row_groups == 2


def test_no_images_give_an_empty_table(tmp_path: Path) -> None:
    import pyarrow.parquet

    write_parquet(tmp_path / "a.parquet", [])
    assert pyarrow.parquet.read_table(tmp_path / "a.parquet").num_rows == 0


def test_a_name_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    name = os.fsdecode(b"\xff.png")
    with pytest.raises(FileError, match="this name is not UTF-8"):
        check_parquet(["a.png", name])
    with pytest.raises(FileError, match="this name is not UTF-8"):
        write_parquet(tmp_path / "a.parquet", [{**entry(1, 0), "file_name": name}])
