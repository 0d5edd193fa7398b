"""Converts the old weights format "detector-weights-1": replaces old names of settings, metadata and tensors.

No other module contains the old names. This module does not import torch.
"""

import json
from collections.abc import Mapping
from typing import TypeVar

from detector.weights_info import FORMAT

_Tensor = TypeVar("_Tensor")

_OLD_FORMAT = "detector-weights-1"

# Old name → current name.

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
    """Return the metadata of a weights file or graph file, with old names replaced by the current names.

    Metadata of any other format is returned unchanged, as is metadata that cannot be parsed.
    """
    if metadata.get("format") != _OLD_FORMAT:
        return metadata
    upgraded = {_KEYS.get(key, key): value for key, value in metadata.items()} | {"format": FORMAT}
    for key, names in (("config", _SETTINGS), ("facts", _FACTS)):
        try:
            upgraded[key] = json.dumps(_rename_keys(json.loads(metadata[key]), names))
        except (KeyError, ValueError, AttributeError, RecursionError):
            return metadata
    return upgraded


def upgrade_tensors(tensors: Mapping[str, _Tensor]) -> dict[str, _Tensor]:
    """Return the tensors of a weights file by name, with old names replaced by the current names."""
    return _rename_keys(tensors, _TENSORS)


def _rename_keys(values: Mapping[str, _Tensor], names: Mapping[str, str]) -> dict[str, _Tensor]:
    """Return a copy of `values` whose keys are replaced as in `names`; keys that are not in `names` stay unchanged."""
    return {names.get(key, key): value for key, value in values.items()}
