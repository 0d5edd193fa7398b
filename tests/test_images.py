import io
import re
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from detector.arrays import ImageArray
from detector.errors import ImageError, ImageTooLargeError, InputError
from detector.images import (
    check_array,
    find_images,
    read_image,
    read_image_size,
    read_thumbnail,
    to_rgb,
    write_image,
)

FORMATS = ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF"]


def noise(*shape: int, seed: int = 0) -> ImageArray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize("hw", [(1, 1), (5, 8), (17, 500)])
def test_an_image_of_any_size_has_a_thumbnail(tmp_path: Path, hw: tuple[int, int]) -> None:
    for suffix in (".jpg", ".png", ".webp"):
        write_image(tmp_path / f"a{suffix}", np.full((*hw, 3), 90, dtype=np.uint8))
        np.testing.assert_allclose(read_thumbnail(tmp_path / f"a{suffix}", 16), 90, atol=2)


@pytest.mark.parametrize("content", [None, b"no image", encoded(Image.fromarray(noise(40, 60, 3)), "JPEG")[:900]])
def test_a_thumbnail_of_a_bad_file_raises_with_its_path(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(InputError, match=re.escape(str(tmp_path / "a.jpg"))):
        read_thumbnail(tmp_path / "a.jpg", 4)


@pytest.mark.parametrize(
    "value",
    [
        b"\x03\x00\x01\x00\x00\x00\x09\x00\x00\x00",  # a SHORT of 9
        b"\x02\x00\x02\x00\x00\x00\x36\x00\x00\x00",  # the text "6"
        b"\x07\x00\x01\x00\x00\x00\x06\x00\x00\x00",  # one byte of type UNDEFINED
    ],
)
def test_an_invalid_orientation_is_ignored(tmp_path: Path, value: bytes) -> None:
    exif = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01" + value + b"\0\0\0\0"
    jpeg = encoded(Image.new("RGB", (8, 5)), "JPEG")
    path = tmp_path / "a.jpg"
    path.write_bytes(jpeg[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + jpeg[2:])
    assert read_image(path).shape == (5, 8, 3)
    assert read_image_size(path) == (5, 8)


def on_white(color: ImageArray, alpha: ImageArray) -> np.ndarray[Any, Any]:
    fraction = alpha.astype(np.float64) / 255
    return color * fraction + 255 * (1 - fraction)


def palette_image() -> tuple[Image.Image, ImageArray]:
    palette, indices = noise(16, 3, seed=1), noise(6, 7) % 16
    image = Image.fromarray(indices)
    image.putpalette(palette.tobytes())
    return image, palette[indices]


def modes() -> list[Any]:
    """Return test parameters for all modes: the content of an image file, and the RGB image that a viewer shows."""
    gray, rgb, alpha = noise(6, 7, 1), noise(6, 7, 3), noise(6, 7, 1, seed=2)
    palette, shown = palette_image()
    indices = np.asarray(palette)[:, :, None]
    cmyk = noise(6, 7, 4).astype(np.float64)
    gray16 = np.random.default_rng(0).integers(0, 65536, (6, 7), dtype=np.uint16)
    bits = noise(6, 7) > 127
    keyed = rgb.copy()
    keyed[2, 3] = (1, 2, 3)
    transparent = np.zeros((6, 7, 1), bool)
    transparent[2, 3] = True

    return [
        pytest.param(*case, id=name)
        for name, *case in [
            ("L", encoded(Image.fromarray(gray[:, :, 0]), "PNG"), gray.repeat(3, axis=2)),
            ("LA", encoded(Image.fromarray(np.dstack([gray, alpha])), "PNG"), on_white(gray.repeat(3, axis=2), alpha)),
            ("RGB", encoded(Image.fromarray(rgb), "PNG"), rgb),
            ("RGB, one color transparent", encoded(Image.fromarray(keyed), "PNG", transparency=(1, 2, 3)),
             np.where(transparent, 255, keyed)),
            ("RGBA", encoded(Image.fromarray(np.dstack([rgb, alpha])), "PNG"), on_white(rgb, alpha)),
            ("P", encoded(palette, "PNG"), shown),
            ("P, one color transparent", encoded(palette, "PNG", transparency=5), np.where(indices == 5, 255, shown)),
            ("GIF", encoded(palette, "GIF"), shown),
            ("CMYK", encoded(Image.frombytes("CMYK", (7, 6), cmyk.astype(np.uint8).tobytes()), "TIFF"),
             (255 - cmyk[:, :, :3]) * (255 - cmyk[:, :, 3:]) / 255),
            ("1", encoded(Image.fromarray(bits), "PNG"), np.where(bits[:, :, None], 255, [0, 0, 0])),
            ("I;16", encoded(Image.fromarray(gray16), "PNG"), (gray16 // 256)[:, :, None].repeat(3, axis=2)),
            ("I;16B", encoded(Image.fromarray(gray16.astype(">u2")), "TIFF"),
             (gray16 // 256)[:, :, None].repeat(3, axis=2)),
        ]
    ]  # fmt: skip


@pytest.mark.parametrize(("file", "shown"), modes())
def test_every_mode_is_converted_to_the_rgb_a_viewer_shows(file: bytes, shown: np.ndarray[Any, Any]) -> None:
    image = read_image(file)
    assert image.dtype == np.uint8
    np.testing.assert_allclose(image, shown, atol=1)


@pytest.mark.parametrize("mode", ["F", "I"])
def test_an_image_of_unknown_value_range_raises(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "a.tif"
    Image.new(mode, (8, 5)).save(path)
    with pytest.raises(InputError, match=f"{re.escape(str(path))}.*mode {mode} .*8 or 16 bits"):
        read_image(path)


def test_the_first_frame_of_an_animation_is_read() -> None:
    frames = [Image.new("RGB", (8, 5), color) for color in ("red", "blue")]
    file = encoded(frames[0], "PNG", save_all=True, append_images=frames[1:])
    assert (read_image(file) == (255, 0, 0)).all()


def test_an_animation_is_warned_about_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    frames = [Image.new("RGB", (8, 5), color) for color in ("red", "blue")]
    path = tmp_path / "a.gif"
    path.write_bytes(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    read_image(path)
    read_image(path)
    assert caplog.messages == [f"{path}: has several frames; only the first is used"]


@pytest.mark.parametrize("content", [None, b"", b"no image", b"\xff\xd8\xff\xe0 no image", b"\x89PNG\r\n\x1a\n"])
@pytest.mark.parametrize("read", [read_image, read_image_size])
def test_a_file_that_is_no_image_raises_with_its_path(
    tmp_path: Path, content: bytes | None, read: Callable[[Path], Any]
) -> None:
    path = tmp_path / "a.jpg"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=re.escape(str(path))):
        read(path)


def test_a_folder_instead_of_an_image_raises_with_its_path(tmp_path: Path) -> None:
    for read in (read_image, read_image_size):
        with pytest.raises(InputError, match=re.escape(str(tmp_path))):
            read(tmp_path)


@pytest.mark.parametrize("kind", FORMATS)
def test_a_truncated_image_raises_with_its_path(tmp_path: Path, kind: str) -> None:
    content = encoded(Image.fromarray(noise(40, 60, 3)), kind)
    path = tmp_path / "a"
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=f"{re.escape(str(path))}: .*cannot be decoded"):
        read_image(path)


@pytest.mark.parametrize("kind", [kind for kind in FORMATS if kind != "WEBP"])  # Pillow refuses to open it
def test_a_truncated_pil_image_raises_an_image_error(kind: str) -> None:
    content = encoded(Image.fromarray(noise(40, 60, 3)), kind)
    opened = Image.open(io.BytesIO(content[: len(content) // 2]))  # reads only the header
    with pytest.raises(ImageError, match="the image cannot be decoded"):
        to_rgb(opened)


def test_a_pil_image_of_a_closed_file_raises_an_image_error(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", noise(4, 6, 3))
    with Image.open(tmp_path / "a.png") as opened:
        pass
    with pytest.raises(ImageError, match="the image cannot be decoded"):
        to_rgb(opened)


def test_the_size_of_a_png_is_read_from_its_header(tmp_path: Path) -> None:
    content = encoded(Image.fromarray(noise(40, 60, 3)), "PNG")
    (tmp_path / "a.png").write_bytes(content[: len(content) // 2])
    assert read_image_size(tmp_path / "a.png") == (40, 60)


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow warns about invalid tags
@pytest.mark.parametrize("kind", FORMATS)
def test_damaged_files_give_an_image_or_an_input_error(tmp_path: Path, kind: str) -> None:
    content = encoded(Image.fromarray(noise(6, 9, 3)), kind)
    path = tmp_path / "a"
    for position in range(0, len(content), max(1, len(content) // 25)):
        flipped = content[:position] + bytes([content[position] ^ 0xFF]) + content[position + 1 :]
        for damaged in (content[:position], flipped):
            path.write_bytes(damaged)
            for read in (read_image, read_image_size):
                try:
                    read(path)
                except InputError as error:
                    assert str(path) in str(error)  # noqa: PT017 (reading may succeed)


def test_an_image_above_pillows_limit_raises_with_its_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    write_image(tmp_path / "a.png", noise(10, 10, 3))
    read_image(tmp_path / "a.png")
    write_image(tmp_path / "b.png", noise(10, 11, 3))
    with pytest.raises(InputError, match=r"b\.png: the image is too large"):
        read_image(tmp_path / "b.png")


def test_max_pixels_limits_the_size_of_an_image(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", noise(10, 11, 3))
    with pytest.raises(ImageTooLargeError, match="--max-pixels"):
        read_image(tmp_path / "a.png", max_pixels=109)
    assert read_image(tmp_path / "a.png", max_pixels=110).shape == (10, 11, 3)


def test_max_pixels_may_exceed_pillows_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("detector.images.MAX_PIXELS", 20)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    write_image(tmp_path / "a.png", noise(10, 11, 3))
    with pytest.raises(ImageTooLargeError):
        read_image(tmp_path / "a.png", max_pixels=20)
    assert read_image(tmp_path / "a.png", max_pixels=110).shape == (10, 11, 3)
    assert Image.MAX_IMAGE_PIXELS == 20


def test_reading_in_threads_does_not_change_warning_filters(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = {name: threading.Event() for name in (b"first", b"second")}
    proceed = {name: threading.Event() for name in opened}

    def blocking_open(source: io.BytesIO, formats: object) -> Image.Image:
        name = source.getvalue()
        opened[name].set()
        proceed[name].wait(2)
        raise OSError("no image")

    def read(name: bytes) -> None:
        with pytest.raises(InputError):
            read_image(name)

    monkeypatch.setattr(Image, "open", blocking_open)
    # Restores the warning filters that pytest has set for this test, even if reading changes them.
    with warnings.catch_warnings():
        before = list(warnings.filters)
        threads = {name: threading.Thread(target=read, args=(name,)) for name in opened}
        for name, thread in threads.items():
            thread.start()
            opened[name].wait(2)
        for name, thread in threads.items():
            proceed[name].set()
            thread.join()
        assert list(warnings.filters) == before


@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp"])
def test_write_image_round_trip(tmp_path: Path, suffix: str) -> None:
    image, path = noise(5, 8, 3), tmp_path / f"a{suffix}"
    write_image(path, image)
    np.testing.assert_array_equal(read_image(path), image)
    assert read_image_size(path) == (5, 8)


@pytest.mark.parametrize("suffix", [".jpg", ".JPEG"])
def test_jpeg_keeps_the_order_of_the_channels(tmp_path: Path, suffix: str) -> None:
    image = np.full((16, 24, 3), (200, 100, 20), dtype=np.uint8)
    write_image(tmp_path / f"a{suffix}", image)
    np.testing.assert_allclose(read_image(tmp_path / f"a{suffix}"), image, atol=3)


def test_metadata_files_of_macos_are_not_images(tmp_path: Path) -> None:
    write_image(tmp_path / "._photo.png", np.zeros((1, 1, 3), np.uint8))
    (tmp_path / "._a.png").write_bytes(bytes([0, 5, 22, 7, 0, 2, 0, 0]))
    (tmp_path / "._b.png").write_bytes(b"")
    assert [path.name for path in find_images(tmp_path)] == ["._b.png", "._photo.png"]


def test_find_images_returns_only_images_sorted_by_name(tmp_path: Path) -> None:
    for name in ("b.PNG", "a.jpeg", "c.txt", "d.webp", "noending"):
        (tmp_path / name).touch()
    (tmp_path / "e.png").mkdir()
    assert [path.name for path in find_images(tmp_path)] == ["a.jpeg", "b.PNG", "d.webp"]
    # A broken link is listed, so that a reader raises an error instead of silently skipping the file.
    (tmp_path / "f.png").symlink_to("nowhere.png")
    assert find_images(tmp_path)[-1] == tmp_path / "f.png"
    with pytest.raises(InputError, match="the folder cannot be read"):
        find_images(tmp_path / "gone")


def test_check_array_returns_a_valid_array_unchanged() -> None:
    image = noise(1, 1, 3)
    assert check_array(image) is image


@pytest.mark.parametrize(
    "image",
    [np.zeros(shape, np.uint8) for shape in ((5, 8), (5, 8, 1), (5, 8, 4), (3, 5, 8), (1, 5, 8, 3), (0, 8, 3))]
    + [np.zeros((5, 8, 3), dtype) for dtype in (np.float32, np.uint16, np.bool_)],
)
def test_check_array_names_a_wrong_shape_or_type(image: np.ndarray[Any, Any]) -> None:
    with pytest.raises(InputError, match=re.escape(f"got {image.dtype} {list(image.shape)}")):
        check_array(image)


@pytest.mark.parametrize(
    ("suffix", "kind"),
    [
        *((suffix, "JPEG") for suffix in (".jpg", ".jpeg", ".jpe", ".jfif", ".JFIF")),
        *((suffix, "PPM") for suffix in (".ppm", ".pgm", ".pnm")),
        (".gif", "GIF"),
        (".jp2", "JPEG2000"),
    ],
)
def test_images_of_rare_suffixes_are_found_and_read(tmp_path: Path, suffix: str, kind: str) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(encoded(Image.fromarray(np.full((5, 8, 3), 200, np.uint8)), kind))
    assert find_images(tmp_path) == [path]
    assert read_image(path).shape == (5, 8, 3)


def test_the_first_dark_16_bit_image_causes_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("detector.images._warned_few_levels", threading.Event())
    for name, largest in (("full", 65535), ("twelve", 4095), ("ten", 1023)):
        values = np.linspace(0, largest, 40 * 60).reshape(40, 60).astype(np.uint16)
        Image.fromarray(values).save(tmp_path / f"{name}.png")
    read_image(tmp_path / "full.png")
    assert not caplog.text
    assert read_image(tmp_path / "twelve.png").max() == 15
    assert f"{tmp_path / 'twelve.png'}: this 16-bit image uses only the lowest 16 of 256 gray levels" in caplog.text
    read_image(tmp_path / "ten.png")
    assert "ten.png" not in caplog.text
