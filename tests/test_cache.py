"""Tests of the cache: entries are read as written, damage is detected, size is limited, other users are shut out."""

import os
import stat
import threading
import time
from pathlib import Path

import pytest

from detector import cache
from detector.cache import SWITCH, cache_key, read_entry, write_entry

KEY, OTHER = cache_key("a", 1), cache_key("b", None)
UNIX_ROOT = os.name == "posix" and os.geteuid() == 0


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Use a cache in a temporary folder, and return its folder, which does not exist yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.delenv(SWITCH, raising=False)
    cache._warn_unsafe.cache_clear()
    return tmp_path / "xdg" / "detector"


def test_entry_is_read_as_it_was_written(folder: Path) -> None:
    assert read_entry(KEY) is None
    write_entry(KEY, b"one")
    write_entry(OTHER, b"")
    assert (read_entry(KEY), read_entry(OTHER)) == (b"one", b"")
    write_entry(KEY, b"two")
    assert read_entry(KEY) == b"two"
    assert {path.name for path in folder.iterdir()} == {KEY, OTHER}


def test_key_depends_on_every_part() -> None:
    keys = [cache_key("a", 1), cache_key("a", "1"), cache_key("a1"), cache_key("a", None), cache_key("a", 1, None)]
    assert len(set(keys)) == len(keys)
    assert all(len(key) == 64 for key in keys)


def test_without_the_variable_the_home_folder_is_used(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for value in (None, "", "relative/path"):
        if value is None:
            monkeypatch.delenv("XDG_CACHE_HOME")
        else:
            monkeypatch.setenv("XDG_CACHE_HOME", value)
        write_entry(KEY, b"x")
        assert (tmp_path / ".cache" / "detector" / KEY).is_file()
        (tmp_path / ".cache" / "detector" / KEY).unlink()


@pytest.mark.parametrize("position", [0, 31, 32, -1])
def test_damaged_entry_is_reported_and_removed(position: int, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_entry(KEY, b"some data")
    content = bytearray((folder / KEY).read_bytes())
    content[position] ^= 1
    (folder / KEY).write_bytes(content)
    assert read_entry(KEY) is None
    assert "damaged" in caplog.text
    assert not (folder / KEY).exists()


@pytest.mark.parametrize("size", [0, 5, 32, 40])
def test_truncated_entry_is_not_used(size: int, folder: Path) -> None:
    write_entry(KEY, b"some data")
    (folder / KEY).write_bytes((folder / KEY).read_bytes()[:size])
    assert read_entry(KEY) is None


def test_entry_under_the_name_of_another_is_not_used(folder: Path) -> None:
    write_entry(KEY, b"data")
    (folder / KEY).rename(folder / OTHER)
    assert read_entry(OTHER) is None


def test_entries_unused_for_longest_are_removed_first(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "MAX_BYTES", 3 * 132)
    keys = [cache_key(number) for number in range(4)]
    for age, key in enumerate(keys[:3]):
        write_entry(key, bytes(100))
        os.utime(folder / key, (1000 + age, 1000 + age))
    assert read_entry(keys[0]) == bytes(100)  # now the entry used last
    (folder / "notes.txt").write_text("a file of someone else" * 100)
    os.utime(folder / "notes.txt", (1, 1))
    write_entry(keys[3], bytes(100))
    assert [read_entry(key) is not None for key in keys] == [True, False, True, True]
    assert (folder / "notes.txt").exists()


def test_data_above_the_limit_are_not_stored(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "MAX_BYTES", 200)
    write_entry(KEY, b"small")
    write_entry(OTHER, bytes(200))
    assert (read_entry(KEY), read_entry(OTHER)) == (b"small", None)


def test_only_old_temporary_files_are_removed(folder: Path) -> None:
    write_entry(KEY, b"x")
    new, old = folder / f"{OTHER}.abc.part", folder / f"{OTHER}.def.part"
    for path in (new, old):
        path.write_bytes(b"half")
    os.utime(old, (time.time() - 7200,) * 2)
    write_entry(KEY, b"y")
    assert (new.exists(), old.exists()) == (True, False)


@pytest.mark.parametrize("value", ["off", "0", "False"])
def test_switch_turns_the_cache_off(value: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_entry(KEY, b"x")
    monkeypatch.setenv(SWITCH, value)
    assert read_entry(KEY) is None
    write_entry(OTHER, b"y")
    assert not (folder / OTHER).exists()


def test_home_that_cannot_be_written_is_no_error(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    for base in (tmp_path / "file" / "xdg", Path("/proc/nowhere"), tmp_path / ("x" * 300)):
        monkeypatch.setenv("XDG_CACHE_HOME", str(base))
        write_entry(KEY, b"x")
        assert read_entry(KEY) is None
    assert not caplog.text


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_new_folder_is_closed_to_other_users(folder: Path) -> None:
    write_entry(KEY, b"x")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / KEY).stat().st_mode) == 0o600


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
@pytest.mark.parametrize("mode", [0o777, 0o770, 0o1777])
def test_folder_in_which_others_can_write_is_not_used(
    mode: int, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_entry(KEY, b"x")
    folder.chmod(mode)
    assert read_entry(KEY) is None
    assert "another user" in caplog.text
    folder.chmod(0o755)
    assert read_entry(KEY) == b"x"


@pytest.mark.skipif(not UNIX_ROOT, reason="only root can give files away")
@pytest.mark.parametrize("part", ["folder", "entry", "link"])
def test_files_of_another_user_are_not_used(part: str, folder: Path, tmp_path: Path) -> None:
    write_entry(KEY, b"x")
    if part == "link":
        folder.rename(tmp_path / "elsewhere")
        folder.symlink_to(tmp_path / "elsewhere")
        assert read_entry(KEY) == b"x"  # a link of this user
    os.chown({"folder": folder, "entry": folder / KEY, "link": folder}[part], 65534, 65534, follow_symlinks=False)
    assert read_entry(KEY) is None


@pytest.mark.posix
def test_entry_that_is_a_link_or_a_pipe_is_not_used(folder: Path) -> None:
    write_entry(KEY, b"x")
    (folder / KEY).rename(folder / "moved")
    (folder / KEY).symlink_to(folder / "moved")
    assert read_entry(KEY) is None
    os.mkfifo(folder / OTHER)
    assert read_entry(OTHER) is None


def test_writers_and_readers_at_once_see_whole_entries(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "MAX_BYTES", 2500)  # so that entries vanish all the time
    keys = [cache_key(number) for number in range(4)]
    wrong: list[object] = []

    def work(seed: int) -> None:
        for turn in range(60):
            number = (turn * 7 + seed) % 4
            write_entry(keys[number], bytes([number]) * 800)
            if read_entry(keys[seed]) not in (None, bytes([seed]) * 800):
                wrong.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert len(list(folder.iterdir())) <= 4
