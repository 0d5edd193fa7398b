"""Tests of images in Parquet files."""

import json
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detector.cli.commands import main
from detector.errors import ConfigError, FileError, ImageError, MissingPackageError
from detector.images import write_image
from detector.media.sources import Source, find_sources
from detector.options import ReadOptions

needs_pyarrow = pytest.mark.usefixtures("pyarrow")
ROWS = 40


@pytest.fixture
def pyarrow() -> None:
    pytest.importorskip("pyarrow", reason="needs the package pyarrow (the extra `parquet`)")


@pytest.fixture
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Return the bytes of images with the gray levels 0, 1, 2, ...; change to an empty folder."""
    (tmp_path / "made").mkdir()
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    found = []
    for level in range(ROWS):
        write_image(tmp_path / "made" / f"{level}.png", np.full((6, 9, 3), level, np.uint8))
        found.append((tmp_path / "made" / f"{level}.png").read_bytes())
    return found


def write(path: str, columns: dict[str, Any], **options: Any) -> None:
    import pyarrow
    import pyarrow.parquet

    Path(path).parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.table(columns), path, **options)


def find(*specs: str, **options: Any) -> list[Source]:
    return find_sources(specs, ReadOptions(packed=True, **options))


def names(*specs: str, **options: Any) -> list[str]:
    return [source.name.as_posix() for source in find(*specs, **options)]


def levels(sources: list[Source]) -> list[int]:
    return [int(source.read()[0, 0, 0]) for source in sources]


@needs_pyarrow
@pytest.mark.parametrize("options", [{}, {"row_group_size": 7}, {"row_group_size": 30, "write_batch_size": 4}])
def test_rows_are_read_in_any_order(images: list[bytes], options: dict[str, int]) -> None:
    write("x.parquet", {"data": images, "key": [f"k{row}" for row in range(ROWS)], "y": [0] * ROWS}, **options)
    sources = find("x.parquet")
    assert [source.name for source in sources] == [Path(f"x.parquet/k{row}") for row in range(ROWS)]
    assert {(source.container, source.origin) for source in sources} == {(Path("x.parquet"), "data")}
    assert levels(sources) == list(range(ROWS))
    for order in (range(ROWS - 1, -1, -1), np.random.default_rng(0).permutation(ROWS), range(3, ROWS, 9)):
        assert levels([sources[row] for row in order]) == list(order)


@needs_pyarrow
def test_two_threads_and_two_files_do_not_disturb_each_other(images: list[bytes]) -> None:
    write("a.parquet", {"image": images}, row_group_size=9)
    write("b.parquet", {"image": images[::-1]}, row_group_size=4)
    found: dict[str, list[int]] = {}
    threads = [
        threading.Thread(target=lambda name=name: found.update({name: levels(find(name))}))
        for name in ("a.parquet", "b.parquet")
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {"a.parquet": list(range(ROWS)), "b.parquet": list(range(ROWS))[::-1]}


@needs_pyarrow
def test_columns_of_hugging_face_datasets_are_found(images: list[bytes], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    cells = [{"bytes": image, "path": f"d/{row}.png"} for row, image in enumerate(images[:3])]
    write("data/0.parquet", {"image": cells, "label": [0, 1, 2], "thumbnail": images[5:8]})
    write("data/1.parquet", {"image": [{**cell, "path": None} for cell in cells], "label": [0, 1, 2]})
    found = find("data")
    assert levels(found) == [0, 1, 2] * 2
    assert [source.name.as_posix() for source in found] == [
        *(f"data/0.parquet/d/{row}.png" for row in range(3)),
        *(f"data/1.parquet/{row}" for row in range(3)),
    ]
    assert "data/0.parquet: images in the column image.bytes, names in image.path; change" in caplog.text
    assert levels(find("data/0.parquet", image_column="thumbnail")) == [5, 6, 7]
    assert names("data/0.parquet", name_column="label") == [f"data/0.parquet/{row}" for row in range(3)]


@needs_pyarrow
def test_names_are_unique_and_inside_the_file(images: list[bytes]) -> None:
    given = ["a.png", "a.png", "/etc/a.png", "../../b", None, "", "a-1.png", "a\0.png"]
    write("x.parquet", {"image": images[:8], "file_name": given})
    assert names("x.parquet") == [
        f"x.parquet/{name}" for name in ("a.png", "a-1.png", "etc/a.png", "b", "4", "5", "a-1-6.png", "7")
    ]


@needs_pyarrow
@pytest.mark.parametrize(
    ("columns", "options", "message"),
    [
        ({"label": [1], "name": ["a"]}, {}, r"no column with images; .* label \(int64\), name \(string\)"),
        ({"image": ["a.png"]}, {}, r"no column with images; .* image \(string\)"),
        ({"left": [b"a"], "right": [b"b"]}, {}, "several columns may contain the images: left, right; pass one"),
        ({"image": [b"a"]}, {"image_column": "photo"}, "no column 'photo' for --image-column; the columns are image"),
        ({"image": [b"a"], "n": [1]}, {"image_column": "n"}, "'n' of --image-column contains int64; expected bytes"),
        ({"image": [b"a"], "n": [1.5]}, {"name_column": "n"}, "no column 'n' with text .* rows are numbered without"),
        ({"image": [b"a"], "n": [1]}, {"name_column": "m"}, "no column 'm' with text or whole numbers .* are n"),
    ],
)
def test_a_missing_column_is_an_error(
    columns: dict[str, Any], options: dict[str, str], message: str, images: list[bytes]
) -> None:
    write("x.parquet", columns)
    with pytest.raises(ConfigError, match=f"^x.parquet: .*{message}"):
        find("x.parquet", **options)


@needs_pyarrow
@pytest.mark.parametrize("content", [b"", b"no table" * 20, b"PAR1" + b"x" * 100])
def test_a_file_that_is_no_parquet_file_is_an_error(content: bytes, images: list[bytes]) -> None:
    Path("x.parquet").write_bytes(content)
    with pytest.raises(FileError, match=r"x\.parquet: no Parquet file, or an incomplete one \(.*\); copy"):
        find("x.parquet")


@needs_pyarrow
def test_files_without_rows_are_reported(images: list[bytes], caplog: pytest.LogCaptureFixture) -> None:
    import pyarrow

    write("data/0.parquet", {"image": images[:2]})
    write("data/1.parquet", {"image": pyarrow.array([], pyarrow.binary())})
    assert len(names("data")) == 2
    assert "1 file without images, such as data/1.parquet" in caplog.text
    with pytest.raises(FileError, match=r"1\.parquet: there are no images in this file"):
        find("data/1.parquet")


@needs_pyarrow
def test_damaged_rows_have_errors_of_their_own(images: list[bytes]) -> None:
    cells = [images[0], b"no image", None, images[3]]
    write("x.parquet", {"image": cells})
    sources = find("x.parquet")
    with pytest.raises(ImageError, match=r"^x\.parquet/1: "):
        sources[1].read()
    with pytest.raises(ImageError, match=r"^x\.parquet/2: row 2 has no image in the column image"):
        sources[2].read()
    assert levels([sources[0], sources[3]]) == [0, 3]


@needs_pyarrow
def test_a_damaged_row_group_leaves_the_others_readable(images: list[bytes]) -> None:
    write("x.parquet", {"image": images}, row_group_size=10, compression="none", use_dictionary=False)
    data = bytearray(Path("x.parquet").read_bytes())
    start = data.index(images[10]) - 40  # the header of the page of the second row group
    data[start : start + 30] = b"\xff" * 30
    Path("x.parquet").write_bytes(data)
    sources = find("x.parquet")
    assert levels(sources[:10] + sources[20:]) == [*range(10), *range(20, ROWS)]
    for source in sources[10:20]:
        with pytest.raises(ImageError, match=r"x\.parquet: row 1\d cannot be read: the file is damaged at row 10"):
            source.read()


@needs_pyarrow
def test_a_file_that_was_replaced_is_noticed(images: list[bytes]) -> None:
    write("x.parquet", {"image": images})
    source = find("x.parquet")[3]
    write("x.parquet", {"image": images[:20]})
    with pytest.raises(FileError, match=r"x\.parquet: the file was changed since it was listed"):
        source.read()


@needs_pyarrow
def test_detect_reads_and_resumes_parquet_files(
    images: list[bytes], tiny_weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write("data/x.parquet", {"image": [*images[:5], b"no image"], "other": images[:6]}, row_group_size=2)
    flags = ["detect", "data", "--weights", str(tiny_weights), "--no-images", "--out", "found"]
    assert main([*flags, "--image-column", "image"]) == 3
    assert "skipped: data/x.parquet/5: " in capsys.readouterr().err
    lines = Path("found/detections.jsonl").read_bytes().splitlines()
    assert [json.loads(line)["file_name"] for line in lines[1:]] == [f"data/x.parquet/{row}" for row in range(5)]
    Path("found/detections.jsonl").write_bytes(b"\n".join(lines[:3]) + b"\n")
    assert main([*flags, "--image-column", "image", "--skip-done"]) == 3
    assert Path("found/detections.jsonl").read_bytes().splitlines() == lines
    capsys.readouterr()
    assert main([*flags, "--image-column", "other", "--skip-done"]) == 0
    assert "5 images changed since the earlier run" in capsys.readouterr().out


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "x.parquet").write_bytes(b"PAR1")
    with pytest.raises(MissingPackageError, match=r"pip install 'grid-detector\[parquet\]'"):
        find(str(tmp_path / "x.parquet"))
