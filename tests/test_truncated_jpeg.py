import contextlib
import io
import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detector.errors import ImageError
from detector.images import is_truncated, read_image, read_thumbnail
from detector.truncated_jpeg import close_jpeg, missing_rows

HEIGHT = 480
STYLES = {"sequential": {}, "optimized": {"optimize": True}, "progressive": {"progressive": True}}


def blocks() -> Image.Image:
    colors = np.random.default_rng(0).integers(0, 255, (HEIGHT // 16, 40, 3))
    return Image.fromarray(np.kron(colors, np.ones((16, 16, 1))).astype(np.uint8))


def jpeg(style: str, image: Image.Image | None = None) -> bytes:
    buffer = io.BytesIO()
    (image or blocks()).save(buffer, "JPEG", **STYLES[style])
    return buffer.getvalue()


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("cut", [1, 2, 3, 5, 20, 60])
def test_a_jpeg_without_its_last_bytes_is_read(
    style: str, cut: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(jpeg(style))
    complete = read_image(path).astype(int)
    assert not is_truncated(path)
    path.write_bytes(jpeg(style)[:-cut])
    image = read_image(path)
    assert is_truncated(path)
    assert np.abs(image[: HEIGHT - 40] - complete[: HEIGHT - 40]).max() <= (25 if style == "progressive" else 0)
    assert f"{path}: the file lacks its last bytes" in caplog.text
    assert read_thumbnail(path, 8).shape == (8, 8, 3)
    path.write_bytes(jpeg(style))
    read_image(path)
    assert not is_truncated(path)


def test_the_missing_part_is_gray_and_is_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = jpeg("sequential")
    (tmp_path / "a.jpg").write_bytes(data[: len(data) * 9 // 10])
    image = read_image(tmp_path / "a.jpg")
    gray = (image == 128).all(axis=(1, 2))
    rows = int(gray.sum())
    assert 24 <= rows <= 72
    assert gray[-rows:].all()
    assert f"the last {rows} of {HEIGHT} rows of pixels are gray" in caplog.text


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("fraction", [0.02, 0.1, 0.4, 0.6])
def test_a_jpeg_that_lacks_much_is_an_error(style: str, fraction: float, tmp_path: Path) -> None:
    data = jpeg(style)
    (tmp_path / "a.jpg").write_bytes(data[: round(len(data) * fraction)])
    with pytest.raises(ImageError, match=r"a\.jpg: .*cannot be decoded"):
        read_image(tmp_path / "a.jpg")
    assert not is_truncated(tmp_path / "a.jpg")


def test_a_truncated_jpeg_in_memory_is_an_error() -> None:
    with pytest.raises(ImageError, match="cannot be decoded"):
        read_image(jpeg("sequential")[:-20])


def test_missing_colors_of_a_truncated_jpeg_are_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(jpeg("sequential", blocks().convert("CMYK"))[:-20])
    with pytest.raises(ImageError, match="cannot be decoded"):
        read_image(path)


@pytest.mark.parametrize("style", STYLES)
def test_only_a_jpeg_without_end_is_closed(style: str) -> None:
    data = jpeg(style)
    assert close_jpeg(data) is None
    assert close_jpeg(data + b"trailing bytes") is None
    assert close_jpeg(data[:150]) is None
    assert close_jpeg(b"\x89PNG") is None
    closed = close_jpeg(data[:-2])
    assert closed == data


def test_a_gray_image_counts_as_missing() -> None:
    assert missing_rows(np.full((4, 5, 3), 128, np.uint8)) == 4
    image = np.full((4, 5), 128, np.uint8)
    image[1, 2] = 0
    assert missing_rows(image) == 2


@pytest.mark.parametrize("style", STYLES)
def test_every_cut_gives_an_image_or_an_image_error(style: str, tmp_path: Path) -> None:
    logging.disable()
    data = jpeg(style, blocks().resize((40, 30)))
    path = tmp_path / "a.jpg"
    for length in range(1, len(data), 7):
        path.write_bytes(data[:length])
        with contextlib.suppress(ImageError):
            assert read_image(path).shape == (30, 40, 3)
    logging.disable(logging.NOTSET)
