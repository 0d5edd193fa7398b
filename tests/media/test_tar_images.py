"""Tests of images in tar archives, such as WebDataset shards."""

import gzip
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detector.cli.commands import main
from detector.errors import FileError, ImageError, InputError
from detector.images import read_image, write_image
from detector.media.sources import Source, find_sources
from detector.options import ReadOptions

LEVELS = {"a.png": 10, "b.jpg": 60, "c.png": 110}


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """Return name → content of three images, each with another gray level; change to an empty folder."""
    monkeypatch.chdir(tmp_path)
    for name, level in LEVELS.items():
        write_image(Path(name), np.full((16, 24, 3), level, np.uint8))
    contents = {name: Path(name).read_bytes() for name in LEVELS}
    for name in LEVELS:
        Path(name).unlink()
    return contents


def write_tar(path: str, members: list[tuple[str, bytes]], **options: Any) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", **options) as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def find(*specs: str, **options: Any) -> list[Source]:
    return find_sources(specs, ReadOptions(packed=True, **options))


def names(*specs: str, **options: Any) -> list[str]:
    return [source.name.as_posix() for source in find(*specs, **options)]


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_image_of_an_archive_can_be_read_alone(files: dict[str, bytes], kind: int) -> None:
    members = [(f"{'d' * 90}/é {name}", content) for name, content in files.items()]
    write_tar("x.tar", [("notes.txt", b"text" * 1000), *members, ("000.json", b"{}")], format=kind)
    sources = find("x.tar")
    assert [source.name for source in sources] == [Path("x.tar") / name for name, _ in members]
    assert all(source.container == Path("x.tar") for source in sources)
    for source, content in reversed(list(zip(sources, files.values(), strict=True))):
        assert np.array_equal(source.read(), read_image(content))


def test_shards_are_found_by_range_pattern_folder_and_list(files: dict[str, bytes]) -> None:
    for index, (name, content) in enumerate(files.items()):
        write_tar(f"shards/s-{index:03}.tar", [(f"{index}/{name}", content)])
    expected = ["shards/s-000.tar/0/a.png", "shards/s-001.tar/1/b.jpg", "shards/s-002.tar/2/c.png"]
    Path("list.txt").write_text("shards/s-{000..002}.tar\n")
    for spec in ("shards", "shards/*.tar", "shards/s-{000..002}.tar", "list.txt"):
        assert names(spec) == expected
    assert names("shards", "shards/s-001.tar", "./shards") == expected
    with pytest.raises(FileError, match=r"s-003\.tar: no such file; it is one of shards/s-\{000\.\.003\}\.tar"):
        find("shards/s-{000..003}.tar")
    with pytest.raises(FileError, match="the smaller number first"):
        find("shards/s-{3..0}.tar")


def test_images_in_a_folder_come_before_its_archives(files: dict[str, bytes], caplog: pytest.LogCaptureFixture) -> None:
    write_tar("folder/x.tar", [("a.png", files["a.png"])])
    Path("folder/b.jpg").write_bytes(files["b.jpg"])
    assert names("folder") == ["folder/b.jpg"]
    assert "skipped 1 file with images (.tar) beside the images" in caplog.text


def test_compound_extensions_are_read_on_request_only(
    files: dict[str, bytes], caplog: pytest.LogCaptureFixture
) -> None:
    image = files["a.png"]
    write_tar("x.tar", [("0.jpg", files["b.jpg"]), ("0.seg.png", image), ("1.seg.png", image), ("._0.jpg", b"meta")])
    assert names("x.tar") == ["x.tar/0.jpg"]
    assert "x.tar: skipped 2 images with the extensions seg.png (2)" in caplog.text
    assert names("x.tar", image_column="seg.png") == ["x.tar/0.seg.png", "x.tar/1.seg.png"]
    assert len(names("x.tar", image_column="*png")) == 2
    with pytest.raises(FileError, match=r"no files with the extension tif .* extensions seg\.png \(2\), jpg \(1\)"):
        find("x.tar", image_column="tif")


def test_repeated_names_get_a_number_and_a_warning(files: dict[str, bytes], caplog: pytest.LogCaptureFixture) -> None:
    images = [("a.png", content) for content in files.values()]
    write_tar("x.tar", [*images, ("../../a.png", files["a.png"]), ("/d/./a.png", files["a.png"])])
    sources = find("x.tar")
    assert [source.name.as_posix() for source in sources] == [
        "x.tar/a.png", "x.tar/a-1.png", "x.tar/a-2.png", "x.tar/a-3.png", "x.tar/d/a.png"
    ]  # fmt: skip
    assert "3 images have a name that an image before it has" in caplog.text
    assert "a.png is a-1.png in the results" in caplog.text
    assert [int(source.read().mean()) for source in sources[:3]] == list(LEVELS.values())


def test_hard_links_are_images_and_symbolic_links_are_not(
    files: dict[str, bytes], caplog: pytest.LogCaptureFixture
) -> None:
    with tarfile.open("x.tar", "w") as archive:
        for name, kind in (("a.png", tarfile.REGTYPE), ("b.png", tarfile.LNKTYPE), ("c.png", tarfile.SYMTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "" if kind == tarfile.REGTYPE else "a.png"
            info.size = len(files["a.png"]) if kind == tarfile.REGTYPE else 0
            archive.addfile(info, io.BytesIO(files["a.png"]))
    first, second = find("x.tar")
    assert np.array_equal(first.read(), second.read())
    assert "skipped 1 link" in caplog.text


def damaged_header(data: bytes) -> bytes:
    return data[: data.index(b"b.jpg")] + b"\xff" * 100 + data[data.index(b"b.jpg") + 100 :]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: b"", "the file is empty; expected a tar archive"),
        (lambda data: b"no archive" * 100, "no tar archive .* gunzip"),
        (gzip.compress, "no tar archive .* gunzip"),
        (lambda data: data[:2000], "damaged or incomplete in or after file 2 "),
        (damaged_header, "the header after 1 file is damaged"),
        (lambda data: data + data, "more data after the end of the archive; if archives were joined with cat"),
        (lambda data: data[-2048:], r"x\.tar: there are no images in this file"),
    ],
)
def test_a_file_that_is_no_complete_archive_is_refused(change: Any, message: str, files: dict[str, bytes]) -> None:
    write_tar("whole.tar", list(files.items()))
    Path("x.tar").write_bytes(change(Path("whole.tar").read_bytes()))
    with pytest.raises(FileError, match=message):
        find("x.tar")


def test_a_missing_end_mark_and_an_empty_shard_are_reported(
    files: dict[str, bytes], caplog: pytest.LogCaptureFixture
) -> None:
    write_tar("shards/0.tar", list(files.items()))
    write_tar("shards/1.tar", [])
    data = Path("shards/0.tar").read_bytes().rstrip(b"\0")
    Path("shards/0.tar").write_bytes(data + b"\0" * (-len(data) % 512))
    assert len(names("shards")) == 3
    assert "the end mark of the archive is missing, so files may be missing: it has 3" in caplog.text
    assert "1 file without images, such as shards/1.tar" in caplog.text


def test_compressed_archives_are_refused(files: dict[str, bytes]) -> None:
    write_tar("x.tar", list(files.items()))
    Path("x.tar.gz").write_bytes(gzip.compress(Path("x.tar").read_bytes()))
    with pytest.raises(FileError, match=r"x\.tar\.gz: images in a compressed archive cannot be found one by one"):
        find("x.tar.gz")


def test_an_archive_that_was_replaced_is_noticed(files: dict[str, bytes]) -> None:
    write_tar("x.tar", list(files.items()))
    sources = find("x.tar")
    write_tar("x.tar", list(reversed(files.items())))
    for source in sources[::2]:
        with pytest.raises(ImageError, match="the archive was changed since it was listed"):
            source.read()
    Path("x.tar").unlink()
    with pytest.raises(FileError, match=r"x\.tar: cannot be read \(No such file or directory\)"):
        sources[0].read()


def test_a_damaged_image_has_an_error_of_its_own(files: dict[str, bytes]) -> None:
    write_tar("x.tar", [("a.png", files["a.png"]), ("bad.png", files["a.png"][:40]), ("c.png", files["c.png"])])
    good, bad, other = find("x.tar")
    with pytest.raises(ImageError, match=r"^x\.tar/bad\.png: "):
        bad.read()
    assert [int(source.read().mean()) for source in (good, other)] == [10, 110]


def test_a_truncated_jpeg_is_read_as_from_a_file(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    write_image(tmp_path / "a.jpg", rng.integers(90, 140, size=(64, 96, 3)).astype(np.uint8))
    data = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "a.jpg").write_bytes(data[:-60])
    write_tar(str(tmp_path / "x.tar"), [("a.jpg", data[:-60])])
    assert np.array_equal(find(str(tmp_path / "x.tar"))[0].read(), read_image(tmp_path / "a.jpg"))
    with pytest.raises(ImageError):
        read_image(data[:-60])


def test_other_commands_do_not_list_archives(files: dict[str, bytes]) -> None:
    write_tar("folder/x.tar", list(files.items()))
    with pytest.raises(InputError, match="no images in this folder"):
        find_sources(["folder"])


def test_detect_reads_archives_in_parts_and_again(
    files: dict[str, bytes], tiny_weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for index in range(3):
        write_tar(f"shards/{index}.tar", [*files.items(), (f"bad{index}.png", b"no image")])
    flags = ["detect", "shards", "--weights", str(tiny_weights), "--no-images", "--conf", "0.01", "--csv", "--out"]
    assert main([*flags, "plain", "--save-txt"]) == 3
    assert "skipped: shards/0.tar/bad0.png: " in capsys.readouterr().err
    entries = [json.loads(line) for line in Path("plain/detections.jsonl").read_bytes().splitlines()[1:]]
    assert [entry["file_name"] for entry in entries] == [f"shards/{k}.tar/{name}" for k in range(3) for name in LEVELS]
    assert sorted(path.name for path in Path("plain/labels").iterdir())[:3] == ["a-2.txt", "a-3.txt", "a.txt"]
    for part in ("0/2", "1/2"):
        assert main([*flags, "parts", "--shard", part]) == 3
    assert main(["gather", "parts", "--out", "all", "--csv"]) == 3
    assert Path("all/detections.csv").read_bytes() == Path("plain/detections.csv").read_bytes()
    write_tar("shards/1.tar", list(files.items()))  # only this archive is another one now
    capsys.readouterr()
    assert main([*flags, "plain", "--save-txt", "--skip-done"]) == 3
    assert "3 images changed since the earlier run" in capsys.readouterr().out
