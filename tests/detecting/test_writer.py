import csv
import json
import os
import signal
import subprocess
import sys
import tempfile
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detector.arrays import ImageArray
from detector.detecting.formats import OutputFormat, crop, detection_rows, folders_of_classes, write_csv, yolo_text
from detector.detecting.writer import DetectionWriter
from detector.detections import Detections
from detector.errors import ConfigError, FileError
from detector.files import LOCK_NAME, free_name, locked, safe_name
from detector.images import read_image, write_image
from detector.manifest import MANIFEST_NAME

IMAGE = np.full((100, 200, 3), 90, np.uint8)
NAMES = ("cat", "dog")


def detections(*boxes: tuple[float, float, float, float]) -> Detections:
    n = len(boxes)
    scores = np.linspace(0.9, 0.5, n).astype(np.float32)
    return Detections(np.array(boxes, np.float32).reshape(n, 4), scores, np.arange(n) % 2, NAMES)


TWO = detections((20, 10, 60, 50), (100, 0, 200, 100))


def names_in(folder: Path) -> set[str]:
    """Return the names of all files and folders in a folder, except the lock and the manifest."""
    return {path.name for path in folder.iterdir()} - {LOCK_NAME, MANIFEST_NAME}


def test_every_detection_is_in_the_tables_and_label_files(tmp_path: Path) -> None:
    writer = DetectionWriter(tmp_path / "out", (3, 17), formats={"txt", "csv"})
    writer.add(Path("x/a.png"), IMAGE, TWO)
    writer.add(Path("x/b.png"), IMAGE, detections((1, 2, 3, 5)))
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
    assert (out / "labels" / "a.txt").read_text() == ("0 0.2 0.3 0.2 0.4\n1 0.75 0.5 0.5 1.0\n")
    with (out / "detections.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert lines[1] == dict(
        file="x/a.png", **{"class": "dog"}, score="0.5", x1="100.0", y1="0.0", x2="200.0", y2="100.0"
    )
    assert len(lines) == 3


def test_annotated_images_keep_their_size(tmp_path: Path) -> None:
    writer = DetectionWriter(tmp_path, (3, 17))
    writer.add(Path("a.png"), IMAGE, TWO)
    assert np.array_equal(read_image(tmp_path / "a.png"), TWO.draw_on(IMAGE))


def test_only_the_chosen_formats_are_written(tmp_path: Path) -> None:
    writer = DetectionWriter(tmp_path / "out", (3, 17), formats=set())
    writer.add(Path("a.png"), IMAGE, TWO)
    writer.close()
    assert names_in(tmp_path / "out") == {"detections.json", "detections.jsonl"}


def test_an_unknown_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError,
        match="formats: unknown output format 'xml'; known: images, txt, conf, csv, counts, crops, json, parquet",
    ):
        DetectionWriter(tmp_path / "out", (3, 17), formats={"xml"})  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


def test_an_image_without_objects_has_an_empty_label_file(tmp_path: Path) -> None:
    writer = DetectionWriter(tmp_path, (3, 17), formats={"images", "txt", "csv"})
    writer.add(Path("a.png"), IMAGE, detections())
    writer.close()
    assert json.loads((tmp_path / "detections.json").read_text()) == []
    assert (tmp_path / "labels" / "a.txt").read_text() == ""
    assert (tmp_path / "detections.csv").read_text().splitlines() == ["file,class,score,x1,y1,x2,y2"]
    assert np.array_equal(read_image(tmp_path / "a.png"), IMAGE)


def test_images_with_equal_names_get_different_files(tmp_path: Path) -> None:
    writer = DetectionWriter(tmp_path, (3, 17), formats={"images", "txt"})
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
    assert names_in(tmp_path) == {written, "detections.jsonl"}


def test_a_folder_with_other_files_is_refused(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", IMAGE)
    with pytest.raises(FileError, match="the folder contains files that are not detections; pass another --out"):
        DetectionWriter(tmp_path, (3, 17))
    assert np.array_equal(read_image(tmp_path / "a.png"), IMAGE)
    assert names_in(tmp_path) == {"a.png"}


def test_a_folder_with_only_a_lock_file_counts_as_empty(tmp_path: Path) -> None:
    (tmp_path / LOCK_NAME).touch()
    DetectionWriter(tmp_path, (3, 17)).close()
    assert names_in(tmp_path) == {"detections.json", "detections.jsonl"}


def test_a_second_run_replaces_the_results_of_the_first(tmp_path: Path) -> None:
    for found in (TWO, detections()):
        writer = DetectionWriter(tmp_path, (3, 17), formats={"images", "txt"})
        writer.add(Path("x/a.png"), IMAGE, found)
        writer.close()
    assert (tmp_path / "labels" / "a.txt").read_text() == ""
    assert json.loads((tmp_path / "detections.json").read_text()) == []
    assert names_in(tmp_path) == {"a.png", "detections.json", "detections.jsonl", "labels"}


def test_a_folder_that_cannot_be_created_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError, match="file/out: the folder cannot be created"):
        DetectionWriter(tmp_path / "file" / "out", (3, 17))


# --- the journal, and resuming a run

FOUND = {
    Path("x/a.png"): TWO,
    Path("x/b.png"): detections(),
    Path("y/a.png"): detections((1, 2, 3, 5)),
    Path('y/"c,\n' + os.fsdecode(b"\xff.png")): TWO,
}
SETTINGS = {"weights": "w", "score_threshold": 0.3, "suppression": None}


MOST_FORMATS: frozenset[OutputFormat] = frozenset({"images", "txt", "csv", "json"})
ALL_FORMATS = MOST_FORMATS | {"crops"}


def write(folder: Path, found_by_name: dict[Path, Detections] = FOUND, **options: Any) -> DetectionWriter:
    """Create a writer, add the images that are not done, and return the writer without closing it."""
    defaults: dict[str, Any] = {"formats": MOST_FORMATS, "settings": SETTINGS}
    writer = DetectionWriter(folder, (3, 17), **defaults | options)
    for name, found in found_by_name.items():
        if str(name) not in writer.done:
            writer.add(name, IMAGE, found)
    return writer


def contents(folder: Path) -> dict[Path, bytes]:
    """Return path → content of all files in a folder and its subfolders, except the lock and the manifest."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name not in (LOCK_NAME, MANIFEST_NAME)]
    return {path.relative_to(folder): path.read_bytes() for path in files}


@pytest.fixture
def complete(tmp_path: Path) -> dict[Path, bytes]:
    """Return path → content of the files of a run without interruption."""
    write(tmp_path / "complete", formats=ALL_FORMATS).close()
    return contents(tmp_path / "complete")


def test_an_image_is_in_the_journal_when_it_is_added(tmp_path: Path) -> None:
    writer = DetectionWriter(tmp_path, (3, 17), formats=set(), settings=SETTINGS)
    for count, (name, found) in enumerate(FOUND.items(), 1):
        writer.add(name, IMAGE, found)
        first, *lines = map(json.loads, (tmp_path / "detections.jsonl").read_text().splitlines())
        assert first == {"settings": SETTINGS | {"formats": []}}
        assert len(lines) == count
    assert [line["file_name"] for line in lines] == [str(name) for name in FOUND]
    assert lines[0] == {
        "image_id": 1,
        "file_name": "x/a.png",
        "height": 100,
        "width": 200,
        "detections": [
            {"class": "cat", "category_id": 3, "bbox": [20, 10, 40, 40], "score": pytest.approx(0.9)},
            {"class": "dog", "category_id": 17, "bbox": [100, 0, 100, 100], "score": 0.5},
        ],
    }
    assert lines[1]["detections"] == []


def test_resuming_from_any_point_gives_the_same_files(tmp_path: Path, complete: dict[Path, bytes]) -> None:
    journal = complete[Path("detections.jsonl")]
    out = tmp_path / "out"
    write(out, formats=ALL_FORMATS)
    for end in [*range(0, len(journal), 37), len(journal) - 1, len(journal)]:
        (out / "detections.jsonl").write_bytes(journal[:end])
        writer = write(out, formats=ALL_FORMATS, skip_done=True)
        assert len(writer.done) == max(0, journal[:end].count(b"\n") - 1)
        writer.close()
        assert contents(out) == complete


def test_images_from_a_damaged_line_on_are_processed_again(
    tmp_path: Path, complete: dict[Path, bytes], caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path / "out", formats=ALL_FORMATS).close()
    for damaged in (b"\0\0\n", b"[1]\n", b"{}\n", b"\xff\n"):
        lines = (tmp_path / "out" / "detections.jsonl").read_bytes().splitlines(keepends=True)
        (tmp_path / "out" / "detections.jsonl").write_bytes(b"".join([*lines[:2], damaged, *lines[3:]]))
        writer = write(tmp_path / "out", formats=ALL_FORMATS, skip_done=True)
        assert writer.done == {"x/a.png"}
        message = "detections.jsonl:3: damaged line; its image and the next 2 images are processed again"
        assert message in caplog.text
        caplog.clear()
        writer.close()
        assert contents(tmp_path / "out") == complete


def test_resuming_with_a_new_image_appends_it(tmp_path: Path) -> None:
    write(tmp_path).close()
    before = contents(tmp_path)
    writer = write(tmp_path, {Path("w/a.png"): TWO} | FOUND, skip_done=True)
    assert writer.done == {str(name) for name in FOUND}
    writer.close()
    after = contents(tmp_path)
    assert after.keys() - before.keys() == {Path("a-3.png"), Path("labels/a-3.txt"), Path("json/a-3.json")}
    assert json.loads(after[Path("detections.json")])[-1]["image_id"] == 5
    for name in ("detections.json", "detections.csv", "detections.jsonl"):
        assert after[Path(name)].startswith(before[Path(name)].removesuffix(b"]\n"))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"settings": SETTINGS | {"score_threshold": 0.4}}, r"score_threshold: 0\.3, now 0\.4"),
        (
            {"settings": SETTINGS | {"weights": "v", "suppression": "soft"}},
            "weights: 'w', now 'v'; suppression: None, now",
        ),
        ({"settings": {}}, "weights: 'w', now None"),
        ({"formats": {"txt", "json"}}, r"formats: \['images', 'json', 'txt'\], now \['json', 'txt'\]"),
        ({"formats": ALL_FORMATS}, r"formats: .*, now \['crops', 'images', 'json', 'txt'\]"),
        ({"formats": {"images", "txt"}}, r"formats: .*, now \['images', 'txt'\]"),
    ],
)
def test_resuming_with_other_settings_is_refused(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    write(tmp_path).close()
    before = contents(tmp_path)
    options: dict[str, Any] = {"formats": MOST_FORMATS - {"csv"}, "settings": SETTINGS} | changed
    with pytest.raises(ConfigError, match=rf"detections\.jsonl: the earlier run used other settings \({message}"):
        DetectionWriter(tmp_path, (3, 17), skip_done=True, **options)
    assert contents(tmp_path) == before


def test_a_resumed_run_may_add_the_csv_table(tmp_path: Path, complete: dict[Path, bytes]) -> None:
    write(tmp_path / "out", formats=ALL_FORMATS - {"csv"}).close()
    assert Path("detections.csv") not in contents(tmp_path / "out")
    write(tmp_path / "out", formats=ALL_FORMATS, skip_done=True).close()
    assert contents(tmp_path / "out") == complete


def test_settings_with_tuples_can_be_resumed(tmp_path: Path) -> None:
    settings = {"classes": ("cat", 1), "input_hw": (64, 96)}
    write(tmp_path, settings=settings).close()
    assert write(tmp_path, settings=settings, skip_done=True).done == {str(name) for name in FOUND}


def test_a_run_with_large_image_ids_can_be_resumed(tmp_path: Path) -> None:
    ids = {str(name): 2**60 + number for number, name in enumerate(FOUND)}
    write(tmp_path, image_ids=ids).close()
    assert write(tmp_path, image_ids=ids, skip_done=True).done == set(ids)


@pytest.mark.parametrize("foreign", [b"notes\n", b"[]\n", b'{"a": 1}\n', b"\xff\n"])
def test_a_journal_of_another_program_is_not_changed(tmp_path: Path, foreign: bytes) -> None:
    (tmp_path / "detections.jsonl").write_bytes(foreign)
    with pytest.raises(FileError, match=r"not a journal of `detector detect`; pass another --out"):
        DetectionWriter(tmp_path, (3, 17), skip_done=True)
    assert contents(tmp_path) == {Path("detections.jsonl"): foreign}


def test_file_names_keep_bytes_that_are_not_utf_8(tmp_path: Path, complete: dict[Path, bytes]) -> None:
    name = list(FOUND)[-1]
    rows = json.loads(complete[Path("detections.json")])
    assert Path(rows[-1]["file_name"]) == name
    assert b"\xff.png" in complete[Path("detections.csv")]
    assert Path("labels", name.stem + ".txt") in complete


def test_ten_thousand_equal_names_get_different_stems() -> None:
    taken: dict[str, int] = {}
    stems = {free_name("a", taken) for _ in range(10_000)}
    assert stems == {"a"} | {f"a-{number}" for number in range(2, 10_001)}


# --- write errors


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Limit the size of files to `size` bytes, to simulate a disk that becomes full during a write."""
    resource = pytest.importorskip("resource", reason="limits of POSIX")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.posix
def test_a_full_disk_is_an_error_and_resuming_works(tmp_path: Path, complete: dict[Path, bytes]) -> None:
    out = tmp_path / "out"
    first, second, third, _ = FOUND
    write(out, {first: FOUND[first]}, formats=ALL_FORMATS)
    size = (out / "detections.jsonl").stat().st_size
    for room in (0, 1, 60):
        with write(out, {}, formats=ALL_FORMATS, skip_done=True) as writer:
            with largest_file(size + room), pytest.raises(FileError, match=r"cannot be written \(File too large\)"):
                writer.add(second, IMAGE, FOUND[second])
            assert (out / "detections.jsonl").stat().st_size == size
    writer = write(out, {}, formats=ALL_FORMATS, skip_done=True)
    with writer, largest_file(40), pytest.raises(FileError, match=r"cannot be written \(File too large\)"):
        writer.add(third, IMAGE, FOUND[third])
    with write(out, formats=ALL_FORMATS, skip_done=True) as writer:
        assert writer.done == {str(first)}
        with largest_file(300), pytest.raises(FileError, match=r"cannot be written \(File too large\)"):
            writer.close()
    assert not list(out.rglob("*.part*"))
    write(out, formats=ALL_FORMATS, skip_done=True).close()
    assert contents(out) == complete


@pytest.mark.posix
@pytest.mark.parametrize("output_format", ["images", "crops", "json"])
def test_files_of_images_are_written_atomically(tmp_path: Path, output_format: OutputFormat) -> None:
    noise = np.random.default_rng(0).integers(0, 256, IMAGE.shape, np.uint8)
    with DetectionWriter(tmp_path, (3, 17), formats={output_format}) as writer:
        writer.add(Path("b.png"), noise, TWO)
        before = contents(tmp_path)
        with largest_file(100), pytest.raises(FileError, match=r"cannot be written \(File too large\)"):
            writer.add(Path("a.png"), noise, TWO)
        assert contents(tmp_path) == before


@pytest.mark.parametrize(
    "name", ["a.png", "labels/a.txt", "json/a.json", "detections.json", "detections.csv", "detections.jsonl"]
)
def test_the_error_names_the_file_that_cannot_be_written(tmp_path: Path, name: str) -> None:
    write(tmp_path, {}).close()
    (tmp_path / name).unlink(missing_ok=True)
    (tmp_path / name).mkdir(parents=True)
    with pytest.raises(FileError, match=f"{name}: is a folder, so nothing is written there"):
        write(tmp_path).close()
    assert not list(tmp_path.rglob("*.part"))


@pytest.mark.parametrize(
    ("name", "is_folder", "message"),
    [
        ("crops/cat/a-1.png", True, r"crops/cat/a-1\.png: is a folder"),
        ("crops/cat", False, r"crops/cat: was not written by this program"),
        ("crops/cat/mine", False, r"crops/cat/mine: was not written by this program"),
        ("crops", False, "crops: is not a folder"),
    ],
)
@pytest.mark.parametrize("skip_done", [False, True])
def test_nothing_is_mixed_with_foreign_crops(
    tmp_path: Path, name: str, is_folder: bool, message: str, skip_done: bool
) -> None:
    formats: set[OutputFormat] = {"images", "txt", "crops"}
    write(tmp_path, {}, formats=formats).close()
    (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
    if is_folder:
        (tmp_path / name).mkdir()
    else:
        (tmp_path / name).write_text("")
    with pytest.raises(FileError, match=message):
        write(tmp_path, formats=formats, skip_done=skip_done)


# --- crops, and a JSON file per image


def coordinate_image() -> ImageArray:
    """Return an image [30, 40, 3] in which every pixel has the value (row, column, 0)."""
    rows, columns = np.mgrid[:30, :40]
    return np.stack([rows, columns, rows * 0], axis=2).astype(np.uint8)


def slow_crop(image: ImageArray, box: list[float]) -> list[list[int]]:
    """Return the values of all pixels that overlap with the box, or of the nearest pixel if there is no overlap."""
    x1, y1, x2, y2 = box
    height, width = image.shape[:2]
    rows = [y for y in range(height) if y + 1 > y1 and y < y2] or [min(int(y1), height - 1)]
    columns = [x for x in range(width) if x + 1 > x1 and x < x2] or [min(int(x1), width - 1)]
    return [[y, x, 0] for y in rows for x in columns]


side = st.floats(0, 40, width=32) | st.integers(0, 40).map(float)


@given(side, side, side, side)
def test_a_crop_contains_every_pixel_that_its_box_overlaps(x: float, y: float, other_x: float, other_y: float) -> None:
    box = [min(x, other_x), min(y, other_y, 30), max(x, other_x), min(max(y, other_y), 30)]
    pixels = crop(coordinate_image(), np.array(box, np.float32))
    assert pixels.reshape(-1, 3).tolist() == slow_crop(coordinate_image(), box)


@pytest.mark.parametrize("box", [(-9, -9, 99, 99), (-9, -9, -3, -3), (99, 99, 120, 120), (50, -5, 40, -9)])
def test_a_crop_is_inside_its_image(box: tuple[float, ...]) -> None:
    expected = (30, 40, 3) if box == (-9, -9, 99, 99) else (1, 1, 3)
    assert crop(coordinate_image(), np.array(box, np.float32)).shape == expected


@pytest.mark.parametrize(
    ("name", "suffix"), [("a.png", ".png"), ("a.JPG", ".jpg"), ("a.jpeg", ".jpeg"), ("a.tiff", ".jpg"), ("a", ".jpg")]
)
def test_crops_are_cut_from_the_image_without_boxes(tmp_path: Path, name: str, suffix: str) -> None:
    found = detections((20.4, 10, 30, 20.1), (0, 0, 40, 30), (0, 0, 1, 1))
    with DetectionWriter(tmp_path, (3, 17), formats={"images", "crops"}) as writer:
        writer.add(Path("x", name), coordinate_image(), found)
        writer.add(Path("y", name), coordinate_image(), detections())
    crops = tmp_path / "crops"
    assert {path.relative_to(crops).as_posix() for path in crops.rglob("*.*")} == {
        f"cat/a-1{suffix}",
        f"cat/a-3{suffix}",
        f"dog/a-2{suffix}",
    }
    first = read_image(crops / "cat" / f"a-1{suffix}")
    assert first.shape == (11, 10, 3)
    if suffix == ".png":
        assert np.array_equal(first, coordinate_image()[10:21, 20:30])
        assert np.array_equal(read_image(crops / "dog" / "a-2.png"), coordinate_image())


def test_no_crop_replaces_the_crop_of_another_image(tmp_path: Path) -> None:
    images = [Path("x/a.png"), Path("y/a.png"), Path("a-2.png"), Path("a-1.png"), Path("a-1.part.png")]
    with DetectionWriter(tmp_path, (3, 17), formats={"crops", "json"}) as writer:
        for image in images:
            writer.add(image, IMAGE, detections(*[(0, 0, 9, 9)] * 12))
    assert len(list((tmp_path / "crops").glob("*/*.png"))) == 12 * len(images)
    files = [json.loads(path.read_text())["file_name"] for path in (tmp_path / "json").iterdir()]
    assert sorted(files) == sorted(map(str, images))


DIFFICULT_NAMES: tuple[str, ...] = (
    "a/b",
    "a_b",
    "..",
    "",
    ".",
    "CON",
    "con",
    "aux.txt",
    "Cat",
    "cat",
    "a:b",
    "x" * 999,
    "x" * 998,
    "/etc",
    "\ud800",
    "\u00e9",
    "e\u0301",
    "Stra\u00dfe",
    "STRASSE",
    " a ",
    "a.",
    "\0",
    "\n",
    "a_b-2",
    "\u00e9" * 99,
)


def test_every_class_gets_its_own_folder_for_crops(tmp_path: Path) -> None:
    n = len(DIFFICULT_NAMES)
    boxes, scores = np.tile(np.array([[0, 0, 5, 5]], np.float32), (n, 1)), np.ones(n, np.float32)
    found = Detections(boxes, scores, np.arange(n), DIFFICULT_NAMES)
    with DetectionWriter(tmp_path / "out", tuple(range(n)), formats={"crops", "json"}) as writer:
        writer.add(Path("a.png"), IMAGE, found)
        writer.close()
    assert len(list((tmp_path / "out" / "crops").glob("*/a-*.png"))) == n
    assert len(list(tmp_path.rglob("*.png"))) == n
    written = json.loads((tmp_path / "out" / "json" / "a.json").read_text())
    assert tuple(row["class"] for row in written["detections"]) == DIFFICULT_NAMES


@settings(max_examples=50)
@given(st.lists(st.text(max_size=3) | st.sampled_from(DIFFICULT_NAMES), unique=True, max_size=12))
def test_class_folders_are_safe_names_that_differ_ignoring_case(names: list[str]) -> None:
    folders = folders_of_classes(tuple(names))
    assert len({folder.casefold() for folder in folders}) == len(names)
    for name, folder in zip(names, folders, strict=True):
        assert folder == Path(folder).name not in ("", ".", "..")
        assert len(folder.encode()) < 160
        assert folder[-1] not in " ."
        assert not set(folder) & set('<>:"/\\|?*\0\n')
        assert folder.split(".")[0].upper() not in ("CON", "PRN", "AUX", "NUL", "COM1", "LPT9")
        assert folder.startswith(safe_name(name))


def test_the_json_of_an_image_contains_its_detections(tmp_path: Path) -> None:
    with DetectionWriter(tmp_path, (3, 17), formats={"json"}) as writer:
        writer.add(Path("x/a.png"), IMAGE, TWO)
        writer.add(Path("x/b.png"), IMAGE, detections())
    assert json.loads((tmp_path / "json" / "a.json").read_text()) == {
        "file_name": "x/a.png",
        "height": 100,
        "width": 200,
        "detections": [
            {
                "class": "cat",
                "class_id": 0,
                "category_id": 3,
                "score": pytest.approx(0.9),
                "box": [20, 10, 60, 50],
            },
            {
                "class": "dog",
                "class_id": 1,
                "category_id": 17,
                "score": 0.5,
                "box": [100, 0, 200, 100],
            },
        ],
    }
    assert json.loads((tmp_path / "json" / "b.json").read_text())["detections"] == []


def test_a_new_run_replaces_all_files_of_an_earlier_one(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    write(tmp_path, formats=ALL_FORMATS).close()
    before = contents(tmp_path)
    writer = write(tmp_path, {}, formats={"images", "crops"})
    assert contents(tmp_path) == before
    writer.close()
    assert contents(tmp_path) == before, "the results stay until the first result of the new run"
    write(tmp_path, {Path("new.png"): detections((1, 2, 3, 5))}, formats={"images", "crops"}).close()
    assert contents(tmp_path).keys() == set(
        map(Path, ("crops/cat/new-1.png", "detections.json", "detections.jsonl", "new.png"))
    )
    assert f"{len(before)} files of an earlier run replaced" in caplog.text
    assert names_in(tmp_path) == {"crops", "detections.json", "detections.jsonl", "new.png"}


def test_a_file_of_an_earlier_run_that_changed_stays(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path).close()
    (tmp_path / "labels" / "a.txt").write_text("0 0.5 0.5 0.1 0.1\n")  # the user has corrected the labels
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FileError, match=r"labels/a\.txt: was changed after it was written, so it is not overwritten"):
        write(tmp_path, sources=list(FOUND))
    assert (tmp_path / "a.png").exists()
    write(tmp_path, {Path("new.png"): TWO}).close()
    assert "2 files not written by this program or changed since, and kept: labels/a.txt, notes.txt" in caplog.text
    assert (tmp_path / "labels" / "a.txt").read_text() == "0 0.5 0.5 0.1 0.1\n"
    assert {path.name for path in (tmp_path / "labels").iterdir()} == {"a.txt", "new.txt"}


def test_the_longest_possible_file_names_can_be_written(tmp_path: Path) -> None:
    names = [
        Path("x" * 251 + ".jpg"),
        Path("x" * 250 + "y.jpg"),
        Path("\u00e4" * 127),
        Path(os.fsdecode(b"\xff" * 255)),
    ]
    write(tmp_path, dict.fromkeys(names, TWO), formats=ALL_FORMATS).close()
    assert len(list(tmp_path.glob("json/*.json"))) == len(list(tmp_path.glob("*.jpg"))) == 4
    assert len(list(tmp_path.glob("crops/*/*.jpg"))) == 8


# --- the lock, and sources in the output folder

HOLD_LOCK = """
import sys
from pathlib import Path
from detector.detecting.writer import DetectionWriter

writer = DetectionWriter(Path(sys.argv[1]), (3, 17), skip_done=True)
print("locked", flush=True)
input()
"""


@pytest.mark.posix
def test_a_folder_is_locked_until_the_process_ends(tmp_path: Path) -> None:
    DetectionWriter(tmp_path, (3, 17)).add(Path("a.png"), IMAGE, TWO)
    before = contents(tmp_path)
    command = [sys.executable, "-c", HOLD_LOCK, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"locked\n"
        for skip_done in (False, True):
            with pytest.raises(FileError, match="another process is writing detections in this folder; wait until"):
                write(tmp_path, skip_done=skip_done)
        assert contents(tmp_path) == before
        process.kill()
    assert process.returncode == -signal.SIGKILL
    DetectionWriter(tmp_path, (3, 17), skip_done=True).close()


def test_a_closed_or_deleted_writer_unlocks_the_folder(tmp_path: Path) -> None:
    write(tmp_path).close()
    with write(tmp_path), pytest.raises(FileError, match="another process"):
        write(tmp_path)
    write(tmp_path)
    with pytest.raises(ConfigError, match="other settings"):
        write(tmp_path, formats={"txt"}, skip_done=True)
    with locked(tmp_path, "testing"), pytest.raises(FileError, match="another process is writing detections"):
        write(tmp_path)
    write(tmp_path).close()


def test_a_source_in_the_output_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "out", {Path("a.png"): TWO}, formats=ALL_FORMATS).close()
    sources = [tmp_path / "b.png", tmp_path / "out" / "crops" / "cat" / "a-1.png"]
    with pytest.raises(FileError, match=r"a-1\.png: this image is in the output folder; pass another --out"):
        write(tmp_path / "out", sources=sources)
    monkeypatch.chdir(tmp_path / "out")
    write(Path(), sources=[Path("stdin.jpg")]).close()  # the name is generated, there is no file


# --- names, numbers, and images that change


ODD_NAMES = ("..png", "...png", " .png", ".hidden.png", "CON.png", "con.1.png", "a .png", "-rf.png", "new\nline.png")


def test_odd_names_have_visible_files_and_can_be_resumed(tmp_path: Path) -> None:
    names = [*map(Path, ODD_NAMES), Path(os.fsdecode(b"\xff.png")), Path("n" * 250 + ".png"), Path("detections.png")]
    found = dict.fromkeys(names, TWO)
    write(tmp_path, found, formats=ALL_FORMATS, sources=names).close()
    before = contents(tmp_path)
    for folder in (".", "labels", "json"):
        files = [path.name for path in (tmp_path / folder).iterdir() if path.is_file()]
        own = [name for name in files if not name.startswith(("detections.", ".detector."))]
        assert len(own) == len(names) - 1  # without detections.png
        assert not [name for name in own if name.startswith((".", " ")) or name.split(".")[0].lower() == "con"]
    writer = write(tmp_path, found, formats=ALL_FORMATS, sources=names, skip_done=True)
    assert writer.done == set(map(str, names))
    writer.close()
    assert contents(tmp_path) == before


def test_names_that_differ_in_case_get_different_files(tmp_path: Path) -> None:
    names = [
        Path(name)
        for name in ("IMG.jpg", "img.jpg", "Img.png", "e\u0301.png", "\u00e9.png", "x/STRASSE.png", "x/stra\u00dfe.png")
    ]
    for skip_done in (False, True):
        write(tmp_path, dict.fromkeys(names, TWO), formats={"images", "txt"}, skip_done=skip_done).close()
        for folder in (tmp_path, tmp_path / "labels"):
            files = [path.name for path in folder.iterdir() if path.suffix in (".jpg", ".png", ".txt")]
            assert len(files) == len({unicodedata.normalize("NFC", name).casefold() for name in files}) == len(names)
    writer = write(tmp_path, {Path("iMG.jpg"): TWO}, formats={"images", "txt"}, skip_done=True)
    writer.close()
    assert (tmp_path / "iMG-4.jpg").exists()


@given(st.lists(st.floats(0, 1e4, width=32), min_size=4, max_size=4), st.floats(0, 1, width=32))
@settings(max_examples=50)
def test_all_digits_of_boxes_and_scores_are_written(sides: list[float], score: float) -> None:
    box = np.sort(np.array(sides, np.float32).reshape(2, 2), axis=0).reshape(1, 4)
    found = Detections(box, np.array([score], np.float32), np.array([0]), NAMES)
    image_hw = (6_000, 10_000)
    row = np.array(yolo_text(found, image_hw, with_scores=True).split(), np.float64)
    center, size = row[1:3] * image_hw[::-1], row[3:5] * image_hw[::-1]
    assert np.allclose([*(center - size / 2), *(center + size / 2)], box[0], rtol=1e-15, atol=1e-11)
    assert np.float32(row[5]) == np.float32(score)
    with tempfile.TemporaryDirectory() as folder:
        entry: Any = {"file_name": "a", "detections": detection_rows(found, (3, 17))}
        write_csv(Path(folder, "a.csv"), [entry])
        with Path(folder, "a.csv").open(newline="") as file:
            (line,) = csv.DictReader(file)
    assert [np.float32(line[key]) for key in ("x1", "y1", "x2", "y2", "score")] == [*box[0], np.float32(score)]


def test_labels_have_scores_only_on_request(tmp_path: Path) -> None:
    columns = []
    choices: list[set[OutputFormat]] = [{"txt"}, {"txt", "conf"}]
    for formats in choices:
        write(tmp_path, {Path("a.png"): TWO}, formats=formats).close()
        columns.append([len(line.split()) for line in (tmp_path / "labels" / "a.txt").read_text().splitlines()])
    assert columns == [[5, 5], [6, 6]]


def test_an_image_that_changed_is_done_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    names = [tmp_path / "in" / name for name in ("a.png", "b.png", "c.png")]
    names[0].parent.mkdir()
    for name in names:
        write_image(name, IMAGE)
    out, found = tmp_path / "out", dict.fromkeys(names, TWO)
    write(out, found, formats=ALL_FORMATS, sources=names).close()
    before = contents(out)
    assert write(out, found, formats=ALL_FORMATS, sources=names, skip_done=True).done == set(map(str, names))
    write_image(names[1], np.zeros((10, 10, 3), np.uint8))
    other = detections((1, 2, 3, 5))
    writer = write(out, found | {names[1]: other}, formats=ALL_FORMATS, sources=names, skip_done=True)
    assert writer.done == {str(names[0]), str(names[2])}
    writer.close()
    assert "1 image changed since the earlier run, and processed again" in caplog.text
    after = contents(out)
    assert before.keys() - after.keys() == {Path("crops/dog/b-2.png")}
    assert len((out / "labels" / "b.txt").read_text().splitlines()) == 1
    rows = json.loads(after[Path("detections.json")])
    assert sorted((row["file_name"], row["image_id"]) for row in rows) == sorted(
        [(str(names[0]), 1)] * 2 + [(str(names[2]), 3)] * 2 + [(str(names[1]), 4)]
    )


def test_a_link_to_an_image_in_the_output_folder_is_no_source(tmp_path: Path) -> None:
    write(tmp_path / "out").close()
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "a.png").symlink_to(tmp_path / "out" / "a.png")
    write_image(tmp_path / "links" / "b.png", IMAGE)
    with pytest.raises(FileError, match=r"links/a\.png: this image is in the output folder"):
        write(tmp_path / "out", sources=[tmp_path / "links" / name for name in ("a.png", "b.png")])
