"""Read images in every combination of format, mode and orientation: each gives what a viewer shows, or a clear error.

`SUPPORTED` lists the modes that a format supports. For all other modes, the tests check that the format does not
support them. So no combination is left out.
"""

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from detector.config import Config
from detector.data.open_data import open_data
from detector.errors import InputError
from detector.images import read_image, read_image_size, read_thumbnail, to_rgb
from detector.loader.dataset import DetectionDataset
from detector.media.sources import find_sources

Array = npt.NDArray[Any]

SUPPORTED = {
    "JPEG": ("L", "RGB", "CMYK"),
    "PNG": ("L", "LA", "RGB", "RGBA", "P", "P, one transparent", "I;16"),
    "WEBP": ("RGB", "RGBA"),
    "TIFF": ("L", "LA", "RGB", "RGBA", "P", "CMYK", "I;16", "F"),
    "BMP": ("L", "RGB", "P"),
}
"""Format → supported modes. The fourth channel of BMP is unused; TIFF has no transparent palette color."""

MODES = ("L", "LA", "RGB", "RGBA", "P", "P, one transparent", "CMYK", "I;16", "F")
CHANNELS = {"LA": 2, "RGB": 3, "RGBA": 4, "CMYK": 4}
HW = (12, 20)
TRANSPARENT = 5
PALETTE = np.random.default_rng(1).integers(0, 256, (16, 3), dtype=np.uint8)

# Orientation (EXIF 2.32, tag 0x0112) → function that maps the image that a viewer shows to the pixels in the file.
STORED: dict[int, Callable[[Array], Array]] = {
    1: lambda upright: upright,
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.swapaxes(0, 1),
    6: lambda upright: np.rot90(upright, 1),
    7: lambda upright: upright[::-1, ::-1].swapaxes(0, 1),
    8: lambda upright: np.rot90(upright, -1),
}


def upright_in(mode: str) -> Array:
    """Return pixels [H, W] or [H, W, channels] that change slowly, and differently in each axis and channel."""
    y, x = np.mgrid[: HW[0], : HW[1]] / 20
    waves = [x, y, 0.5 + 0.3 * np.sin(4 * x + y), 0.3 + 0.3 * x]
    if mode.startswith("P"):
        return np.asarray((40 * x + 7 * y) % 16, dtype=np.uint8)
    if mode == "I;16":
        return np.asarray(65535 * x, dtype=np.uint16)
    if mode == "F":
        return np.asarray(x, dtype=np.float32)
    image = np.stack(waves[: CHANNELS.get(mode, 1)], axis=2)
    return np.asarray(255 * image.squeeze(), dtype=np.uint8)


def shown(mode: str) -> Array:
    """Return the RGB image [H, W, 3] that a viewer shows for `upright_in(mode)`, computed without Pillow."""
    pixels = upright_in(mode).astype(np.float64)
    if mode.startswith("P"):
        colors = PALETTE[pixels.astype(int)].astype(np.float64)
        return np.where(pixels[:, :, None] == TRANSPARENT, 255, colors) if "transparent" in mode else colors
    if mode == "CMYK":
        return (255 - pixels[:, :, :3]) * (255 - pixels[:, :, 3:]) / 255
    if mode == "I;16":
        pixels = pixels // 256
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    if mode in ("LA", "RGBA"):
        fraction = pixels[:, :, -1:] / 255
        pixels = pixels[:, :, :-1] * fraction + 255 * (1 - fraction)
    return pixels.repeat(3, axis=2) if pixels.shape[2] == 1 else pixels


def as_stored(mode: str, orientation: int) -> Image.Image:
    pixels = np.ascontiguousarray(STORED[orientation](upright_in(mode)))
    if mode == "CMYK":
        return Image.frombytes("CMYK", pixels.shape[1::-1], pixels.tobytes())
    image = Image.fromarray(pixels)
    if mode.startswith("P"):
        image.putpalette(PALETTE.tobytes())
    if "transparent" in mode:
        image.info["transparency"] = TRANSPARENT
    return image


def save(image: Image.Image, path: Path, kind: str, orientation: int) -> Path:
    exif = Image.Exif()
    exif[0x0112] = orientation
    options: dict[str, Any] = {"JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True, "exact": True}}
    image.save(path, kind, exif=exif, **options.get(kind, {}))
    return path


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", SUPPORTED)
def test_read_image_returns_what_a_viewer_shows(tmp_path: Path, kind: str, mode: str) -> None:
    if mode not in SUPPORTED[kind]:
        check_that_mode_is_unsupported(tmp_path, kind, mode)
        return
    for orientation in STORED:
        path = save(as_stored(mode, orientation), tmp_path / f"{orientation}", kind, orientation)
        if mode == "F":
            with pytest.raises(
                InputError, match="the value range of images of mode F is unknown: save the image with 8 or 16 bits"
            ):
                read_image(path)
            continue
        # BMP has no EXIF data, so a viewer shows the pixels as they are stored.
        expected = shown(mode) if kind != "BMP" else STORED[orientation](shown(mode))
        found = read_image(path)
        assert found.dtype == np.uint8
        assert read_image_size(path) == found.shape[:2] == expected.shape[:2]
        np.testing.assert_allclose(found, expected, atol=4 if kind == "JPEG" else 0 if mode == "RGB" else 1.01)


def check_that_mode_is_unsupported(folder: Path, kind: str, mode: str) -> None:
    """Check that an image of this mode cannot be written in this format, or that the written file has another mode."""
    file = folder / "image"
    try:
        save(as_stored(mode, 1), file, kind, 1)
    except OSError as error:
        assert f"cannot write mode {mode.split(',')[0]} as {kind}" in str(error)  # noqa: PT017 (writing may succeed)
        return
    with Image.open(file) as written:
        assert written.mode != mode
        assert "transparency" not in written.info
    assert read_image(file).shape == (*HW, 3)


def png(bits: int, color_type: int, pixels: Array, extra_chunks: bytes = b"") -> bytes:
    """Return the content of a PNG file whose color type and bit depth Pillow cannot write.

    Source: PNG specification, third edition, W3C 2025, section 11.
    """

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], bits, color_type, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(f">u{bits // 8}").tobytes() for row in pixels)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + extra_chunks
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def test_16_bit_pngs_are_reduced_to_their_high_byte() -> None:
    deep = np.random.default_rng(0).integers(0, 65536, (5, 7, 4), dtype=np.uint16)
    high = (deep >> 8).astype(np.float64)
    np.testing.assert_allclose(read_image(png(16, 2, deep[:, :, :3])), high[:, :, :3], atol=1)
    fraction = high[:, :, 3:] / 255
    on_white = high[:, :, :3] * fraction + 255 * (1 - fraction)
    np.testing.assert_allclose(read_image(png(16, 6, deep)), on_white, atol=1)
    transparent = struct.pack(">I4sH", 2, b"tRNS", deep[0, 0, 0])
    transparent += struct.pack(">I", zlib.crc32(transparent[4:]))
    gray = read_image(png(16, 0, deep[:, :, 0], transparent))
    assert (gray[0, 0] == 255).all()
    np.testing.assert_array_equal(gray[1:], (deep[1:, :, :1] >> 8).repeat(3, axis=2))


def test_12_bit_tiffs_are_divided_by_16() -> None:
    levels = [0, 0x0FF, 0x7FF, 0xFFF]
    strip = bytes([0x00, 0x00, 0xFF, 0x7F, 0xFF, 0xFF])  # the four levels, packed into 12 bits each
    tags = [(256, 4), (257, 1), (258, 12), (259, 1), (262, 1), (273, 8), (277, 1), (278, 1), (279, len(strip))]
    entries = b"".join(struct.pack("<HHIHH", tag, 3, 1, value, 0) for tag, value in tags)
    file = b"II*\0" + struct.pack("<I", 8 + len(strip)) + strip + struct.pack("<H", len(tags)) + entries + bytes(4)
    assert read_image(file)[0, :, 0].tolist() == [level >> 4 for level in levels]


def test_premultiplied_alpha_and_lab_images_are_converted() -> None:
    transparent = Image.new("RGBA", (3, 2), (200, 10, 10, 0)).convert("RGBa")
    assert (to_rgb(transparent) == 255).all()
    lab = Image.new("LAB", (3, 2), (255, 128, 128))
    assert to_rgb(lab).min() > 250


def test_a_mode_that_cannot_become_rgb_raises() -> None:
    with pytest.raises(InputError, match="an image of mode La cannot be converted to RGB"):
        to_rgb(Image.new("LA", (3, 2)).convert("La"))


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow warns about damaged EXIF data
def test_damaged_exif_data_is_ignored(tmp_path: Path) -> None:
    file = io.BytesIO()
    Image.new("RGB", (8, 5), "red").save(file, "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\x7f" + bytes(40))
    path = tmp_path / "a.jpg"
    path.write_bytes(file.getvalue())
    assert read_image(path).shape == (5, 8, 3)
    assert read_image_size(path) == (5, 8)


def test_training_evaluation_and_detection_read_the_same_image(tmp_path: Path) -> None:
    for mode, kind, orientation in (("RGBA", "PNG", 6), ("CMYK", "JPEG", 3), ("I;16", "TIFF", 8), ("P", "BMP", 1)):
        (tmp_path / "images").mkdir(exist_ok=True)
        save(as_stored(mode, orientation), tmp_path / "images" / f"{kind}.{kind.lower()}", kind, orientation)
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "PNG.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    (tmp_path / "data.yaml").write_text("train: images\nnames: [thing]\n")
    split = open_data(tmp_path).read("train")
    dataset = DetectionDataset(split, (320, 320), Config(input_size=320))
    sources = {source.name: source for source in find_sources([str(tmp_path / "images")])}
    assert len(split.annotations) == len(dataset) == len(sources) == 4
    for index, annotation in enumerate(split.annotations):
        expected = read_image(annotation.image_path)
        assert expected.shape[:2] == annotation.image_hw == HW
        np.testing.assert_array_equal(dataset.sample(index).image, expected)
        np.testing.assert_array_equal(split.read_image(annotation), expected)
        np.testing.assert_array_equal(sources[annotation.image_path].read(), expected)
        np.testing.assert_array_equal(read_image(annotation.image_path.read_bytes()), expected)


def smooth(h: int, w: int) -> Array:
    """Return an image [h, w, 3] that changes slowly, and differently in each axis and channel."""
    y, x = np.mgrid[:h, :w]
    return np.stack([255 * x / w, 255 * y / h, 120 + 60 * np.sin(7 * x / w)], axis=2).astype(np.uint8)


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
@pytest.mark.parametrize("orientation", STORED)
def test_a_thumbnail_is_the_average_of_the_shown_image(tmp_path: Path, suffix: str, orientation: int) -> None:
    # Each thumbnail pixel covers at least 16 image pixels per axis, so that the JPEG is decoded at 1/8 scale.
    path, upright, exif = tmp_path / f"a{suffix}", smooth(256, 512), Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(STORED[orientation](upright))).save(path, exif=exif)
    averaged = upright.reshape(16, 16, 16, 32, 3).mean(axis=(1, 3))
    thumbnail = read_thumbnail(path, 16)
    assert thumbnail.shape == (16, 16, 3)
    assert thumbnail.dtype == np.uint8
    np.testing.assert_allclose(thumbnail, averaged, atol=4 if suffix == ".jpg" else 1)
