import io
import os
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tqdm import tqdm

from detector.arrays import ImageArray
from detector.errors import FileError, ImageError, InputError
from detector.image_inputs import has_length, is_image, several_images, to_image
from detector.images import read_image, write_image

RGB = np.random.default_rng(0).integers(0, 256, (5, 8, 3), dtype=np.uint8)
GRAY = RGB[:, :, 0]
ALPHA = np.random.default_rng(1).integers(0, 256, (5, 8), dtype=np.uint8)
GRAY_AS_RGB = np.stack([GRAY, GRAY, GRAY], axis=2)


class PathOfAnotherLibrary:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __fspath__(self) -> str:
        return str(self.path)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_image(tmp_path / "a.png", RGB)
    return tmp_path / "a.png"


def test_every_kind_of_image_file_is_read(path: Path) -> None:
    data = path.read_bytes()
    upload = tempfile.SpooledTemporaryFile(max_size=10)  # noqa: SIM115 (what a web framework hands over)
    upload.write(data)
    sources: list[Any] = [str(path), path, PathOfAnotherLibrary(path), data, bytearray(data), memoryview(data)]
    with path.open("rb") as file, tempfile.NamedTemporaryFile() as temporary, upload:
        temporary.write(data)
        for source in [*sources, io.BytesIO(data), file, upload, temporary]:
            np.testing.assert_array_equal(to_image(source), RGB)
            np.testing.assert_array_equal(read_image(source), RGB)


def test_an_open_file_is_read_from_its_start_and_not_moved(path: Path) -> None:
    file = io.BytesIO()
    Image.fromarray(RGB).save(file, "PNG")
    end = file.tell()
    for _ in range(2):
        np.testing.assert_array_equal(to_image(file), RGB)
        assert file.tell() == end


def test_a_pipe_is_read_to_its_end(path: Path) -> None:
    reading, writing = os.pipe()
    with os.fdopen(writing, "wb") as file:
        file.write(path.read_bytes())
    with os.fdopen(reading, "rb") as file:
        np.testing.assert_array_equal(to_image(file), RGB)


class AsyncFile:
    async def read(self, size: int = -1) -> bytes:
        return b""


def test_a_file_that_cannot_be_read_is_named(path: Path) -> None:
    with path.open() as text, pytest.raises(FileError, match=rf"{path}: .*open it as binary: open\(path, 'rb'\)"):
        to_image(text)  # type: ignore[arg-type]
    with pytest.raises(FileError, match="<StringIO>: the file is open as text"):
        to_image(io.StringIO("text"))  # type: ignore[arg-type]
    with path.open("rb") as closed:
        pass
    with pytest.raises(FileError, match=r"the open file cannot be read .*closed"):
        to_image(closed)
    with pytest.raises(FileError, match="pass its attribute `file`"):
        to_image(AsyncFile())  # type: ignore[arg-type]
    with pytest.raises(ImageError, match="<BytesIO>: the file is empty"):
        to_image(io.BytesIO())


@pytest.mark.parametrize("text", ["x" * 100_000, "folder/" * 20_000 + "a.png", "a\0b"])
def test_a_text_that_is_no_path_gives_a_short_message(text: str) -> None:
    with pytest.raises(InputError) as caught:
        to_image(text)
    assert len(str(caught.value)) < 400


def expected_rgba() -> np.ndarray[Any, Any]:
    fraction = ALPHA[:, :, None].astype(np.float64) / 255
    return RGB * fraction + 255 * (1 - fraction)


@pytest.mark.parametrize("scale", [None, np.float16, np.float32, np.float64, ">f4"])
def test_arrays_of_every_layout_and_type_become_rgb(scale: Any) -> None:
    def convert(array: ImageArray) -> np.ndarray[Any, Any]:
        return array if scale is None else (array / 255).astype(scale)

    np.testing.assert_array_equal(to_image(convert(RGB)), RGB)
    np.testing.assert_array_equal(to_image(convert(GRAY)), GRAY_AS_RGB)
    np.testing.assert_array_equal(to_image(convert(GRAY[:, :, None])), GRAY_AS_RGB)
    rgba = to_image(convert(np.dstack([RGB, ALPHA])))
    assert rgba.dtype == np.uint8
    np.testing.assert_allclose(rgba, expected_rgba(), atol=1)


@pytest.mark.parametrize("kind", [torch.uint8, torch.float16, torch.float32, torch.float64])
def test_tensors_have_channels_first_or_last(kind: torch.dtype) -> None:
    def convert(array: ImageArray) -> torch.Tensor:
        tensor = torch.from_numpy(array.copy())
        return tensor if kind == torch.uint8 else (tensor / 255).to(kind).requires_grad_()

    for tensor in (convert(RGB), convert(RGB).permute(2, 0, 1)):
        np.testing.assert_array_equal(to_image(tensor), RGB)
    for tensor in (convert(GRAY), convert(GRAY)[None], convert(GRAY)[..., None]):
        np.testing.assert_array_equal(to_image(tensor), GRAY_AS_RGB)


def test_a_bfloat16_tensor_is_read_within_its_precision() -> None:
    tensor = (torch.from_numpy(RGB.copy()) / 255).to(torch.bfloat16)
    np.testing.assert_allclose(to_image(tensor).astype(int), RGB, atol=1)


@pytest.mark.parametrize("shape", [(3, 9, 3), (1, 9, 1), (3, 9, 4), (4, 9, 3), (1, 1, 3), (3, 1, 1)])
def test_a_tensor_whose_layout_is_ambiguous_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ImageError, match=r"may be \[C, H, W\] or \[H, W, C\]; pass a NumPy array"):
        to_image(torch.zeros(shape, dtype=torch.uint8))


@pytest.mark.parametrize("shape", [(3, 9, 3), (1, 9, 1), (3, 9, 4), (4, 9, 3), (1, 1, 3), (1, 1)])
def test_an_array_of_any_size_has_its_channels_last(shape: tuple[int, ...]) -> None:
    assert to_image(np.zeros(shape, np.uint8)).shape == (*shape[:2], 3)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((3, 5, 8), np.uint8), r"got uint8 \[3, 5, 8\]; .*pass numpy.moveaxis\(image, 0, -1\)"),
        (np.zeros((2, 5, 8, 3), np.uint8), r"got uint8 \[2, 5, 8, 3\]; for several images, pass list\(images\)"),
        (np.zeros((5, 8, 2), np.uint8), r"got uint8 \[5, 8, 2\]$"),
        (np.zeros((0, 8, 3), np.uint8), r"got uint8 \[0, 8, 3\]$"),
        (np.uint8(3), "expected an image "),
        (np.zeros(9, np.uint8), r"pass image\.tobytes\(\)"),
        (np.zeros((5, 8), np.uint16), r"uint16 \[5, 8\] is unknown; .*image >> 8.*image >> 4"),
        (np.zeros((5, 8), np.int64), r"int64 \[5, 8\] is unknown; .*pass image.astype\('uint8'\) if"),
        (np.zeros((5, 8), np.bool_), r"bool \[5, 8\] is unknown; .*\* 255"),
        (np.zeros((5, 8), np.complex64), r"complex64 \[5, 8\] is unknown"),
        (np.full((5, 8), "a"), r"<U1 \[5, 8\] is unknown"),
        (RGB.astype(np.float32), f"has values from {RGB.min()} to {RGB.max()}; divide values of 0 to 255 by 255"),
        (RGB / 255 - 0.5, "has values from -0.* undo a normalization"),
        (np.full((5, 8), np.nan), "contains NaN"),
        (np.full((5, 8), np.inf), "has values from inf to inf"),
        (torch.zeros((2, 3, 5, 8)), r"pass list\(images\)"),
        (torch.zeros((5, 8), dtype=torch.int64), r"int64 \[5, 8\] is unknown"),
        (torch.zeros((5, 8), device="meta"), r"a tensor \[5, 8\] cannot be converted"),
        (None, "got NoneType$"),
        (7, "got int$"),
        (["a.jpg"], "got list$"),
        (lambda: None, "got a function that returned NoneType$"),
    ],
)
def test_an_image_that_fits_no_rule_is_refused(image: Any, message: str) -> None:
    with pytest.raises(ImageError, match=message) as caught:
        to_image(image)
    assert len(str(caught.value)) < 500


@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 3))
def test_the_memory_layout_of_an_array_does_not_matter(height: int, width: int, turns: int) -> None:
    image = np.arange(height * width * 3, dtype=np.uint8).reshape(height, width, 3)
    turned = np.rot90(image, turns)[:, :, ::-1]
    np.testing.assert_array_equal(to_image(turned), np.ascontiguousarray(turned))


def test_several_images_are_told_from_one() -> None:
    one: list[Any] = [RGB, GRAY, torch.zeros(3, 5, 8), Image.new("L", (1, 1)), lambda: RGB, "a.jpg", Path("a.jpg"), b""]
    assert all(map(is_image, one))
    assert all(map(is_image, several_images(one)))
    several: list[Any] = [[], (), iter([]), deque(), {}.values(), np.stack([RGB]), torch.zeros(1, 3, 5, 8), range(0)]
    assert not any(map(is_image, several))
    assert [len(list(several_images(source))) for source in several] == [0, 0, 0, 0, 0, 1, 1, 0]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"a.jpg", "b.jpg"}, r"a set has no order.*pass a list: sorted\(paths\)"),
        (frozenset(), "a set has no order"),
        ({"a": "a.jpg"}, r"pass list\(images\.values\(\)\)"),
        (5, "expected an image or a list of images, got int"),
        (None, "expected an image or a list of images, got NoneType"),
    ],
)
def test_what_has_no_order_is_not_a_list_of_images(source: object, message: str) -> None:
    assert not is_image(source)
    with pytest.raises(InputError, match=message):
        several_images(source)


class Camera:
    """Has a length, and writes each of three frames into the same array and the same tensor."""

    def __len__(self) -> int:
        return 6

    def __iter__(self) -> Iterator[Any]:
        buffer = np.zeros((5, 8, 3), np.uint8)
        tensor = torch.zeros(5, 8, 3, dtype=torch.uint8)
        for k in range(3):
            buffer[:] = k
            tensor[:] = k
            yield buffer
            yield tensor


@pytest.mark.parametrize("wrap", [iter, lambda camera: camera, lambda camera: tqdm(iter(camera), disable=True)])
def test_the_arrays_that_a_source_yields_are_copied(wrap: Callable[[Camera], Iterable[Any]]) -> None:
    read = list(several_images(wrap(Camera())))
    assert [int(to_image(image).max()) for image in read] == [0, 0, 1, 1, 2, 2]


def test_the_arrays_of_a_list_are_not_copied() -> None:
    assert [image is RGB for image in several_images([RGB, RGB])] == [True, True]


def test_subclasses_of_arrays_are_images() -> None:
    gray = np.arange(12, dtype=np.uint8).reshape(3, 4)
    with pytest.warns(PendingDeprecationWarning):
        matrix = np.asmatrix(gray)
    for image in (matrix, np.ma.masked_array(gray)):
        np.testing.assert_array_equal(to_image(image), to_image(gray))


def test_a_progress_bar_around_a_generator_has_no_length() -> None:
    with_length: list[Any] = [[], Camera(), {}.values(), tqdm(Camera(), disable=True)]
    assert all(map(has_length, with_length))
    without: list[Any] = [iter([]), tqdm(map(str, [1]), disable=True), 5]
    assert not any(map(has_length, without))
