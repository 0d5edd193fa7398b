"""Tests of datasets and output folders at URLs: in memory, in zip archives, and at an S3 server with faults."""

import errno
import json
import logging
import pickle
import re
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from detector import cache, mirror, object_store
from detector.cli.commands import main
from detector.config import Config
from detector.data.open_data import open_data
from detector.errors import FileError, InputError, StorageError
from detector.files import LOCK_NAME
from detector.images import read_image, write_image
from detector.loader.dataset import DetectionDataset
from detector.manifest import MANIFEST_NAME
from detector.media.sources import find_sources
from detector.mirror import read_ahead, read_file
from detector.object_store import StoredFile
from detector.options import ReadOptions
from detector.predict.detector import Detector
from detector.remote_folder import _remotes, output_place, upload
from detector.training.train import resume, train
from detector.url_names import with_urls

sys.path.append(str(Path(__file__).parents[1] / "tools"))
from s3_server import S3Server

fsspec = pytest.importorskip("fsspec")

SETTINGS = Config(steps=2, batch=2, workers=0, input_size=(64, 64), allow_dropped=1.0)


@pytest.fixture(autouse=True)
def _quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.delenv(cache.SWITCH, raising=False)
    monkeypatch.setattr(object_store, "_PAUSE", 0.01)
    fsspec.filesystem("memory").store.clear()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return the folder of a small COCO dataset."""
    path = tmp_path / "set"
    rng = np.random.default_rng(0)
    for split, count in (("train", 4), ("val", 2)):
        images, rows = [], []
        for number in range(count):
            name = f"{split}-{number}.png"
            (path / split).mkdir(parents=True, exist_ok=True)
            write_image(path / split / name, rng.integers(0, 255, (48, 64, 3), dtype=np.uint8))
            images.append({"id": number + 1, "file_name": name, "width": 64, "height": 48})
            row = {"category_id": 1, "bbox": [8, 8, 20, 16], "area": 320, "iscrowd": 0}
            rows.append({"id": number + 1, "image_id": number + 1} | row)
        values = {"images": images, "annotations": rows, "categories": [{"id": 1, "name": "thing"}]}
        (path / split / "_annotations.coco.json").write_text(json.dumps(values))
    return path


@pytest.fixture
def in_memory(folder: Path) -> str:
    fsspec.filesystem("memory").put(f"{folder}/", "/bucket/set/", recursive=True)
    return "memory://bucket/set"


@pytest.fixture
def zipped(folder: Path) -> Path:
    path = folder.with_suffix(".zip")
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*.*")):
            archive.write(file, file.relative_to(folder.parent))
    return path


@pytest.fixture
def server(folder: Path, loopback: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    """Start an S3 server with the dataset at s3://bucket/set."""
    pytest.importorskip("s3fs")
    with S3Server() as own:
        own.put_folder(folder, "bucket/set")
        for name, value in own.environment.items():
            monkeypatch.setenv(name, value)
        yield own


def fingerprint(spec: str | Path) -> str:
    return DetectionDataset(open_data(spec).read("train"), (64, 64), Config()).fingerprint


def test_data_at_urls_equals_local_data(folder: Path, in_memory: str, zipped: Path) -> None:
    local = open_data(folder)
    for url in (in_memory, f"zip://set::{zipped}", f"zip://::{zipped}"):
        data_set = open_data(url)
        assert data_set.split_names == local.split_names
        assert fingerprint(url) == fingerprint(folder)
    assert open_data(in_memory).description == local.description
    assert fingerprint(f"{in_memory}/train/_annotations.coco.json") == fingerprint(folder)


def test_messages_and_results_name_the_url(in_memory: str) -> None:
    store = fsspec.filesystem("memory")
    store.pipe("/bucket/set/train/train-0.png", b"no image")
    split = open_data(in_memory).read("train")
    (dropped,) = split.ledger.missing
    assert with_urls(str(dropped)) == f"{in_memory}/train/train-0.png"
    with pytest.raises(InputError) as caught:
        read_image(dropped)
    assert str(caught.value).startswith(f"{in_memory}/train/train-0.png: not an image")


def test_content_comes_from_the_cache_until_it_changes(in_memory: str) -> None:
    store = fsspec.filesystem("memory")
    name = "/bucket/set/train/train-0.png"
    before = store.cat_file(name)
    path = mirror.mirror(in_memory, labels=False) / "train/train-0.png"
    assert read_file(path) == before
    store.pipe(name, b"another")
    assert read_file(path) == before  # this process has listed the old file, and has its content
    assert read_file(mirror.mirror(in_memory, labels=False) / "train/train-0.png") == b"another"


def test_change_after_the_listing_is_an_error(in_memory: str) -> None:
    path = mirror.mirror(in_memory, labels=False) / "train/train-0.png"
    fsspec.filesystem("memory").pipe("/bucket/set/train/train-0.png", b"another")
    with pytest.raises(StorageError, match=r"train-0\.png: the file has changed since it was listed"):
        read_file(path)
    fsspec.filesystem("memory").rm_file("/bucket/set/train/train-0.png")
    with pytest.raises(StorageError, match=r"memory://bucket/set/train/train-0\.png: the file does not exist"):
        read_image(path)


def test_cache_of_urls_keeps_its_limit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    store = fsspec.filesystem("memory")
    for number in range(60):
        store.pipe(f"/many/{number}.png", bytes([number]) * 1000)
    monkeypatch.setenv(cache.REMOTE_LIMIT, "0.00002")
    own = mirror.mirror("memory://many", labels=False)
    paths = [own / f"{number}.png" for number in range(60)]
    for path in read_ahead(paths, lambda path: path):
        assert read_file(path) == bytes([int(path.stem)]) * 1000
    sizes = [file.stat().st_size for file in (tmp_path / "xdg/detector/remote").iterdir()]
    assert 10_000 < sum(sizes) <= 20_000
    monkeypatch.setenv(cache.SWITCH, "off")
    assert [read_file(path)[0] for path in read_ahead(paths, lambda path: path)] == list(range(60))


def test_limit_of_the_cache_that_is_no_number_is_reported(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(cache.REMOTE_LIMIT, "plenty")
    cache.write_entry(cache.cache_key("a"), b"1", cache.REMOTE)
    assert "DETECTOR_REMOTE_CACHE=plenty: expected a number of GB" in caplog.text


def test_archives_with_backslashes_in_names_are_read(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "windows.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*.*")):
            archive.writestr(str(file.relative_to(folder.parent)).replace("/", "\\"), file.read_bytes())
    expected = open_data(folder).read("train")
    for url in (f"zip://set::{path}", f"zip://::{path}"):
        split = open_data(url).read("train")
        assert len(split.annotations) == len(expected.annotations)
        image = split.decode(split.annotations[0])
        np.testing.assert_array_equal(image, expected.decode(expected.annotations[0]))


@pytest.mark.parametrize("name", ["../outside.png", "a/../../outside.png", "a//b.png", "..\\outside.png"])
def test_archive_cannot_write_outside_of_the_mirror(name: str, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as archive:
        archive.writestr(name, b"x")
    with pytest.raises(FileError, match="cannot be the name of a local file"):
        open_data(f"zip://::{tmp_path / 'bad.zip'}")


def test_damaged_archive_and_missing_places_are_reported(tmp_path: Path) -> None:
    (tmp_path / "bad.zip").write_bytes(b"no archive")
    with pytest.raises(FileError, match="not a zip archive"):
        open_data(f"zip://::{tmp_path / 'bad.zip'}")
    with pytest.raises(FileError, match="no such file"):
        open_data(f"zip://::{tmp_path / 'missing.zip'}")
    with pytest.raises(FileError, match="memory://nothing: no file or folder is there"):
        open_data("memory://nothing")


def test_bucket_whose_list_is_empty_may_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(object_store._PACKAGES, "memory", "gcsfs")
    with pytest.raises(FileError, match="no file or folder is there, or there is no such bucket; expected"):
        open_data("memory://nothing")


def test_archive_that_cannot_be_read_is_reported(tmp_path: Path) -> None:
    path, content = tmp_path / "set.zip", b"[[1, 2], [3, 4]]"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("train.json", content)
    whole = path.read_bytes()
    damages = {
        "a damaged one .*Bad CRC-32": whole.replace(content, b"[[1, 2], [3, 5]]"),
        # In the two headers of the file: the flag for encryption, and a method of compression that is not known.
        "is encrypted; unpack it": whole.replace(b"PK\3\4\x14\0\0", b"PK\3\4\x14\0\1").replace(
            b"PK\1\2\x14\3\x14\0\0", b"PK\1\2\x14\3\x14\0\1"
        ),
        "cannot be read .*; unpack it": whole.replace(b"PK\3\4\x14\0\0\0\0", b"PK\3\4\x14\0\0\0\x61").replace(
            b"PK\1\2\x14\3\x14\0\0\0\0", b"PK\1\2\x14\3\x14\0\0\0\x61"
        ),
    }
    for message, damaged in damages.items():
        assert damaged != whole
        path.write_bytes(damaged)
        with pytest.raises(StorageError, match=message):
            open_data(f"zip://::{path}")
    with pytest.raises(FileError, match=r"for all files of an archive: zip://::set\.zip"):
        open_data("zip://set.zip")
    with pytest.raises(FileError, match="not a valid URL"):
        open_data("zip://::odd::set.zip")


def test_sources_are_files_folders_and_patterns(in_memory: str) -> None:
    def names(spec: str, recursive: bool = False) -> list[str]:
        return [with_urls(str(s.name)) for s in find_sources([spec], ReadOptions(recursive=recursive))]

    train_images = [f"{in_memory}/train/train-{number}.png" for number in range(4)]
    assert names(f"{in_memory}/train") == train_images
    assert names(f"{in_memory}/train/train-1.png") == train_images[1:2]
    assert names(f"{in_memory}/train/*-[12].png") == train_images[1:3]
    assert len(names(in_memory, recursive=True)) == 6
    fsspec.filesystem("memory").pipe("/bucket/clip.mp4", b"x")
    with pytest.raises(FileError, match=r"clip\.mp4: videos at this kind of URL are not read"):
        names("memory://bucket/clip.mp4")


def test_run_at_a_url_equals_a_local_run(folder: Path, in_memory: str, tmp_path: Path) -> None:
    train(folder, SETTINGS, out=tmp_path / "run", weights="none")
    train(in_memory, SETTINGS, out="memory://bucket/run", weights="none")
    files = {path: data.getvalue() for path, data in fsspec.filesystem("memory").store.items() if "/run/" in path}
    own = {path.relative_to(tmp_path / "run").as_posix() for path in (tmp_path / "run").rglob("*.*") if path.is_file()}
    names = {path.removeprefix("/bucket/run/") for path in files}
    assert {re.sub("-[0-9a-f]{16}", "", name) for name in names} == {
        re.sub("-[0-9a-f]{16}", "", name) for name in own - {LOCK_NAME}
    }
    local = json.loads((tmp_path / "run/run.json").read_bytes())
    assert json.loads(files["/bucket/run/run.json"]) == local | {"data": in_memory}
    assert not [path for path, data in files.items() if b"mirror-" in data or bytes(tmp_path) in data]
    with pytest.raises(FileError, match="memory://bucket/run: this run is finished"):
        resume("memory://bucket/run")
    with pytest.raises(FileError, match=r"memory://bucket/run: .* files are there; choose another --out"):
        train(in_memory, SETTINGS, out="memory://bucket/run", weights="none")


def test_upload_writes_the_manifest_last_and_removes_what_was_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    store = fsspec.filesystem("memory")
    pipe = type(store).pipe_file

    def record(self: object, path: str, data: bytes, **options: object) -> None:
        written.append(path.removeprefix("/out/"))
        pipe(self, path, data, **options)

    monkeypatch.setattr(type(store), "pipe_file", record)
    with output_place("memory://out") as place:
        for name in ("state/1", "a", MANIFEST_NAME):
            (place / name).parent.mkdir(exist_ok=True)
            (place / name).write_bytes(b"{}\n")
        upload(place)
        (place / "state/1").unlink()
    assert written[2:] == [MANIFEST_NAME, "a", "state/1", MANIFEST_NAME, MANIFEST_NAME]
    assert sorted(store.find("/out")) == [f"/out/{MANIFEST_NAME}", "/out/a"]


def test_weights_at_a_url_are_those_of_the_file(
    tiny_data: Path, tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, store = "memory://bucket/a b.safetensors", fsspec.filesystem("memory")
    store.pipe("/bucket/a b.safetensors", tiny_weights.read_bytes())
    store.pipe("/bucket/a b.safetensors.txt", b"another file")
    image = next((tiny_data / "images").iterdir())
    files: list[Path] = []
    for weights in (url, str(tiny_weights)):
        monkeypatch.chdir(tmp_path)
        files.append(folder := Path(str(len(files))))
        assert (
            main(["detect", "--weights", weights, str(image), "--out", str(folder / "found"), "--device", "cpu"]) == 0
        )
        evaluate = ["evaluate", "--weights", weights, "--data", str(tiny_data), "--results", str(folder / "a.json")]
        assert main([*evaluate, "--against", weights, "--device", "cpu"]) == 0
        train_flags = ["--out", str(folder / "run"), "--no-report", *(f"--set={s}" for s in ("steps=2", "batch=2"))]
        assert main(["train", "--data", str(tiny_data), "--weights", weights, *train_flags]) == 0
    for name in ("found/detections.json", "a.json", "run/results.csv"):
        assert (files[0] / name).read_bytes() == (files[1] / name).read_bytes()
    assert json.loads(Path("0/run/run.json").read_text())["weights"] == url
    assert pickle.loads(pickle.dumps(Detector.load(url))).info == Detector.load(tiny_weights).info


def test_weights_at_a_url_come_from_the_cache_and_are_reported(tiny_weights: Path) -> None:
    store = fsspec.filesystem("memory")
    for name, message in (("gone.safetensors", "no such file"), ("bucket", "a folder, and only single files")):
        store.pipe("/bucket/x.txt", b"no weights")
        with pytest.raises(FileError, match=f"memory://{name}: {message}"):
            Detector.load(f"memory://{name}")
    with pytest.raises(InputError, match=r"^memory://bucket/x\.txt: this is not a readable safetensors file"):
        Detector.load("memory://bucket/x.txt")
    store.pipe("/bucket/run.onnx", b"no graph")
    with pytest.raises(InputError, match=r"^memory://bucket/run\.onnx: "):
        Detector.load("memory://bucket/run.onnx")
    store.pipe("/bucket/w.safetensors", tiny_weights.read_bytes())
    copy = mirror.local_copy("memory://bucket/w.safetensors")
    mirror.local_copy.cache_clear()
    store.pipe("/bucket/w.safetensors", tiny_weights.read_bytes()[:-1])  # with another version
    assert mirror.local_copy("memory://bucket/w.safetensors").read_bytes() == copy.read_bytes()[:-1]


def test_run_at_a_url_names_its_weights(in_memory: str, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--data", in_memory, "--out", "memory://bucket/a run", "--weights", "none", "--allow-dropped", "1"]
    settings = ["steps=2", "batch=2", "workers=0", "input_size=[64, 64]"]
    assert main(["train", *flags, "--no-report", *(f"--set={setting}" for setting in settings)]) == 0
    line = capsys.readouterr().out.splitlines()[-1]
    assert line == "next: detector detect IMAGES --weights 'memory://bucket/a run/weights/best.safetensors'"
    weights = "memory://bucket/a run/weights/best.safetensors"
    assert main(["evaluate", "--data", in_memory, "--split", "val", "--weights", weights]) == 0


def refused(code: str) -> OSError:
    """Return the error of s3fs for an answer of a store that gives only a code, as Ceph does."""
    error = OSError(errno.EINVAL, "None")
    error.__cause__ = _AnswerError(code)
    return error


class _AnswerError(Exception):
    """An error with the answer of a store, as in botocore."""

    def __init__(self, code: str) -> None:
        self.response = {"Error": {"Code": code}}


@pytest.mark.parametrize("code", ["PreconditionFailed", "412"])
def test_existing_lock_is_recognized_by_the_code_alone(code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = object_store.ObjectStore("memory://out")

    def pipe_file(*_: object, **__: object) -> None:
        raise refused(code)

    monkeypatch.setattr(store._fs, "pipe_file", pipe_file)
    assert store.create("/out/lock", b"", "memory://out/lock") is False


def test_store_without_conditions_gets_no_output(monkeypatch: pytest.MonkeyPatch) -> None:
    store = object_store.ObjectStore("memory://out")
    write = store._fs.pipe_file

    def no_condition(*_: object, **__: object) -> None:
        raise refused("NotImplemented")

    monkeypatch.setattr(store._fs, "pipe_file", no_condition)
    with pytest.raises(FileError, match="cannot exclude two writers"):
        store.create("/out/lock", b"", "memory://out/lock")
    # A store that ignores the condition: the second creation succeeds, and the lock is removed again.
    monkeypatch.setattr(type(store._fs), "pipe_file", lambda self, path, data, mode="": write(path, data))
    with pytest.raises(FileError, match="cannot exclude two writers"), output_place("memory://out"):
        pass
    assert store.list("/out") == []


def test_empty_objects_that_mark_folders_are_left_out() -> None:
    files = [
        StoredFile("b/a", 0, "1"),
        StoredFile("b/a/x.jpg", 5, "1"),
        StoredFile("b/c/", 0, "1"),
        StoredFile("b/d", 0, "1"),
    ]
    assert [file.path for file in object_store._without_folder_marks(files)] == ["b/a/x.jpg", "b/d"]


def test_version_of_a_file_at_google_is_its_generation() -> None:
    info = {"size": 3, "etag": "same", "generation": "7", "md5Hash": "kAFQmDzST7DWlj99KOF/cg=="}
    first = object_store._stored("x", info)
    assert first.md5 == "900150983cd24fb0d6963f7d28e17f72"
    assert object_store._stored("x", info | {"generation": "8"}) != first
    assert object_store._stored("x", info | {"etag": "other"}) == first  # the metadata has changed, not the content


def test_two_writers_exclude_each_other() -> None:
    with output_place("memory://out") as place:
        with pytest.raises(FileError, match="another process is writing here"), output_place("memory://out"):
            pass
        (place / "a").write_bytes(b"1")
        fsspec.filesystem("memory").pipe(f"/out/{LOCK_NAME}", b"someone else")
        with pytest.raises(StorageError, match="this lock was removed or replaced"):
            upload(place)
        assert fsspec.filesystem("memory").cat_file(f"/out/{LOCK_NAME}") == b"someone else"
        fsspec.filesystem("memory").pipe(f"/out/{LOCK_NAME}", _remotes[place].token)
    assert sorted(fsspec.filesystem("memory").find("/out")) == ["/out/a"]


def test_s3_data_equals_local_data(folder: Path, server: S3Server) -> None:
    assert fingerprint("s3://bucket/set") == fingerprint(folder)
    assert server.requests["HEAD"] == 0
    before = server.requests["GET"]
    assert fingerprint("s3://bucket/set") == fingerprint(folder)
    assert server.requests["GET"] == before + 1  # the list; the rest comes from the cache


@pytest.mark.parametrize("fault", ["503", "cut"])
def test_failure_that_passes_is_retried(fault: str, folder: Path, server: S3Server) -> None:
    failed: set[str] = set()

    def once(method: str, path: str) -> str | None:
        is_new = method == "GET" and path.endswith((".png", ".json")) and path not in failed
        failed.add(path)
        return fault if is_new else None

    server.fault = once
    assert fingerprint("s3://bucket/set") == fingerprint(folder)
    assert len(failed) > 4


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("503", "the request failed 5 times, last with: SlowDown"),
        ("403", r"access denied \(AccessDenied\); check the credentials"),
        ("404", "the file does not exist, or was removed since it was listed"),
        ("cut", "the request failed 5 times, last with"),
    ],
)
def test_lasting_failure_of_an_image_ends_the_work(fault: str, message: str, server: S3Server) -> None:
    server.fault = lambda method, path: fault if path.endswith("train-2.png") else None
    with pytest.raises(StorageError, match=f"^s3://bucket/set/train/train-2.png: {message}"):
        open_data("s3://bucket/set").read("train")


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("503", "s3://bucket/set: the request failed 5 times"),
        ("403", "s3://bucket/set: access denied"),
        ("301", "s3://bucket/set: the bucket is in another region \\(eu-west-1\\); set AWS_REGION"),
    ],
)
def test_failure_of_the_list_is_an_input_error(fault: str, message: str, server: S3Server) -> None:
    server.fault = lambda method, path: fault
    with pytest.raises(FileError, match=f"^{message}"):
        open_data("s3://bucket/set")


def test_missing_credentials_and_buckets_are_reported(
    server: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(FileError, match="s3://other/set: no such bucket"):
        open_data("s3://other/set")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(FileError, match=r"s3://bucket/set: no credentials .*aws configure"):
        open_data("s3://bucket/set")


def test_interrupted_upload_to_s3_can_be_resumed(server: S3Server, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    longer = Config(steps=4, batch=2, workers=0, input_size=(64, 64), evaluations=2)
    train("s3://bucket/set", longer, out="s3://bucket/whole", weights="none")
    count = 0

    def fail(method: str, path: str) -> str | None:
        nonlocal count
        count += method == "PUT" and "/state/" in path
        return "403" if method == "PUT" and count >= 2 and LOCK_NAME not in path else None

    server.fault = fail
    with pytest.raises(StorageError, match=r"s3://bucket/part/.*access denied"):
        train("s3://bucket/set", longer, out="s3://bucket/part", weights="none")
    server.fault = lambda method, path: None
    assert len(server.names("bucket/part/state/")) == 1
    resume("s3://bucket/part")
    (last,) = {path.rpartition("/")[2] for path in server.names("bucket/part/state/00000004")}
    assert server.names(f"bucket/whole/state/{last[:8]}")
    assert f"bucket/part/{LOCK_NAME}" not in server.objects


@pytest.fixture
def moto(loopback: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Start moto's S3 server in a process of its own, and let S3 clients use it."""
    pytest.importorskip("moto.server")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with S3Server() as other:  # for its environment variables only
        for name, value in other.environment.items():
            monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            for _ in range(600):
                with suppress(OSError), socket.socket() as client:
                    client.connect(("127.0.0.1", port))
                    break
                time.sleep(0.1)
            yield
        finally:
            process.kill()


def test_moto_agrees_with_the_test_server(folder: Path, moto: None) -> None:
    s3fs = pytest.importorskip("s3fs")
    store = s3fs.S3FileSystem(skip_instance_cache=True)
    store.mkdir("bucket")
    store.put(f"{folder}/", "bucket/set/", recursive=True)
    assert fingerprint("s3://bucket/set") == fingerprint(folder)
    with output_place("s3://bucket/out") as place:
        (place / "a").write_bytes(b"1")
        with pytest.raises(FileError, match="another process is writing here"), output_place("s3://bucket/out"):
            pass
    assert store.find("bucket/out") == ["bucket/out/a"]
    with pytest.raises(FileError, match="s3://other/set: no such bucket"):
        open_data("s3://other/set")


def test_package_imports_fsspec_only_for_urls() -> None:
    code = "import sys, detector, detector.mirror, detector.remote_folder; assert 'fsspec' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
