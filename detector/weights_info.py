"""Information about trained weights, stored as text in the metadata of every weights file and every graph file."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from detector.errors import WeightsError
from detector.image_hashes import NO_IMAGES, ImageHashes, hashes_from_json
from detector.letterbox import SIZE_DIVISOR

FORMAT = "detector-weights-2"

_IMAGE_HASHES = "image_hashes"
"""Key of the hashes of the training images. It is optional: older files do not have it."""

LARGEST_SIDE = 16384
"""Largest side of the network input in pixels. A file with a larger side is damaged, or made to exhaust the memory."""


@dataclass(frozen=True)
class WeightsInfo:
    """Information needed to use trained weights, and facts about the training run that created the weights.

    Attributes:
        model: name of the network size, such as "nano".
        class_names: C names, in the order of class ids.
        category_ids: C category ids, as in the annotation files of the training data, in the order of class ids.
        input_hw: height and width of the network input in training, in pixels.
        config: the settings of the training run.
        facts: facts about the training run: data, number of images, steps, seconds, AP on val, versions.
        image_hashes: hashes of the images of the training run. Files written by older versions have none.
    """

    model: str
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    input_hw: tuple[int, int]
    config: Mapping[str, Any]
    facts: Mapping[str, Any]
    image_hashes: ImageHashes = field(default=NO_IMAGES, repr=False)


def to_metadata(info: WeightsInfo) -> dict[str, str]:
    """Return the metadata for a file: the name of each attribute, and its value as JSON text."""
    texts = {key: json.dumps(getattr(info, key)) for key in _METADATA_RULES}
    return {"format": FORMAT} | texts | {_IMAGE_HASHES: json.dumps(info.image_hashes.to_json())}


def from_metadata(metadata: Mapping[str, str], source: str) -> WeightsInfo:
    """Parse the metadata that `to_metadata` wrote, and return the information.

    Args:
        metadata: metadata of a file.
        source: name of the file, for error messages.

    Raises:
        WeightsError: the file was written by another program or version, or its metadata is damaged.
    """
    if (found := metadata.get("format")) != FORMAT:
        raise WeightsError(
            f"{source}: written by another program or version (format {found!r}, expected {FORMAT!r}): "
            "use weights written by `detector train` or `detector export`"
        )
    try:
        values = {key: json.loads(metadata[key]) for key in _METADATA_RULES}
        stored = metadata.get(_IMAGE_HASHES)
        image_hashes = NO_IMAGES if stored is None else hashes_from_json(json.loads(stored))
    except (KeyError, ValueError, TypeError, RecursionError) as error:
        raise damaged(source, error) from None
    for key, (rule, fits) in _METADATA_RULES.items():
        if not fits(values[key]):
            raise WeightsError(f"{source}: the metadata is damaged: {key} must be {rule}")
    height, width = values.pop("input_hw")
    class_names, category_ids = tuple(values.pop("class_names")), tuple(values.pop("category_ids"))
    if len(category_ids) != len(class_names):
        raise damaged(source, ValueError(f"{len(class_names)} class names, {len(category_ids)} category ids"))
    return WeightsInfo(
        class_names=class_names,
        category_ids=category_ids,
        input_hw=(height, width),
        image_hashes=image_hashes,
        **values,
    )


def _is_list_of(kind: type) -> Callable[[Any], bool]:
    """Return a function that tests whether a value is a list of at least one item, all of type `kind`."""
    return lambda value: isinstance(value, list) and len(value) > 0 and all(type(item) is kind for item in value)


def _is_input_hw(value: Any) -> bool:
    """Return whether a value is a valid input size [height, width]."""
    if not _is_list_of(int)(value) or len(value) != 2 or max(value) > LARGEST_SIDE:
        return False
    return all(side > 0 and side % SIZE_DIVISOR == 0 for side in value)


_METADATA_RULES: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    "model": ("a name", lambda value: isinstance(value, str)),
    "class_names": ("a list of names", _is_list_of(str)),
    "category_ids": ("a list of whole numbers", _is_list_of(int)),
    "input_hw": (f"two multiples of {SIZE_DIVISOR} up to {LARGEST_SIDE}", _is_input_hw),
    "config": ("a mapping of settings", lambda value: isinstance(value, dict)),
    "facts": ("a mapping", lambda value: isinstance(value, dict)),
}
"""Key → description of a valid value, and a function that tests a value."""


def damaged(source: str, error: Exception) -> WeightsError:
    """Return a WeightsError for metadata that cannot be parsed; the caller raises it."""
    return WeightsError(f"{source}: the metadata is damaged ({type(error).__name__}: {error})")
