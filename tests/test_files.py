import errno
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detector.errors import FileError
from detector.files import (
    append_line,
    free_name,
    is_file,
    local_path,
    locked,
    make_folder,
    read_json,
    read_text,
    safe_name,
    write_atomic,
    write_json,
)

# --- locked


def hold_lock(folder: Path) -> "subprocess.Popen[bytes]":
    """Start a process that locks a folder until its standard input is closed; return once the lock is held."""
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from detector.files import locked\n"
        "with locked(Path(sys.argv[1]), 'training'):\n"
        "    print('locked', flush=True)\n"
        "    sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", code, str(folder)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline().strip() == b"locked"
    return process


def assert_locked(folder: Path) -> None:
    with pytest.raises(FileError, match="another process is training in this folder; wait"), locked(folder, "training"):
        pass


def test_second_process_cannot_lock_the_folder(tmp_path: Path) -> None:
    process = hold_lock(tmp_path)
    assert_locked(tmp_path)
    process.communicate(timeout=60)
    assert process.returncode == 0
    with locked(tmp_path, "training"):
        pass


@pytest.mark.posix
def test_lock_is_released_when_its_holder_is_killed(tmp_path: Path) -> None:
    process = hold_lock(tmp_path)
    assert_locked(tmp_path)
    process.kill()
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    with locked(tmp_path, "training"):
        pass


def test_lock_excludes_the_same_process_too(tmp_path: Path) -> None:
    with locked(tmp_path, "training"):
        assert_locked(tmp_path)
        (tmp_path / "other").mkdir()
        with locked(tmp_path / "other", "training"):
            pass
    with locked(tmp_path, "training"):
        pass


def test_lock_is_released_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(KeyError), locked(tmp_path, "training"):
        raise KeyError
    with locked(tmp_path, "training"):
        pass


@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.ENOLCK])
def test_drive_without_file_locks_is_not_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    fcntl = pytest.importorskip("fcntl")

    def fail(*arguments: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", fail)
    with locked(tmp_path, "training"), locked(tmp_path, "training"):
        pass


def test_lock_file_that_cannot_be_created_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError, match="cannot be locked"), locked(tmp_path / "file", "training"):
        pass


# --- write_atomic


def test_write_atomic_creates_and_replaces_a_file(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "c.bin"
    for data in (b"first", b"", bytes(range(256))):
        write_atomic(path, data)
        assert path.read_bytes() == data
        assert list(path.parent.iterdir()) == [path]


def test_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.bin"
    write_atomic(path, b"old")

    def fail(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(FileError, match=r"a\.bin: cannot be written \(No space left on device\)"):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_write_atomic_does_not_replace_a_folder(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(FileError, match="a: cannot be written"):
        write_atomic(tmp_path / "a", b"new")
    assert list(tmp_path.iterdir()) == [tmp_path / "a"]


def test_reader_never_sees_a_partial_file(tmp_path: Path) -> None:
    path, versions = tmp_path / "a.bin", [bytes([value]) * 200_000 for value in (1, 2)]
    write_atomic(path, versions[0])
    done = threading.Event()

    def write() -> None:
        for number in range(50):
            write_atomic(path, versions[number % 2])
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    contents = []
    while not done.is_set():
        contents.append(path.read_bytes())
    writer.join()
    assert contents
    assert all(content in versions for content in contents)


# --- the other functions


def test_json_round_trip(tmp_path: Path) -> None:
    values = {"a": [1, 2.5, None], "b": {"c": "é"}}
    write_json(tmp_path / "a.json", values)
    assert read_json(tmp_path / "a.json") == values
    assert (tmp_path / "a.json").read_bytes().endswith(b"}\n")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"a\.json: no such file"),
        (b"{", r"a\.json: cannot be read as JSON"),
        (b"\xff", r"a\.json: cannot be read as JSON"),
        (b"[" * 100_000, r"a\.json: cannot be read as JSON"),
    ],
)
def test_file_that_is_not_json_is_named(tmp_path: Path, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(FileError, match=message):
        read_json(tmp_path / "a.json")


def test_text_has_no_byte_order_mark_and_unix_line_ends(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone\r\ntwo \xc3\xa9\n")
    assert read_text(tmp_path / "a.txt") == "one\ntwo é\n"


def test_text_that_is_not_utf8_is_refused_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"one\ntwo \xe9\n")
    with pytest.raises(FileError, match=r"a\.txt:2: not UTF-8 .*save the file as UTF-8"):
        read_text(tmp_path / "a.txt")
    with pytest.raises(FileError, match="cannot be read"):
        read_text(tmp_path)


def test_is_file_accepts_any_name(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    assert is_file(tmp_path / "a")
    for path in (tmp_path, tmp_path / "missing", tmp_path / ("x" * 10_000), tmp_path / "a\0b"):
        assert not is_file(path)


def test_folder_that_cannot_be_created_is_reported(tmp_path: Path) -> None:
    make_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()
    (tmp_path / "file").touch()
    with pytest.raises(FileError, match=r"file/a: the folder cannot be created"):
        make_folder(tmp_path / "file" / "a")


def test_append_line_writes_one_line_of_json(tmp_path: Path) -> None:
    with (tmp_path / "a.jsonl").open("ab", buffering=0) as file:
        append_line(file, {"a": 1})
        append_line(file, ["é\n"])
    lines = (tmp_path / "a.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [{"a": 1}, ["é\n"]]


@pytest.mark.posix
def test_append_line_leaves_no_partial_line_on_a_full_disk(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    resource = pytest.importorskip("resource", reason="limits of POSIX")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with (tmp_path / "a.jsonl").open("ab", buffering=0) as file:
        append_line(file, "a" * 60)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))  # the second line fits only partly
        try:
            with pytest.raises(OSError, match="File too large"):
                append_line(file, "b" * 60)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert (tmp_path / "a.jsonl").read_text() == json.dumps("a" * 60) + "\n"
        append_line(file, "c")
    assert (tmp_path / "a.jsonl").read_text().splitlines()[1:] == ['"c"']


@given(st.text(max_size=300))
def test_safe_name_is_a_valid_file_name(text: str) -> None:
    name = safe_name(text)
    assert name not in ("", ".", "..")
    assert not set(name) & set('<>:"/\\|?*\0\n')
    assert len(name.encode()) <= 151
    assert not name.endswith((".", " "))
    assert safe_name(name) == name


@given(st.lists(st.sampled_from(["a", "b", "a-2", "a-3"]), max_size=20))
def test_free_names_are_distinct(stems: list[str]) -> None:
    taken: dict[str, int] = {}
    names = [free_name(stem, taken, ".jpg") for stem in stems]
    assert len(set(names)) == len(names)
    assert all(name.endswith(".jpg") for name in names)


@pytest.mark.parametrize(
    "url", ["s3://bucket/x", "gs://bucket/x", "http://host/x.zip", "https://host/x", "file:///home/x", "hf://a/b"]
)
def test_a_url_is_not_a_path(url: str) -> None:
    for value in (url, Path(url)):
        with pytest.raises(FileError, match=r"^\w+://.*: this is a URL, .* download"):
            local_path(value)


@pytest.mark.parametrize("value", [None, 5, b"a", "a\0b", Path("a\0b")])
def test_what_is_no_path_is_refused(value: Any) -> None:
    with pytest.raises(FileError, match=r"^expected a path of a file or folder, got "):
        local_path(value)


@pytest.mark.parametrize("name", ["a/b", "C:/data", "C:\\data", "/a:b/c", "a:b", "", "s3"])
def test_a_path_that_looks_like_a_url_is_a_path(name: str) -> None:
    assert local_path(name) == Path(name)
    assert local_path(Path(name)) == Path(name)


def test_nothing_is_written_to_a_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for write in (make_folder, lambda path: write_atomic(path, b"")):
        with pytest.raises(FileError, match="s3://b/x: this is a URL"):
            write(Path("s3://b/x"))
    assert not list(tmp_path.iterdir())
