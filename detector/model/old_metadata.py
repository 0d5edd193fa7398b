"""Renames the settings, metadata and tensors of weights files in the old format "detector-weights-1".

No other module knows the old names. Does not import torch.
"""

import json
from collections.abc import Mapping
from typing import TypeVar

from detector.weights_info import FORMAT

_Tensor = TypeVar("_Tensor")

_OLD_FORMAT = "detector-weights-1"

_KEYS = {"canvas_hw": "input_hw"}

_SETTINGS = {
    "canvas": "input_size",
    "first_canvas": "first_input_size",
    "flat": "lr_decay_start",
    "int8_from": "qat_start",
    "clean_end": "mosaic_off",
    "half": "save_float16",
    "mirror": "flip",
    "mirror_vertical": "flip_vertical",
    "colour_gain": "color_gain",
    "pca_colour": "pca_color",
    "init_deviation": "init_std",
    "lr_rest": "lr_adamw",
    "square_weight": "squared_error_weight",
    "coordinate_weight": "coord_weight",
    "empty_weight": "noobj_weight",
    "assign_reach": "assign_radius",
}

_FACTS = {"pictures": "images", "canvas": "input_size"}

_TENSORS = {
    "colour_mean": "color_mean",
    "colour_deviation": "color_std",
    "colour_mixing": "color_mixing",
}


def upgrade_metadata(metadata: Mapping[str, str]) -> Mapping[str, str]:
    """Return the metadata of a weights or graph file with the current names.

    Metadata of any other format, and metadata that cannot be parsed, is returned unchanged.
    """
    if metadata.get("format") != _OLD_FORMAT:
        return metadata
    upgraded = {_KEYS.get(key, key): value for key, value in metadata.items()} | {"format": FORMAT}
    for key, names in (("config", _SETTINGS), ("facts", _FACTS)):
        try:
            upgraded[key] = json.dumps(_renamed(json.loads(metadata[key]), names))
        except (KeyError, ValueError, AttributeError, RecursionError):
            return metadata
    return upgraded


def upgrade_tensors(tensors: Mapping[str, _Tensor]) -> dict[str, _Tensor]:
    """Return the tensors of a weights file with the current names."""
    return _renamed(tensors, _TENSORS)


def _renamed(values: Mapping[str, _Tensor], names: Mapping[str, str]) -> dict[str, _Tensor]:
    return {names.get(key, key): value for key, value in values.items()}
