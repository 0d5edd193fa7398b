"""An archive in place of a dataset is named as one, with the command that unpacks it."""

import gzip
import shlex
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest

from detector.cli.commands import main
from detector.data.archives import archive_message
from detector.data.open_data import open_data
from detector.errors import LabelError


@pytest.mark.parametrize("name", ["d.zip", "my data.ZIP", "download", "d.v2.yolov8.zip"])
def test_zip_is_named_with_the_command_for_it(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("data.yaml", "names: [a]")
    with pytest.raises(LabelError, match="is a zip archive") as error:
        open_data(path)
    command = shlex.split(str(error.value).partition("; to unpack: ")[2])
    assert command[:3] == ["unzip", str(path), "-d"]
    assert not Path(command[3]).exists()
    path.write_bytes(path.read_bytes()[:40])  # an incomplete download
    assert "is a zip archive" in (archive_message(path) or "")


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_tar_command_unpacks_the_archive(mode: str, tmp_path: Path) -> None:
    (tmp_path / "a b.txt").write_text("x")
    path = tmp_path / "my set.tar.gz"
    with tarfile.open(path, mode) as file:  # type: ignore[call-overload]
        file.add(tmp_path / "a b.txt", "a b.txt")
    message = archive_message(path)
    assert message is not None
    assert "is a tar archive" in message
    subprocess.run(message.partition("; to unpack: ")[2], shell=True, check=True, timeout=20)
    assert (tmp_path / "my set" / "a b.txt").read_text() == "x"


def test_other_archives_are_recognized_by_content(tmp_path: Path) -> None:
    for name, data in {"7z archive": b"7z\xbc\xaf\x27\x1c..", "RAR archive": b"Rar!\x1a\x07\x01\x00"}.items():
        (tmp_path / "x").write_bytes(data)
        assert name in (archive_message(tmp_path / "x") or "")
    (tmp_path / "labels.json.gz").write_bytes(gzip.compress(b"{}" * 400))
    assert "gzip file" in (archive_message(tmp_path / "labels.json.gz") or "")


@pytest.mark.parametrize("data", [b"", b"\0" * 2000, b"{}", b"names: [a]\n", b"P" * 600])
def test_label_files_are_not_archives(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(data)
    assert archive_message(tmp_path / "x") is None
    assert archive_message(tmp_path) is None
    assert archive_message(tmp_path / "missing") is None


@pytest.mark.parametrize(
    "command", [["train", "--data"], ["check", "--data"], ["evaluate", "--weights", "cells", "--data"], ["convert"]]
)
def test_every_command_names_a_zip(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with zipfile.ZipFile("d.zip", "w") as file:
        file.writestr("a.txt", "")
    rest = ["--to", "coco", "--out", "new"] if command == ["convert"] else []
    assert main([*command, "d.zip", *rest]) == 2
    error = capsys.readouterr().err
    assert "d.zip: is a zip archive" in error
    assert "unzip " in error
