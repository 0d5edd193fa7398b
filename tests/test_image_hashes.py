import hashlib
import json
import os
from pathlib import Path

import pytest

from detector.errors import InputError
from detector.image_hashes import NO_IMAGES, ImageHashes, hash_file, hashes_from_json
from detector.weights_info import WeightsInfo, from_metadata, to_metadata

HASHES = ImageHashes(frozenset({b"12345678", bytes(8)}), frozenset({b"\xff" * 8}))
INFO = WeightsInfo("pico", ("a",), (1,), (32, 32), {}, {}, HASHES)


def test_hash_depends_on_the_bytes_only(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(b"content")
    expected = hashlib.blake2b(b"content", digest_size=8).digest()
    assert hash_file(tmp_path / "a") == hash_file(tmp_path / "b") == expected


@pytest.mark.posix
def test_files_that_cannot_be_read_have_no_hash(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "missing", tmp_path / "pipe", Path("a\0b")):
        assert hash_file(path) is None


def test_metadata_keeps_the_hashes() -> None:
    assert from_metadata(to_metadata(INFO), "w") == INFO
    assert json.loads(to_metadata(INFO)["image_hashes"])["val"] == "//////////8="


def test_metadata_of_older_versions_has_no_hashes() -> None:
    metadata = to_metadata(INFO)
    del metadata["image_hashes"]
    assert from_metadata(metadata, "w").image_hashes == NO_IMAGES


@pytest.mark.parametrize(
    "text",
    ["1", "null", "{", "[]", '{"train": ""}', '{"train": "", "val": 3}', '{"train": "", "val": "AAAA"}',
     '{"train": "?", "val": ""}', '{"train": "", "val": "", "more": ""}'],
)  # fmt: skip
def test_damaged_hashes_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="the metadata is damaged"):
        from_metadata(to_metadata(INFO) | {"image_hashes": text}, "w")


def test_hashes_are_not_printed() -> None:
    assert "image_hashes" not in repr(INFO)
    assert hashes_from_json(HASHES.to_json()) == HASHES
