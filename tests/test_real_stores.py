"""Tests with a store that `tools/real_stores.sh` has started, or any other empty bucket: DETECTOR_STORE is its URL."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from detector import cache
from detector.config import Config
from detector.data.open_data import open_data
from detector.errors import FileError, StorageError
from detector.files import LOCK_NAME
from detector.loader.dataset import DetectionDataset
from detector.mirror import local_copy, mirror, read_file
from detector.object_store import ObjectStore
from detector.remote_folder import output_place
from detector.training.train import resume, train
from detector.url_names import with_urls

pytestmark = [
    pytest.mark.skipif("DETECTOR_STORE" not in os.environ, reason="DETECTOR_STORE is not set"),
    pytest.mark.filterwarnings("ignore:Sending a large body directly:ResourceWarning"),  # adlfs
]

NAMES = ["a b.png", "a+b.png", "a#b.png", "a?b.png", "é 日本.png", "a&b=c.png", "a'b.png", "[1]*.png", "s #1/x?2%3.png"]
WRITE = """
import sys
from detector.object_store import ObjectStore
store = ObjectStore(sys.argv[1])
store.write(store.path, b"2", "")
"""


@pytest.fixture
def place(tmp_path: Path, loopback: None, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the URL of a folder for one test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.delenv(cache.SWITCH, raising=False)
    return f"{os.environ['DETECTOR_STORE']}/{tmp_path.name} é"


@pytest.fixture
def locks(place: str) -> None:
    """Skip a test that writes runs, at a store that does not keep its condition for locks, if that is noticed."""
    store = ObjectStore(f"{place}/try")
    if store.create(store.path, b"1", "") and not store.create(store.path, b"2", ""):
        return
    store.remove(store.path, "")
    with pytest.raises(FileError, match="this store cannot exclude two writers"), output_place(f"{place}/out"):
        pass
    assert ObjectStore(place).list(ObjectStore(place).path) == []
    pytest.skip("this store has no conditional requests")


def write(url: str, data: bytes) -> None:
    store = ObjectStore(url)
    store.write(store.path, data, url)


def test_names_with_signs_are_kept(place: str) -> None:
    store = ObjectStore(place)
    for name in NAMES:
        write(f"{place}/{name}", name.encode())
    assert {file.path.removeprefix(f"{store.path}/") for file in store.list(store.path)} == set(NAMES)
    for name in NAMES:
        path = mirror(f"{place}/{name}", labels=False)
        assert read_file(path) == name.encode()
        assert with_urls(str(path)) == f"{place}/{name}"


def test_writes_of_another_process_are_seen(place: str) -> None:
    store = ObjectStore(place)
    write(f"{place}/a", b"1")
    (file,) = store.list(store.path)
    assert store.list(store.path, recursive=False) == [file]
    for name in "ab":
        subprocess.run([sys.executable, "-c", WRITE, f"{place}/{name}"], check=True)
    with pytest.raises(StorageError, match="has changed since it was listed"):
        store.read(file, "a")
    for own in (store, ObjectStore(place)):
        assert [own.read(file, "") for file in own.list(own.path)] == [b"2", b"2"]


def test_list_is_that_of_the_folder(place: str) -> None:
    for name in ("f/a", "f/s/b", "f2/c"):
        write(f"{place}/{name}", b"1")
    store = ObjectStore(f"{place}/f")
    assert [file.path.removeprefix(store.path) for file in store.list(store.path)] == ["/a", "/s/b"]
    assert [file.path.removeprefix(store.path) for file in store.list(store.path, recursive=False)] == ["/a"]
    assert [file.path for file in store.list(f"{store.path}/a")] == [f"{store.path}/a"]
    assert store.list(f"{store.path}/none") == store.list(f"{store.path}/none", recursive=False) == []


def test_large_file_is_written_and_read(place: str) -> None:
    data = os.urandom(1 << 20) * 120  # in several parts
    write(f"{place}/large", data)
    store = ObjectStore(place)
    (file,) = store.list(store.path)
    assert store.read(file, "large") == data


@pytest.mark.usefixtures("locks")
def test_two_writers_exclude_each_other(place: str) -> None:
    with output_place(f"{place}/out") as folder:
        with pytest.raises(FileError, match="another process is writing here"), output_place(f"{place}/out"):
            pass
        (folder / "a").write_bytes(b"1")
    store = ObjectStore(f"{place}/out")
    assert [file.path for file in store.list(store.path)] == [f"{store.path}/a"]
    with pytest.raises(FileError, match="1 file are there"), output_place(f"{place}/out"):
        pass
    assert store.read_text(f"{store.path}/{LOCK_NAME}") is None


def test_missing_bucket_is_reported(place: str) -> None:
    url = f"{place.partition('://')[0]}://no-such-bucket-77/out"
    with pytest.raises(FileError, match="no such bucket"), output_place(url):
        pass
    with pytest.raises(FileError, match="no such container" if url.startswith("az://") else "no such bucket"):
        open_data(url)


@pytest.mark.usefixtures("locks")
def test_run_is_trained_and_resumed(place: str, tiny_data: Path) -> None:
    for path in sorted(tiny_data.rglob("*.*")):
        write(f"{place}/set/{path.relative_to(tiny_data).as_posix()}", path.read_bytes())
    settings = Config(steps=2, batch=2, workers=0, input_size=(64, 64), allow_dropped=1.0)

    def fingerprint(spec: str | Path) -> str:
        return DetectionDataset(open_data(spec).read("train"), (64, 64), settings).fingerprint

    assert fingerprint(f"{place}/set") == fingerprint(tiny_data)
    train(f"{place}/set", settings, out=f"{place}/run", weights="none")
    with pytest.raises(FileError, match="this run is finished"):
        resume(f"{place}/run")
    best = f"{place}/run/weights/best.safetensors"
    assert read_file(local_copy(best)) == read_file(mirror(best, labels=False))
    with pytest.raises(FileError, match="no such file"):
        local_copy(f"{best}.none")
    with pytest.raises(FileError, match="a folder, and only single files"):
        local_copy(f"{place}/run/weights")
