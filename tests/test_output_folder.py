import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from detector.errors import FileError
from detector.files import LOCK_NAME
from detector.manifest import MANIFEST_NAME
from detector.output_folder import OutputFolder, claim_folder

NAMES = ("a.txt", "sub/b.txt")


def write(path: Path, text: str = "one", names: tuple[str, ...] = NAMES) -> None:
    """Write files into an output folder, as one command does."""
    with claim_folder(path, "writing", names=names) as folder:
        folder.remove_earlier()
        for name in names:
            folder.write(name, text.encode())


def files_in(path: Path) -> dict[str, str]:
    """Return name → content of all files in a folder, except the lock and the manifest."""
    files = (file for file in path.rglob("*") if file.is_file() and file.name not in (LOCK_NAME, MANIFEST_NAME))
    return {file.relative_to(path).as_posix(): file.read_text() for file in files}


def test_a_second_command_replaces_the_files_of_the_first(tmp_path: Path) -> None:
    write(tmp_path / "out")
    write(tmp_path / "out", "two", ("a.txt", "c/d.txt"))
    assert files_in(tmp_path / "out") == {"a.txt": "two", "c/d.txt": "two"}
    assert not (tmp_path / "out" / "sub").exists()


def test_claiming_a_folder_changes_no_file_in_it(tmp_path: Path) -> None:
    write(tmp_path)
    before = (tmp_path / MANIFEST_NAME).read_bytes()
    claim_folder(tmp_path, "writing", names=NAMES).close()
    assert (tmp_path / MANIFEST_NAME).read_bytes() == before
    claim_folder(tmp_path / "new", "writing", names=NAMES).close()
    assert not (tmp_path / "new").exists(), "a command that wrote nothing leaves no folder"


def test_results_of_another_command_are_not_removed(tmp_path: Path) -> None:
    write(tmp_path)
    with pytest.raises(FileError, match=r"another command \(writing\).*--overwrite"):
        claim_folder(tmp_path, "training")
    assert files_in(tmp_path) == dict.fromkeys(NAMES, "one")
    with claim_folder(tmp_path, "training", overwrite=True) as folder:
        folder.write("c.txt", b"two")
        folder.remove_earlier()
    assert files_in(tmp_path) == {"c.txt": "two"}
    with pytest.raises(FileError, match="training"):
        write(tmp_path)


def plant_file(path: Path) -> None:
    path.write_text("mine")


def plant_link(path: Path) -> None:
    (path.parents[1] / "photo").write_text("mine")
    path.symlink_to(path.parents[1] / "photo")


def plant_link_to_nowhere(path: Path) -> None:
    path.symlink_to(path.parents[1] / "nowhere")


@pytest.mark.parametrize(
    ("plant", "reason"),
    [
        (plant_file, "was not written by this program"),
        (plant_link, "is a link to .*photo"),
        (plant_link_to_nowhere, "is a link to .*nowhere"),
    ],
)
def test_foreign_files_and_links_are_refused(tmp_path: Path, plant: Callable[[Path], None], reason: str) -> None:
    out = tmp_path / "out"
    out.mkdir()
    plant(out / "a.txt")
    with pytest.raises(FileError, match=rf"a\.txt: {reason}, so it is not overwritten; .* --overwrite"):
        write(out)
    with claim_folder(out, "writing") as folder, pytest.raises(FileError, match="so it is not overwritten"):
        folder.write("a.txt", b"new")
    with claim_folder(out, "writing", names=NAMES, overwrite=True) as folder:
        folder.write("a.txt", b"new")
    assert (out / "a.txt").read_text() == "new"
    assert not (out / "a.txt").is_symlink()
    assert {file.name for file in tmp_path.iterdir()} - {"photo"} == {"out"}
    assert not (tmp_path / "photo").exists() or (tmp_path / "photo").read_text() == "mine"


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_link_in_the_place_of_a_subfolder_is_refused(tmp_path: Path, overwrite: bool) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "private").mkdir()
    (tmp_path / "out" / "sub").symlink_to(tmp_path / "private")
    with pytest.raises(FileError, match=r"sub: is a link to .*private, so nothing is written there"):
        claim_folder(tmp_path / "out", "writing", names=NAMES, overwrite=overwrite)
    assert not list((tmp_path / "private").iterdir())


def test_links_down_to_the_folder_are_followed(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "disk")
    write(tmp_path / "out")
    assert set(files_in(tmp_path / "disk")) == set(NAMES)


def test_a_changed_file_stays_and_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path)
    (tmp_path / "a.txt").write_text("my notes")
    (tmp_path / "other").write_text("mine")
    with pytest.raises(FileError, match=r"a\.txt: was changed after it was written, so it is not overwritten"):
        write(tmp_path, "two")
    assert files_in(tmp_path) == {"a.txt": "my notes", "sub/b.txt": "one", "other": "mine"}
    write(tmp_path, "two", ("c.txt",))
    assert files_in(tmp_path) == {"a.txt": "my notes", "c.txt": "two", "other": "mine"}
    assert "2 files not written by this program or changed since, and kept: a.txt, other" in caplog.text


def test_a_file_with_another_time_is_compared_by_its_hash(tmp_path: Path) -> None:
    write(tmp_path)
    os.utime(tmp_path / "a.txt", (1, 1))
    write(tmp_path, "two")
    (tmp_path / "a.txt").write_text("six")  # the same size
    os.utime(tmp_path / "a.txt", (1, 1))
    with pytest.raises(FileError, match="was changed after it was written"):
        write(tmp_path)


def test_overwrite_removes_what_the_manifest_lists(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "a.txt").write_text("changed")
    (tmp_path / "other").write_text("mine")
    with claim_folder(tmp_path, "writing", overwrite=True) as folder:
        folder.remove_earlier()
    assert files_in(tmp_path) == {"other": "mine"}


def test_a_growing_file_counts_as_own_until_it_is_sealed(tmp_path: Path) -> None:
    for _ in range(2):
        with claim_folder(tmp_path, "writing", names=["log"]) as folder, folder.beginning("log") as part:
            part.write_text("one\n")
        with (tmp_path / "log").open("a") as file:
            file.write("two\n")
    folder.seal("log")
    (tmp_path / "log").write_text("mine")
    with pytest.raises(FileError, match="log: was changed after it was written"):
        claim_folder(tmp_path, "writing", names=["log"])
    with claim_folder(tmp_path, "writing") as folder:
        folder.vouch("log")
        folder.write("log", b"new")
        (tmp_path / "log").rename(tmp_path / "mine")
        (tmp_path / "log").symlink_to("mine")
        with pytest.raises(FileError, match="log: is a link to mine"):
            folder.vouch("log")


def _write_half(path: Path) -> None:
    """Write a part of a.txt and raise an error."""
    with claim_folder(path, "writing") as folder, folder.writing("a.txt") as part:
        part.write_text("incomplete")
        _ = 1 / 0


def test_a_failed_write_leaves_the_file_before(tmp_path: Path) -> None:
    write(tmp_path)
    with pytest.raises(ZeroDivisionError):
        _write_half(tmp_path)
    assert files_in(tmp_path) == dict.fromkeys(NAMES, "one")
    (tmp_path / "a.txt").write_text("mine")
    with pytest.raises(FileError, match="was changed"):
        write(tmp_path)


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_failed_write_makes_no_foreign_file_own(tmp_path: Path, overwrite: bool) -> None:
    if overwrite:
        (tmp_path / "a.txt").write_text("mine")
    folder = claim_folder(tmp_path, "writing", overwrite=overwrite)
    with folder, pytest.raises(ZeroDivisionError), folder.writing("a.txt"):
        _ = 1 / 0
    (tmp_path / "a.txt").write_text("mine")
    with pytest.raises(FileError, match="was not written by this program"):
        write(tmp_path)
    assert files_in(tmp_path) == {"a.txt": "mine"}


def test_an_abandoned_file_makes_no_foreign_file_own(tmp_path: Path) -> None:
    with claim_folder(tmp_path, "writing") as folder:
        part = folder.part_of("a.mp4", ".mp4")
        part.write_text("half")
        folder.abandon("a.mp4", part)
    (tmp_path / "a.mp4").write_text("mine")
    with claim_folder(tmp_path, "writing") as folder, pytest.raises(FileError, match="was not written by this program"):
        folder.write("a.mp4", b"new")
    assert files_in(tmp_path) == {"a.mp4": "mine"}


_KILLED_AT_MANY_LINES = """
import os, signal, sys
from pathlib import Path
from detector.output_folder import claim_folder

def trace(frame, event, argument):
    global left
    if event == "line" and "/detector/" in frame.f_code.co_filename:
        left -= 1
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)
    return trace

for line in range(1, 2000, 17):
    if not (child := os.fork()):
        left = line
        sys.settrace(trace)
        for text in (b"one", b"two"):
            with claim_folder(Path(sys.argv[1], str(line)), "writing") as folder:
                folder.remove_earlier()
                folder.write("a.txt", text)
                with folder.beginning("sub/b.txt") as part:
                    part.write_bytes(text)
                folder.seal("sub/b.txt")
        sys.settrace(None)
        os._exit(0)
    if not os.waitpid(child, 0)[1]:
        break
"""


@pytest.mark.posix
def test_a_command_killed_at_many_lines_can_be_repeated(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(Path.cwd())}
    subprocess.run([sys.executable, "-c", _KILLED_AT_MANY_LINES, str(tmp_path)], env=environment, check=True)
    killed = sorted(tmp_path.iterdir())
    assert len(killed) > 20
    for out in killed:
        write(out, "three")
        assert files_in(out) == dict.fromkeys(NAMES, "three")
        assert {file.name for file in out.iterdir()} <= {LOCK_NAME, MANIFEST_NAME, "a.txt", "sub"}


def test_only_own_temporary_files_are_removed(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "a.txt.part").write_text("mine")
    (tmp_path / ".0123456789abcdef.part").write_text("mine")
    lines = [json.loads(line) for line in (tmp_path / MANIFEST_NAME).read_text().splitlines()]
    own = next(line["part"] for line in lines if "part" in line)
    (tmp_path / "sub" / f"{own}7.mp4").write_text("left over")
    write(tmp_path, "two")
    foreign = {"a.txt.part": "mine", ".0123456789abcdef.part": "mine"}
    assert files_in(tmp_path) == dict.fromkeys(NAMES, "two") | foreign


@pytest.mark.parametrize("content", [b"mine\n", b"{}\n", b'{"format": "other"}\n', b"\n"])
def test_a_foreign_manifest_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / MANIFEST_NAME).write_bytes(content)
    with pytest.raises(FileError, match="not a manifest of this program"):
        write(tmp_path)
    assert (tmp_path / MANIFEST_NAME).read_bytes() == content


def test_a_manifest_or_lock_behind_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("precious")
    for name in (MANIFEST_NAME, LOCK_NAME):
        (tmp_path / "out").mkdir(exist_ok=True)
        (tmp_path / "out" / name).symlink_to(tmp_path / "mine")
        with pytest.raises(FileError, match=name):
            write(tmp_path / "out")
        shutil.rmtree(tmp_path / "out")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / LOCK_NAME).write_text("precious")
    with pytest.raises(FileError, match="not a lock of this program"):
        write(tmp_path / "out")
    assert (tmp_path / "out" / LOCK_NAME).read_text() == (tmp_path / "mine").read_text() == "precious"


def test_damaged_lines_of_a_manifest_prove_nothing(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "a.txt").write_text("mine")
    lines = [
        '{"format": "detector-manifest-1"}',
        '{"name": "../a.txt"}',
        '{"name": "a.txt", "sha256": 1}',
        "[",
        "7",
        "",
    ]
    (tmp_path / "out" / MANIFEST_NAME).write_text("\n".join([*lines, '{"part": "*"}', '{"name": "' + str(tmp_path)]))
    (tmp_path / "out" / "a.txt").write_text("mine")
    with claim_folder(tmp_path / "out", "writing", overwrite=True) as folder:
        folder.remove_earlier()
        assert sorted(folder.foreign_files()) == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "mine"


def test_files_of_an_older_version_are_adopted(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("old")
    with claim_folder(tmp_path, "writing") as folder:
        assert folder.is_foreign()
        folder.adopt(NAMES)
        folder.write("a.txt", b"new")
    assert isinstance(folder, OutputFolder)
    assert files_in(tmp_path) == {"a.txt": "new"}
