"""Images as users have them in Python: image files, arrays, tensors, PIL images, and functions that return an array.

The rules for arrays: uint8 is 0..255, floating-point numbers are 0..1, and every other type is refused, because its
range is unknown. NumPy arrays have their channels last. Tensors may have their channels first or last; a tensor whose
shape fits both is refused. Nothing is guessed: what does not follow these rules is an ImageError that says what to do.
"""

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from contextlib import suppress
from typing import Any, Protocol, TypeGuard

import numpy as np
import numpy.typing as npt
from PIL import Image

from detector.arrays import ImageArray
from detector.errors import ImageError, InputError
from detector.image_files import ImageFile
from detector.images import check_array, read_image, to_rgb


class Tensor(Protocol):
    """A torch tensor. This module does not import torch."""

    @property
    def ndim(self) -> int:
        """Number of dimensions."""

    def detach(self) -> Any:
        """Return the tensor without its gradient."""

    def is_floating_point(self) -> bool:
        """Return True if the tensor contains floating-point numbers."""


_LAZY_IMAGES = threading.Lock()
"""Held while a PIL image is read from its file, which happens at its first use. Several threads may use one image."""

ImageLike = ImageFile | npt.NDArray[Any] | Tensor | Image.Image | Callable[[], ImageArray]
"""An image:

- an image file: a path, its bytes (bytes, bytearray, memoryview), or an open binary file;
- a NumPy array, or an object that NumPy converts to one: RGB [H, W, 3], gray [H, W] or [H, W, 1], or RGBA [H, W, 4],
  which is composited on white. uint8 is 0..255, floats are 0..1;
- a torch tensor: as an array, or with the channels first: [3, H, W], [1, H, W], [4, H, W];
- a PIL image;
- a function without parameters that returns an RGB array uint8 [H, W, 3].
"""

_CHANNELS = (1, 3, 4)
_SHAPES = "[H, W, 3] (RGB), [H, W] or [H, W, 1] (gray), or [H, W, 4] (RGBA)"
_IMAGE_DIMENSIONS = (2, 3)


def is_image(source: object) -> TypeGuard[ImageLike]:
    """Return True if `source` is one image, False if it is several: a list, an iterator, or an array [N, H, W, 3].

    >>> [is_image(source) for source in ("a.jpg", b"...", np.zeros((4, 5)), ["a.jpg"], np.array(["a.jpg", "b.jpg"]))]
    [True, True, True, False, False]
    """
    if isinstance(source, Image.Image | str | bytes | bytearray | memoryview):
        return True
    if hasattr(source, "__array__"):  # also arrays and tensors
        is_text = getattr(getattr(source, "dtype", None), "kind", "") in "UO"
        dimensions = getattr(source, "ndim", 0)
        return dimensions in _IMAGE_DIMENSIONS or (dimensions < min(_IMAGE_DIMENSIONS) and not is_text)
    return hasattr(source, "__fspath__") or hasattr(source, "read") or callable(source)


def several_images(source: object) -> Iterable[Any]:
    """Return the images of an iterable, which must have a fixed order.

    The arrays and tensors that a source yields are copied, because a camera may write each frame into the same array.
    Those of a list, a tuple, an array or a tensor are not: they are all in memory at the same time.

    Raises:
        InputError: `source` is a set or a mapping, or not an iterable.
    """
    if isinstance(source, set | frozenset):
        raise InputError("a set has no order, so its results could not be assigned; pass a list: sorted(paths)")
    if isinstance(source, Mapping):
        raise InputError("a mapping is not a list of images; pass list(images.values())")
    try:
        images: Iterator[Any] = iter(source)  # type: ignore[call-overload]
    except TypeError:
        raise InputError(f"expected an image or a list of images, got {type(source).__name__}") from None
    is_stored = isinstance(source, list | tuple | np.ndarray) or _is_tensor(source)
    return source if is_stored else map(_copy, images)  # type: ignore[return-value]


def has_length(source: object) -> bool:
    """Return whether an iterable has a length. A progress bar around a generator has `__len__` but no length."""
    try:
        return isinstance(source, Sized) and len(source) >= 0
    except TypeError:
        return False


def _copy(image: Any) -> Any:
    """Return a copy of an array or a tensor, and any other kind of image unchanged."""
    if isinstance(image, np.ndarray):
        return image.copy()
    return image.clone() if _is_tensor(image) else image


def _is_tensor(image: object) -> bool:
    """Return True for a torch tensor; torch is not imported for this."""
    return hasattr(image, "is_floating_point") and hasattr(image, "detach")


def to_image(image: ImageLike) -> ImageArray:
    """Return an image as an RGB array uint8 [H, W, 3], which may be the caller's own array.

    Raises:
        InputError: the image cannot be read, or is none of the kinds of `ImageLike`.
    """
    if isinstance(image, np.ndarray):
        return _array_to_rgb(np.asarray(image))  # a subclass such as numpy.matrix has other operations
    if isinstance(image, Image.Image):
        with _LAZY_IMAGES, suppress(Exception):  # `to_rgb` raises the error of a damaged image
            image.load()
        return to_rgb(image)
    if isinstance(image, str | bytes | bytearray | memoryview) or hasattr(image, "__fspath__"):
        return read_image(image)  # type: ignore[arg-type]
    if _is_tensor(image):
        return _array_to_rgb(_tensor_to_array(image))
    if hasattr(image, "__array__"):
        return _array_to_rgb(np.asarray(image))
    if hasattr(image, "read"):
        return read_image(image)  # type: ignore[arg-type]
    if callable(image) and isinstance(result := image(), np.ndarray):
        return check_array(result)
    what = f"a function that returned {type(result).__name__}" if callable(image) else type(image).__name__
    raise ImageError(
        f"expected an image (a path, bytes, an open binary file, an array, a tensor or a PIL image), got {what}"
    )


def _array_to_rgb(array: npt.NDArray[Any]) -> ImageArray:
    """Return an array of one of the layouts and types that this module describes as RGB uint8 [H, W, 3]."""
    shape = list(array.shape)
    if array.size == 0 or not (array.ndim == 2 or (array.ndim == 3 and shape[2] in _CHANNELS)):
        raise ImageError(f"expected an image {_SHAPES}, got {array.dtype} {shape}{_layout_hint(array)}")
    pixels = _to_uint8(array)
    if pixels.ndim == 2 or shape[2] == 1:
        return np.repeat(pixels.reshape(*shape[:2], 1), 3, axis=2)
    return to_rgb(Image.fromarray(np.ascontiguousarray(pixels))) if shape[2] == 4 else check_array(pixels)


def _layout_hint(array: npt.NDArray[Any]) -> str:
    """Return the end of a message that says how to pass an array of a wrong shape; may be empty."""
    if array.ndim == 3 and array.size and array.shape[0] in _CHANNELS:
        return "; if the channels come first, pass numpy.moveaxis(image, 0, -1)"
    if array.ndim == 4:
        return "; for several images, pass list(images)"
    if array.ndim == 1 and array.dtype == np.uint8 and array.size:
        return "; if these are the bytes of an image file, pass image.tobytes()"
    return ""


def _to_uint8(array: npt.NDArray[Any]) -> ImageArray:
    """Return an array with values 0..255 as uint8; raise ImageError if the range of its values is unknown."""
    if array.dtype == np.uint8:
        return array
    if array.dtype.kind != "f":
        hints = {
            "uint16": "(image >> 8).astype('uint8') if white is 65535, (image >> 4).astype('uint8') for 12 bits",
            "bool": "image.astype('uint8') * 255",
        }
        hint = hints.get(str(array.dtype), "image.astype('uint8') if the values are 0 to 255")
        raise ImageError(
            f"the value range of an image of {array.dtype} {list(array.shape)} is unknown; expected uint8 (0 to 255) "
            f"or floats (0 to 1); pass {hint}"
        )
    low, high = float(array.min()), float(array.max())
    if not (low >= 0 and high <= 1):
        found = "contains NaN" if np.isnan(low) else f"has values from {low:.6g} to {high:.6g}"
        raise ImageError(
            f"an image of floats must have values from 0 to 1, and this one {found}; divide values of 0 to 255 by 255, "
            "undo a normalization by mean and standard deviation, or clip what lies slightly outside"
        )
    return np.rint(array.astype(np.float32) * 255).astype(np.uint8)


def _tensor_to_array(tensor: Any) -> npt.NDArray[Any]:
    """Return a torch tensor as an array with the channels last.

    Raises:
        ImageError: the shape fits channels first and channels last, or the tensor has no values (device "meta").
    """
    shape = list(tensor.shape)
    first, last = (tensor.ndim == 3 and shape[axis] in _CHANNELS for axis in (0, 2))
    if first and last:
        raise ImageError(
            f"a tensor {shape} may be [C, H, W] or [H, W, C]; pass a NumPy array [H, W, C]: "
            "tensor.permute(1, 2, 0).numpy() or tensor.numpy()"
        )
    try:
        # NumPy has no bfloat16.
        values = tensor.detach().float() if tensor.is_floating_point() else tensor.detach()
        array: npt.NDArray[Any] = values.cpu().numpy()
    except (TypeError, RuntimeError, NotImplementedError) as error:
        raise ImageError(f"a tensor {shape} cannot be converted to an array ({error})") from None
    return np.ascontiguousarray(np.moveaxis(array, 0, -1)) if first else array
