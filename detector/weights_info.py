"""What trained weights say about themselves; travels as text in the metadata of every file they are kept in."""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from detector.errors import InputError
from detector.letterbox import CANVAS_STEP

FORMAT = "detector-weights-1"

LARGEST_SIDE = 16384
"""Of the canvas of weights; beyond it a file is damaged, or means to fill the memory."""


@dataclass(frozen=True)
class WeightsInfo:
    """What weights say about themselves.

    Attributes:
        model: name of the network size.
        class_names: C names.
        category_ids: C ids as the training data's files write them.
        canvas_hw: height and width the network was trained on, pixels.
        config: the settings of the run.
        facts: of the training: data, pictures, steps, seconds, AP on val, versions.
    """

    model: str
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    canvas_hw: tuple[int, int]
    config: Mapping[str, Any]
    facts: Mapping[str, Any]


def to_metadata(info: WeightsInfo) -> dict[str, str]:
    """Return the information as texts, each value in JSON."""
    return {"format": FORMAT} | {key: json.dumps(value) for key, value in asdict(info).items()}


def from_metadata(metadata: Mapping[str, str], source: str) -> WeightsInfo:
    """Read what `to_metadata` wrote.

    Args:
        metadata: of a file.
        source: its name, for the message of an error.

    Raises:
        InputError: the file is of another program or version, or damaged.
    """
    if (said := metadata.get("format")) != FORMAT:
        raise InputError(
            f"{source}: weights of another program or version (format {said!r}, expected {FORMAT!r}): "
            "use weights that `detector train` or `detector export` wrote"
        )
    try:
        values = {key: json.loads(metadata[key]) for key in _MUST_BE}
    except (KeyError, ValueError, TypeError, RecursionError) as error:
        raise damaged(source, error) from None
    for key, (rule, fits) in _MUST_BE.items():
        if not fits(values[key]):
            raise InputError(f"{source}: the metadata are damaged: {key} must be {rule}")
    height, width = values.pop("canvas_hw")
    class_names, category_ids = tuple(values.pop("class_names")), tuple(values.pop("category_ids"))
    if len(category_ids) != len(class_names):
        raise damaged(source, ValueError(f"{len(class_names)} class names, {len(category_ids)} category ids"))
    return WeightsInfo(class_names=class_names, category_ids=category_ids, canvas_hw=(height, width), **values)


def _is_list_of(kind: type) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and len(value) > 0 and all(type(item) is kind for item in value)


def _is_canvas(value: Any) -> bool:
    if not _is_list_of(int)(value) or len(value) != 2 or max(value) > LARGEST_SIDE:
        return False
    return all(side > 0 and side % CANVAS_STEP == 0 for side in value)


_MUST_BE: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    "model": ("a name", lambda value: isinstance(value, str)),
    "class_names": ("a list of names", _is_list_of(str)),
    "category_ids": ("a list of whole numbers", _is_list_of(int)),
    "canvas_hw": (f"two multiples of {CANVAS_STEP} up to {LARGEST_SIDE}", _is_canvas),
    "config": ("a mapping of settings", lambda value: isinstance(value, dict)),
    "facts": ("a mapping", lambda value: isinstance(value, dict)),
}
"""Key → what must stand there, in words and as a test."""


def damaged(source: str, error: Exception) -> InputError:
    """Return the error to raise for metadata that make no sense."""
    return InputError(f"{source}: the metadata are damaged ({type(error).__name__}: {error})")
