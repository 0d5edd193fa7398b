import csv
import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detector.arrays import ImageArray
from detector.detecting.writer import DetectionWriter, _class_folders, _cut
from detector.detections import Detections
from detector.errors import InputError
from detector.files import free_name, locked, safe_name
from detector.images import read_image, write_image

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


def test_images_are_drawn_and_keep_their_size(tmp_path: Path) -> None:
    writer = DetectionWriter(tmp_path, (3, 17))
    writer.add(Path("a.png"), IMAGE, TWO)
    assert np.array_equal(read_image(tmp_path / "a.png"), TWO.draw_on(IMAGE))


def test_only_what_is_asked_for_is_written(tmp_path: Path) -> None:
    writer = DetectionWriter(tmp_path / "out", (3, 17), images=False)
    writer.add(Path("a.png"), IMAGE, TWO)
    writer.close()
    assert sorted(path.name for path in (tmp_path / "out").rglob("*")) == ["detections.json", "detections.jsonl"]


def test_a_image_without_objects_has_an_empty_label_file_and_no_rows(tmp_path: Path) -> None:
    writer = DetectionWriter(tmp_path, (3, 17), txt=True, table=True)
    writer.add(Path("a.png"), IMAGE, found())
    writer.close()
    assert json.loads((tmp_path / "detections.json").read_text()) == []
    assert (tmp_path / "labels" / "a.txt").read_text() == ""
    assert (tmp_path / "detections.csv").read_text().splitlines() == ["file,class,score,x1,y1,x2,y2"]
    assert np.array_equal(read_image(tmp_path / "a.png"), IMAGE)


def test_images_of_one_name_from_several_folders_all_stay(tmp_path: Path) -> None:
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
    assert {path.name for path in tmp_path.iterdir()} == {written, "detections.jsonl"}


def test_a_folder_with_files_of_the_users_is_left_alone(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", IMAGE)
    with pytest.raises(InputError, match="holds files that are not detections; give another --out"):
        DetectionWriter(tmp_path, (3, 17))
    assert np.array_equal(read_image(tmp_path / "a.png"), IMAGE)


def test_a_second_run_replaces_the_results_of_the_first(tmp_path: Path) -> None:
    for answer in (TWO, found()):
        writer = DetectionWriter(tmp_path, (3, 17), txt=True)
        writer.add(Path("x/a.png"), IMAGE, answer)
        writer.close()
    assert (tmp_path / "labels" / "a.txt").read_text() == ""
    assert json.loads((tmp_path / "detections.json").read_text()) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "a.png",
        "detections.json",
        "detections.jsonl",
        "labels",
    ]


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file/out: cannot be made"):
        DetectionWriter(tmp_path / "file" / "out", (3, 17))


# --- the journal, and going on behind it

ANSWERS = {
    Path("x/a.png"): TWO,
    Path("x/b.png"): found(),
    Path("y/a.png"): found((1, 2, 3, 5)),
    Path('y/"c,\n' + os.fsdecode(b"\xff.png")): TWO,
}
SETTINGS = {"weights": "w", "score_threshold": 0.3, "suppression": None}


def write(folder: Path, answers: dict[Path, Detections] = ANSWERS, **options: Any) -> DetectionWriter:
    """Add what is not done, without `close`."""
    every: dict[str, Any] = {"txt": True, "table": True, "json_each": True, "settings": SETTINGS}
    writer = DetectionWriter(folder, (3, 17), **every | options)
    for name, answer in answers.items():
        if str(name) not in writer.done:
            writer.add(name, IMAGE, answer)
    return writer


def contents(folder: Path) -> dict[Path, bytes]:
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def whole(tmp_path: Path) -> dict[Path, bytes]:
    """The files of a run that was never stopped."""
    write(tmp_path / "whole", crops=True).close()
    return contents(tmp_path / "whole")


def test_the_journal_has_a_line_per_image_as_soon_as_it_is_added(tmp_path: Path) -> None:
    writer = DetectionWriter(tmp_path, (3, 17), images=False, settings=SETTINGS)
    for count, (name, answer) in enumerate(ANSWERS.items(), 1):
        writer.add(name, IMAGE, answer)
        head, *lines = map(json.loads, (tmp_path / "detections.jsonl").read_text().splitlines())
        written = {"images": False, "txt": False, "crops": False, "json_each": False}
        assert head == {"settings": SETTINGS | written}
        assert len(lines) == count
    assert [line["file_name"] for line in lines] == [str(name) for name in ANSWERS]
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


def test_wherever_the_journal_is_cut_off_going_on_gives_the_files_of_an_unbroken_run(
    tmp_path: Path, whole: dict[Path, bytes]
) -> None:
    journal = whole[Path("detections.jsonl")]
    out = tmp_path / "out"
    write(out, crops=True)
    for end in [*range(0, len(journal), 37), len(journal) - 1, len(journal)]:
        (out / "detections.jsonl").write_bytes(journal[:end])
        writer = write(out, crops=True, skip_done=True)
        assert len(writer.done) == max(0, journal[:end].count(b"\n") - 1)
        writer.close()
        assert contents(out) == whole


def test_a_run_that_begins_anew_leaves_no_tables_of_the_one_before(tmp_path: Path) -> None:
    write(tmp_path).close()
    write(tmp_path, skip_done=True)
    assert {"detections.json", "detections.csv"} <= {path.name for path in tmp_path.iterdir()}
    write(tmp_path, {})
    assert not {"detections.json", "detections.csv"} & {path.name for path in tmp_path.iterdir()}


def test_a_damaged_line_is_said_and_what_stands_behind_it_is_done_again(
    tmp_path: Path, whole: dict[Path, bytes], caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path / "out", crops=True).close()
    for damaged in (b"\0\0\n", b"[1]\n", b"{}\n", b"\xff\n"):
        lines = (tmp_path / "out" / "detections.jsonl").read_bytes().splitlines(keepends=True)
        (tmp_path / "out" / "detections.jsonl").write_bytes(b"".join([*lines[:2], damaged, *lines[3:]]))
        writer = write(tmp_path / "out", crops=True, skip_done=True)
        assert writer.done == {"x/a.png"}
        assert "detections.jsonl:3: damaged; this image and the 2 behind it are done again" in caplog.text
        writer.close()
        assert contents(tmp_path / "out") == whole


def test_images_that_came_later_are_added_behind_the_others_and_take_nothing_from_them(tmp_path: Path) -> None:
    write(tmp_path).close()
    before = contents(tmp_path)
    writer = write(tmp_path, {Path("w/a.png"): TWO} | ANSWERS, skip_done=True)
    assert writer.done == {str(name) for name in ANSWERS}
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
        ({"images": False}, "images: True, now False"),
        ({"crops": True}, "crops: False, now True"),
        ({"json_each": False}, "json_each: True, now False"),
    ],
)
def test_answers_of_other_settings_are_not_mixed(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    write(tmp_path).close()
    before = contents(tmp_path)
    options: dict[str, Any] = {"txt": True, "json_each": True, "settings": SETTINGS} | changed
    with pytest.raises(InputError, match=rf"detections\.jsonl: was made with other settings \({message}"):
        DetectionWriter(tmp_path, (3, 17), skip_done=True, **options)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("foreign", [b"notes\n", b"[]\n", b'{"a": 1}\n', b"\xff\n"])
def test_a_journal_of_another_program_is_left_alone(tmp_path: Path, foreign: bytes) -> None:
    (tmp_path / "detections.jsonl").write_bytes(foreign)
    with pytest.raises(InputError, match=r"was not written by `detector detect`"):
        DetectionWriter(tmp_path, (3, 17), skip_done=True)
    assert contents(tmp_path) == {Path("detections.jsonl"): foreign}


def test_a_file_name_keeps_bytes_that_are_no_utf_8(tmp_path: Path, whole: dict[Path, bytes]) -> None:
    name = list(ANSWERS)[-1]
    rows = json.loads(whole[Path("detections.json")])
    assert Path(rows[-1]["file_name"]) == name
    assert b"\xff.png" in whole[Path("detections.csv")]
    assert Path("labels", name.stem + ".txt") in whole


def test_ten_thousand_images_of_one_name_each_have_a_file() -> None:
    taken: dict[str, int] = {}
    stems = {free_name("a", taken) for _ in range(10_000)}
    assert stems == {"a"} | {f"a-{number}" for number in range(2, 10_001)}


# --- what the disk refuses


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Let no file grow beyond `size` bytes: a disk that fills up in the middle of a write."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_that_fills_up_is_an_error_that_names_the_file_and_what_was_written_stays_valid(
    tmp_path: Path, whole: dict[Path, bytes]
) -> None:
    out = tmp_path / "out"
    one, two, three, _ = ANSWERS
    write(out, {one: ANSWERS[one]}, crops=True)
    size = (out / "detections.jsonl").stat().st_size
    for room in (0, 1, 60):
        with write(out, {}, crops=True, json_each=True, skip_done=True) as writer:
            with largest_file(size + room), pytest.raises(InputError, match=r"detections\.jsonl: cannot .* \(File"):
                writer.add(two, IMAGE, ANSWERS[two])
            assert (out / "detections.jsonl").stat().st_size == size
    writer = write(out, {}, crops=True, skip_done=True)
    with writer, largest_file(40), pytest.raises(InputError, match=r"a-2\.png: cannot be written"):
        writer.add(three, IMAGE, ANSWERS[three])
    with write(out, crops=True, skip_done=True) as writer:
        assert writer.done == {str(one)}
        with largest_file(300), pytest.raises(InputError, match=r"detections\.json: cannot be written"):
            writer.close()
    assert not list(out.rglob("*.part*"))
    write(out, crops=True, skip_done=True).close()
    assert contents(out) == whole


@pytest.mark.parametrize("name", ["crops/cat/a-1.png", "json/a.json"])
def test_a_crop_and_a_json_file_are_there_whole_or_not_at_all(tmp_path: Path, name: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, IMAGE.shape, np.uint8)
    with DetectionWriter(tmp_path, (3, 17), images=False, crops="crops" in name, json_each="json" in name) as writer:
        writer.add(Path("b.png"), noise, TWO)
        before = contents(tmp_path)
        with largest_file(100), pytest.raises(InputError, match=f"{name}: cannot be written"):
            writer.add(Path("a.png"), noise, TWO)
        assert contents(tmp_path) == before


@pytest.mark.parametrize(
    "name", ["a.png", "labels/a.txt", "json/a.json", "detections.json", "detections.csv", "detections.jsonl"]
)
def test_a_file_that_cannot_be_written_is_an_error_that_names_it(tmp_path: Path, name: str) -> None:
    write(tmp_path, {}).close()
    (tmp_path / name).unlink(missing_ok=True)
    (tmp_path / name).mkdir()
    with pytest.raises(InputError, match=f"{name}: cannot be written"):
        write(tmp_path).close()
    assert not list(tmp_path.rglob("*.part"))


@pytest.mark.parametrize("name", ["crops/cat/a-1.png", "crops/cat", "crops"])
def test_a_place_of_crops_that_is_taken_is_an_error_that_names_it(tmp_path: Path, name: str) -> None:
    write(tmp_path, {}).close()
    (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
    (tmp_path / name).mkdir() if name.endswith(".png") else (tmp_path / name).write_text("")
    options: dict[str, Any] = {"crops": True, "txt": True, "settings": SETTINGS, "skip_done": False}
    if name != "crops":  # made by an earlier run, as far as can be told
        with pytest.raises(InputError, match="crops: holds crops of an earlier run"):
            write(tmp_path, **options)
        (tmp_path / "detections.jsonl").unlink()
        options["skip_done"] = True
    with pytest.raises(InputError, match=rf"{name}(/a-1\.png)?: cannot be (written|made)"):
        write(tmp_path, **options)


# --- crops, and a JSON file per image


def shades() -> ImageArray:
    """An image [30, 40, 3] in which every pixel says where it lies."""
    rows, columns = np.mgrid[:30, :40]
    return np.stack([rows, columns, rows * 0], axis=2).astype(np.uint8)


def slow_cut(image: ImageArray, box: list[float]) -> list[list[int]]:
    """Every pixel of which a part lies in the box; where there is none, the nearest."""
    x1, y1, x2, y2 = box
    height, width = image.shape[:2]
    rows = [y for y in range(height) if y + 1 > y1 and y < y2] or [min(int(y1), height - 1)]
    columns = [x for x in range(width) if x + 1 > x1 and x < x2] or [min(int(x1), width - 1)]
    return [[y, x, 0] for y in rows for x in columns]


side = st.floats(0, 40, width=32) | st.integers(0, 40).map(float)


@given(side, side, side, side)
def test_a_crop_is_every_pixel_that_its_box_touches(x: float, y: float, other_x: float, other_y: float) -> None:
    box = [min(x, other_x), min(y, other_y, 30), max(x, other_x), min(max(y, other_y), 30)]
    crop = _cut(shades(), np.array(box, np.float32))
    assert crop.reshape(-1, 3).tolist() == slow_cut(shades(), box)


@pytest.mark.parametrize("box", [(-9, -9, 99, 99), (-9, -9, -3, -3), (99, 99, 120, 120), (50, -5, 40, -9)])
def test_a_crop_lies_in_its_image_whatever_the_box(box: tuple[float, ...]) -> None:
    assert _cut(shades(), np.array(box, np.float32)).size in (3, 30 * 40 * 3)


@pytest.mark.parametrize(
    ("name", "suffix"), [("a.png", ".png"), ("a.JPG", ".jpg"), ("a.jpeg", ".jpeg"), ("a.tiff", ".jpg"), ("a", ".jpg")]
)
def test_each_detection_is_cut_from_the_image_as_it_was(tmp_path: Path, name: str, suffix: str) -> None:
    answer = found((20.4, 10, 30, 20.1), (0, 0, 40, 30), (0, 0, 1, 1))
    with DetectionWriter(tmp_path, (3, 17), crops=True) as writer:
        writer.add(Path("x", name), shades(), answer)
        writer.add(Path("y", name), shades(), found())
    crops = tmp_path / "crops"
    assert {path.relative_to(crops).as_posix() for path in crops.rglob("*.*")} == {
        f"cat/a-1{suffix}",
        f"cat/a-3{suffix}",
        f"dog/a-2{suffix}",
    }
    first = read_image(crops / "cat" / f"a-1{suffix}")
    assert first.shape == (11, 10, 3)
    if suffix == ".png":
        assert np.array_equal(first, shades()[10:21, 20:30])
        assert np.array_equal(read_image(crops / "dog" / "a-2.png"), shades())


def test_crops_of_images_of_one_name_and_of_names_that_look_like_crops_all_stay(tmp_path: Path) -> None:
    images = [Path("x/a.png"), Path("y/a.png"), Path("a-2.png"), Path("a-1.png"), Path("a-1.part.png")]
    with DetectionWriter(tmp_path, (3, 17), images=False, crops=True, json_each=True) as writer:
        for image in images:
            writer.add(image, IMAGE, found(*[(0, 0, 9, 9)] * 12))
    assert len(list((tmp_path / "crops").glob("*/*.png"))) == 12 * len(images)
    files = [json.loads(path.read_text())["file_name"] for path in (tmp_path / "json").iterdir()]
    assert sorted(files) == sorted(map(str, images))


NASTY: tuple[str, ...] = (
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
)
NASTY += (
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


def test_classes_of_any_name_each_have_a_folder_in_the_folder_for_crops(tmp_path: Path) -> None:
    n = len(NASTY)
    boxes, scores = np.tile(np.array([[0, 0, 5, 5]], np.float32), (n, 1)), np.ones(n, np.float32)
    answer = Detections(boxes, scores, np.arange(n), NASTY)
    with DetectionWriter(tmp_path / "out", tuple(range(n)), images=False, crops=True, json_each=True) as writer:
        writer.add(Path("a.png"), IMAGE, answer)
        writer.close()
    assert len(list((tmp_path / "out" / "crops").glob("*/a-*.png"))) == n
    assert len(list(tmp_path.rglob("*.png"))) == n
    said = json.loads((tmp_path / "out" / "json" / "a.json").read_text())
    assert tuple(one["class"] for one in said["detections"]) == NASTY


@settings(max_examples=50)
@given(st.lists(st.text(max_size=3) | st.sampled_from(NASTY), unique=True, max_size=12))
def test_folders_of_classes_differ_also_where_case_does_not_count_and_are_one_name_each(names: list[str]) -> None:
    folders = _class_folders(tuple(names))
    assert len({folder.casefold() for folder in folders}) == len(names)
    for name, folder in zip(names, folders, strict=True):
        assert folder == Path(folder).name not in ("", ".", "..")
        assert len(folder.encode()) < 160
        assert folder[-1] not in " ."
        assert not set(folder) & set('<>:"/\\|?*\0\n')
        assert folder.split(".")[0].upper() not in ("CON", "PRN", "AUX", "NUL", "COM1", "LPT9")
        assert folder.startswith(safe_name(name))


def test_the_json_of_a_image_says_where_its_objects_are(tmp_path: Path) -> None:
    with DetectionWriter(tmp_path, (3, 17), images=False, json_each=True) as writer:
        writer.add(Path("x/a.png"), IMAGE, TWO)
        writer.add(Path("x/b.png"), IMAGE, found())
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


def test_crops_of_an_earlier_run_are_neither_mixed_with_new_ones_nor_removed(tmp_path: Path) -> None:
    write(tmp_path, crops=True).close()
    before = contents(tmp_path)
    with pytest.raises(InputError, match=r"crops: holds crops of an earlier run: move them away, go on .* --skip-done"):
        write(tmp_path, crops=True)
    assert contents(tmp_path) == before
    (tmp_path / "crops").rename(tmp_path / "sorted")
    write(tmp_path, crops=True).close()
    assert contents(tmp_path / "crops") == contents(tmp_path / "sorted")


def test_the_longest_name_that_a_file_can_have_leaves_room_for_what_is_put_behind_it(tmp_path: Path) -> None:
    names = [
        Path("x" * 251 + ".jpg"),
        Path("x" * 250 + "y.jpg"),
        Path("\u00e4" * 127),
        Path(os.fsdecode(b"\xff" * 255)),
    ]
    write(tmp_path, dict.fromkeys(names, TWO), crops=True).close()
    assert len(list(tmp_path.glob("json/*.json"))) == len(list(tmp_path.glob("*.jpg"))) == 4
    assert len(list(tmp_path.glob("crops/*/*.jpg"))) == 8


# --- who may write, and where

HOLD = """
import sys
from pathlib import Path
from detector.detecting.writer import DetectionWriter

writer = DetectionWriter(Path(sys.argv[1]), (3, 17), skip_done=True)
print("here", flush=True)
input()
"""


def test_one_process_at_a_time_writes_into_a_folder_and_one_that_was_killed_is_in_nobodys_way(tmp_path: Path) -> None:
    DetectionWriter(tmp_path, (3, 17)).add(Path("a.png"), IMAGE, TWO)
    before = contents(tmp_path)
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"here\n"
        for skip_done in (False, True):
            with pytest.raises(InputError, match="another process is writing detections in this folder; wait for it"):
                write(tmp_path, skip_done=skip_done)
        assert contents(tmp_path) == before
        other.kill()
    DetectionWriter(tmp_path, (3, 17), skip_done=True).close()


def test_a_writer_lets_go_of_the_folder_when_it_is_closed_left_or_forgotten(tmp_path: Path) -> None:
    write(tmp_path).close()
    with write(tmp_path), pytest.raises(InputError, match="another process"):
        write(tmp_path)
    write(tmp_path)
    with pytest.raises(InputError, match="made with other settings"):
        write(tmp_path, images=False, skip_done=True)
    with locked(tmp_path, "looking"), pytest.raises(InputError, match="another process is writing detections"):
        write(tmp_path)
    write(tmp_path).close()


def test_a_source_below_the_folder_for_the_results_is_refused_and_a_made_up_name_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "out", {Path("a.png"): TWO}, crops=True).close()
    sources = [tmp_path / "b.png", tmp_path / "out" / "crops" / "cat" / "a-1.png"]
    with pytest.raises(InputError, match=r"a-1\.png: lies in the folder for the results; give another --out"):
        write(tmp_path / "out", sources=sources)
    monkeypatch.chdir(tmp_path / "out")
    write(Path(), sources=[Path("stdin.jpg")]).close()
