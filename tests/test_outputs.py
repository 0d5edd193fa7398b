import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detector.errors import FileError
from detector.outputs import SIGNATURE_KEY, UNSIGNED, claim_file, is_signed, sign, signed_json, write_file
from detector.outputs import write_signed_json as write

VALUES: dict[str, Any] = {"AP": 0.5, "n": [1, 2]}
ROWS: list[dict[str, Any]] = [{"image_id": 4, "score": 0.5}, {"image_id": 5, "score": 0.25}]


@given(st.binary(max_size=40), st.binary(max_size=40), st.data())
def test_any_changed_byte_breaks_the_signature(before: bytes, after: bytes, data: st.DataObject) -> None:
    signed = bytearray(sign(before + UNSIGNED.encode() + after))
    assert is_signed(bytes(signed))
    position = data.draw(st.integers(0, len(signed) - 1))
    signed[position] ^= data.draw(st.integers(1, 255))
    assert not is_signed(bytes(signed))


def test_signed_json_holds_the_same_values() -> None:
    first, *others = json.loads(signed_json(ROWS))
    assert [{key: first[key] for key in first if key != SIGNATURE_KEY}, *others] == ROWS
    assert list(first) == ["image_id", "score", SIGNATURE_KEY]
    values = json.loads(signed_json(VALUES))
    assert list(values) == [SIGNATURE_KEY, "AP", "n"]
    assert is_signed(signed_json(json.loads(signed_json(ROWS))))
    assert signed_json(json.loads(signed_json(ROWS))) == signed_json(ROWS)


@pytest.mark.parametrize("values", [VALUES, ROWS, []])
def test_an_own_file_is_replaced(tmp_path: Path, values: Any) -> None:
    path = tmp_path / "new" / "a.json"
    for _ in range(2):
        claim_file(path)
        write(path, values)
    assert list(path.parent.iterdir()) == [path]


def test_an_empty_file_may_be_filled(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    claim_file(tmp_path / "a")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"[1]", "was not written by this program"),
        (b"[ ]", "was not written by this program"),
        (signed_json(VALUES).replace(b"0.5", b"0.6"), "was changed after it was written"),
        (signed_json(ROWS) + b" ", "was changed after it was written"),
    ],
)
def test_foreign_and_changed_files_are_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(FileError, match=rf"a\.json: {reason}, so it is not overwritten; .*--overwrite"):
        claim_file(path)
    assert path.read_bytes() == content
    claim_file(path, overwrite=True)
    write(path, VALUES)
    claim_file(path)


@pytest.mark.parametrize("target", ["foreign", "own", "nowhere"])
def test_a_link_is_never_written_through(tmp_path: Path, target: str) -> None:
    content = {"foreign": b"mine", "own": signed_json(VALUES), "nowhere": None}[target]
    if content is not None:
        (tmp_path / "target").write_bytes(content)
    (tmp_path / "a").symlink_to(tmp_path / "target")
    with pytest.raises(FileError, match=r"a: is a link to .*target, so it is not overwritten"):
        claim_file(tmp_path / "a")
    claim_file(tmp_path / "a", overwrite=True)
    write(tmp_path / "a", ROWS)
    assert not (tmp_path / "a").is_symlink()
    assert ((tmp_path / "target").read_bytes() if content else None) == content


def test_a_link_to_the_folder_of_a_file_is_followed(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "disk")
    claim_file(tmp_path / "out" / "a")
    write(tmp_path / "out" / "a", ROWS)
    assert is_signed((tmp_path / "disk" / "a").read_bytes())


def test_inputs_of_the_command_are_never_outputs(tmp_path: Path) -> None:
    write(tmp_path / "a", VALUES)
    (tmp_path / "b").hardlink_to(tmp_path / "a")
    for other in ("a", "b", "../" + tmp_path.name + "/a"):
        with pytest.raises(FileError, match="the same command also uses this file"):
            claim_file(tmp_path / "a", overwrite=True, inputs=[None, tmp_path / other])
    with pytest.raises(FileError, match="the same command also uses this file"):
        claim_file(tmp_path / "new", inputs=[tmp_path / "new"])


def test_a_folder_and_a_read_only_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="because it is a folder"):
        claim_file(tmp_path, overwrite=True)
    claim_file(None)


@pytest.mark.parametrize("redirect", [">", ">>", "|"])
def test_standard_output_can_be_named_as_a_file(tmp_path: Path, redirect: str) -> None:
    code = (
        "from pathlib import Path; from detector.outputs import *\nprint('before')\n"
        "claim_file(Path('/dev/stdout')); write_file(Path('/dev/stdout'), b'data\\n'); print('after')"
    )
    (tmp_path / "out").write_text("first\n")
    command = f'{sys.executable} -c "$0" {redirect} {"cat > out" if redirect == "|" else "out"}'
    subprocess.run(
        ["sh", "-c", command, code], cwd=tmp_path, check=True, env=os.environ | {"PYTHONPATH": str(Path.cwd())}
    )
    expected = "before\ndata\nafter\n"
    assert (tmp_path / "out").read_text() == ("first\n" if redirect == ">>" else "") + expected


@pytest.mark.linux
def test_devices_are_written_directly(tmp_path: Path) -> None:
    for name in ("/dev/null", f"/dev/fd/{os.open(tmp_path / 'a', os.O_CREAT | os.O_WRONLY)}"):
        claim_file(Path(name))
        write_file(Path(name), b"x")
    assert (tmp_path / "a").read_bytes() == b"x"
    with pytest.raises(FileError, match=r"/dev/full: cannot be written \(No space left"):
        write_file(Path("/dev/full"), b"x")
