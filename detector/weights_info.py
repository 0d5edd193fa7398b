"""What trained weights say about themselves; travels as text in the metadata of every file they are kept in."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from detector.errors import InputError
from detector.letterbox import check_side

FORMAT = "detector-weights-1"


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
        values = {key: json.loads(metadata[key]) for key in WeightsInfo.__dataclass_fields__}
        info = WeightsInfo(
            model=values["model"],
            class_names=tuple(values["class_names"]),
            category_ids=tuple(values["category_ids"]),
            canvas_hw=(int(values["canvas_hw"][0]), int(values["canvas_hw"][1])),
            config=values["config"],
            facts=values["facts"],
        )
        if len(info.category_ids) != len(info.class_names):
            raise ValueError(f"{len(info.class_names)} class names, {len(info.category_ids)} category ids")
        for side in info.canvas_hw:
            check_side(side)
    except (KeyError, ValueError, TypeError, IndexError) as error:
        raise damaged(source, error) from None
    return info


def damaged(source: str, error: Exception) -> InputError:
    """Return the error to raise for metadata that make no sense."""
    return InputError(f"{source}: the metadata are damaged ({type(error).__name__}: {error})")
