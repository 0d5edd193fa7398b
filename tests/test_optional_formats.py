import io
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detector import optional_formats
from detector.arrays import ImageArray
from detector.errors import ImageError, ImageTooLargeError, MissingPackageError
from detector.images import (
    IMAGE_SUFFIXES,
    UNREAD_SUFFIXES,
    find_images,
    read_image,
    read_image_size,
    read_stored_size,
    read_thumbnail,
    unread_images_note,
)
from detector.optional_formats import optional_format

HEIC_HEAD = b"\0\0\0\x1cftypheic\0\0\0\0mif1heicmiaf" + bytes(40)
AVIF_HEAD = b"\0\0\0\x20ftypavif\0\0\0\0avifmif1miafMA1B" + bytes(40)

needs_heic = pytest.mark.skipif(find_spec("pillow_heif") is None, reason="pillow-heif is not installed")
needs_avif = pytest.mark.skipif(find_spec("PIL._avif") is None, reason="this Pillow reads no AVIF")
KINDS = [pytest.param("HEIF", ".heic", marks=needs_heic), pytest.param("AVIF", ".avif", marks=needs_avif)]


def encoded(kind: str, orientation: int = 1) -> bytes:
    """Return a file of 60 x 40 pixels (width x height) as stored: the left half red, the top right quarter blue."""
    pixels = np.zeros((40, 60, 3), np.uint8)
    pixels[:, :30] = (230, 20, 20)
    pixels[:20, 30:] = (20, 20, 230)
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    if kind == "HEIF":
        import pillow_heif

        pillow_heif.register_heif_opener()
    Image.fromarray(pixels).save(file, kind, exif=exif.tobytes(), quality=90)
    return file.getvalue()


COLORS = {(230, 20, 20): "red", (20, 20, 230): "blue", (0, 0, 0): "black"}


def corners(image: ImageArray) -> list[str]:
    """Return the colors near the corners of an image: top left, top right, bottom left, bottom right."""
    found = [image[y, x].astype(int) for y in (5, -6) for x in (5, -6)]
    return [min(((np.abs(pixel - color).max(), name) for color, name in COLORS.items()))[1] for pixel in found]


@pytest.mark.parametrize(("kind", "suffix"), KINDS)
@pytest.mark.parametrize(
    ("orientation", "hw", "expected"),
    [
        (1, (40, 60), ["red", "blue", "red", "black"]),
        (2, (40, 60), ["blue", "red", "black", "red"]),
        (3, (40, 60), ["black", "red", "blue", "red"]),
        (4, (40, 60), ["red", "black", "red", "blue"]),
        (5, (60, 40), ["red", "red", "blue", "black"]),
        (6, (60, 40), ["red", "red", "black", "blue"]),
        (7, (60, 40), ["black", "blue", "red", "red"]),
        (8, (60, 40), ["blue", "black", "red", "red"]),
    ],
)
def test_the_orientation_is_applied_once(
    tmp_path: Path, kind: str, suffix: str, orientation: int, hw: tuple[int, int], expected: list[str]
) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(encoded(kind, orientation))
    assert find_images(tmp_path) == [path]
    for image in (read_image(path), read_image(path.read_bytes()), read_image(io.BytesIO(path.read_bytes()))):
        assert image.shape == (*hw, 3)
        assert corners(image) == expected
    assert read_image_size(path) == hw
    assert corners(read_thumbnail(path, 40)) == expected
    (height, width), stored = read_stored_size(path)
    assert ((width, height) if stored >= 5 else (height, width)) == hw


@pytest.mark.parametrize(("kind", "suffix"), KINDS)
def test_damaged_files_and_limits_are_errors_with_the_name(tmp_path: Path, kind: str, suffix: str) -> None:
    data = encoded(kind)
    path = tmp_path / f"a{suffix}"
    for length in (16, 40, len(data) // 2, len(data) - 20):
        path.write_bytes(data[:length])
        with pytest.raises(ImageError, match=rf"a\{suffix}: "):
            read_image(path)
    path.write_bytes(data)
    with pytest.raises(ImageTooLargeError, match=rf"a\{suffix}: the image has 60 x 40 pixels, more than 2399"):
        read_image(path, max_pixels=2399)


@pytest.fixture
def without_pillow_heif(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    optional_formats._register_heic.cache_clear()
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    yield
    optional_formats._register_heic.cache_clear()


@pytest.mark.parametrize("suffix", [".heic", ".jpg"])
def test_a_heic_file_without_the_package_names_it(tmp_path: Path, without_pillow_heif: None, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(HEIC_HEAD)
    for read in (read_image, read_image_size):
        with pytest.raises(
            MissingPackageError,
            match=rf"a\{suffix}: HEIC images need the package pillow-heif: .*'grid-detector\[heif\]'",
        ):
            read(path)
    assert optional_formats.optional_suffixes() & optional_formats.HEIC_SUFFIXES == frozenset()


def test_other_files_of_the_same_container_are_no_images() -> None:
    heads = [b"\0\0\0\x20ftypisom\0\0\x02\0isomiso2avc1mp41", b"\0\0\0\x18ftypcrx \0\0\0\x01crx isom", b"ftyp", b""]
    assert [optional_format(head) for head in heads] == [None] * 4
    for head in heads[:3]:
        with pytest.raises(ImageError, match="not an image in a supported format"):
            read_image(head + bytes(100))


@needs_avif
def test_avif_is_not_taken_for_heic() -> None:
    assert optional_format(AVIF_HEAD) == "AVIF"


def test_each_suffix_is_either_read_or_not() -> None:
    optional = optional_formats.HEIC_SUFFIXES | optional_formats.AVIF_SUFFIXES
    assert optional <= IMAGE_SUFFIXES | UNREAD_SUFFIXES
    assert not IMAGE_SUFFIXES & UNREAD_SUFFIXES
    if find_spec("pillow_heif") is None:
        note = unread_images_note([Path("a.HEIC")])
        assert note is not None
        assert note.endswith("; HEIC images need the package pillow-heif: pip install 'grid-detector[heif]'")


def test_nothing_is_imported_before_a_heic_file_is_read() -> None:
    code = "import sys, detector.images; print([name for name in sys.modules if 'heif' in name or '_avif' in name])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "[]\n"
