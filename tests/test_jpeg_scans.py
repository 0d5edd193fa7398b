"""Tests of the limit on scans of a JPEG file: it refuses files made to waste time, and no file of an image program."""

import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detector.errors import ImageError
from detector.images import read_image, read_thumbnail, to_rgb
from detector.jpeg_scans import MAX_SCANS, count_scans

TOO_MANY = f"the JPEG file has more than {MAX_SCANS} scans"


def jpeg(side: int = 64, **options: bool | bytes) -> bytes:
    file = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (side, side, 3), dtype=np.uint8)
    Image.fromarray(noise).save(file, "JPEG", **options)
    return file.getvalue()


def jpeg_with_scans(count: int, between: bytes = b"") -> bytes:
    """Return a progressive JPEG with `count` scans: its last scan is repeated, with `between` before each copy."""
    data = jpeg(progressive=True)
    starts = [match.start() for match in re.finditer(b"\xff\xda", data)]
    last = between + data[starts[-1] : -2]
    return data[:-2] + last * (count - len(starts)) + b"\xff\xd9"


def test_files_of_an_encoder_have_few_scans() -> None:
    assert count_scans(jpeg()) == 1
    assert count_scans(jpeg(progressive=True)) == 10  # libjpeg's script for three components
    gray = io.BytesIO()
    Image.new("L", (64, 64)).save(gray, "JPEG", progressive=True)
    assert count_scans(gray.getvalue()) == 6


def test_scans_inside_other_segments_do_not_count() -> None:
    comment = b"\xff\xda" * 5000
    data = jpeg(progressive=True, comment=comment)
    assert data.count(b"\xff\xda") > 5000
    assert count_scans(data) == 10
    assert read_image(data).shape == (64, 64, 3)
    thumbnail = jpeg_with_scans(MAX_SCANS + 1)  # after the end of the image, as cameras store previews
    assert count_scans(jpeg() + thumbnail) == 1


@pytest.mark.parametrize("between", [b"", b"\xff\x01", b"\xff\xd0", b"\xff\xff\xff", b"\xff\xfe\0\x04\xff\xda", b"abc"])
def test_limit_is_exact(between: bytes) -> None:
    assert count_scans(jpeg_with_scans(MAX_SCANS, between)) == MAX_SCANS
    assert count_scans(jpeg_with_scans(MAX_SCANS + 1, between)) > MAX_SCANS
    assert count_scans(jpeg_with_scans(5000, between)) > MAX_SCANS


def test_image_with_as_many_scans_as_allowed_is_read() -> None:
    assert np.array_equal(read_image(jpeg_with_scans(MAX_SCANS - 1))[:8], read_image(jpeg_with_scans(MAX_SCANS))[:8])


def test_every_way_to_read_an_image_refuses_too_many_scans(tmp_path: Path) -> None:
    data = jpeg_with_scans(MAX_SCANS + 1)
    path = tmp_path / "a.jpg"
    path.write_bytes(data)
    with pytest.raises(ImageError, match=f"<bytes>: {TOO_MANY}"):
        read_image(data)
    with pytest.raises(ImageError, match=f"a.jpg: {TOO_MANY}"):
        read_image(path)
    with pytest.raises(ImageError, match=f"a.jpg: {TOO_MANY}"):
        read_thumbnail(path, 32)
    with Image.open(path) as image, pytest.raises(ImageError, match=TOO_MANY):
        to_rgb(image)
    path.write_bytes(data[:-2])  # without the end marker, as a truncated file
    with pytest.raises(ImageError, match=f"a.jpg: {TOO_MANY}"):
        read_image(path)


def test_opened_image_is_decoded_after_the_count(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(jpeg(progressive=True))
    with Image.open(path) as image:
        assert np.array_equal(to_rgb(image), read_image(path))
    with Image.open(path) as image:
        image.load()
        assert np.array_equal(to_rgb(image), read_image(path))
