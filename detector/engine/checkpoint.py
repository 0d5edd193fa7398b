"""Weights on disk: safetensors with everything needed to use them in the metadata; never pickle."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from detector.errors import InputError
from detector.letterbox import check_side
from detector.model.network import SIZES, GridNetwork, wants_pooling

FORMAT = "detector-weights-1"

SHIPPED = Path(__file__).parent.parent / "weights"
"""Folder of the weights that come with the package."""


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


def save_weights(path: Path, network: GridNetwork, info: WeightsInfo, half: bool = False) -> None:
    """Write a network's weights; the file appears whole or not at all.

    Args:
        path: ends in .safetensors.
        network: not fused.
        info: goes into the metadata as JSON.
        half: store in float16, half the size.
    """
    tensors = {
        # The batch counters of batch norm are not needed: its momentum is fixed.
        name: (tensor.half() if half else tensor).contiguous().cpu()
        for name, tensor in network.state_dict().items()
        if tensor.is_floating_point()
    }
    metadata = {"format": FORMAT} | {key: json.dumps(value) for key, value in asdict(info).items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".part")
    # Not save_file, which makes files that only their owner may read.
    temporary.write_bytes(save(tensors, metadata))
    temporary.replace(path)


def load_weights(source: str | Path) -> tuple[GridNetwork, WeightsInfo]:
    """Read weights that `save_weights` wrote.

    Args:
        source: a path, or the name of shipped weights.

    Returns:
        The network (not fused, float32, evaluation mode) and what the file says about it.

    Raises:
        InputError: no such file, damaged, of another program, or not fitting the network it names.
    """
    path = find_weights(source)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: not a readable safetensors file ({error})") from None
    if metadata.get("format") != FORMAT:
        said = metadata.get("format")
        raise InputError(
            f"{path}: weights of another program or version (format {said!r}, expected {FORMAT!r}): "
            "use weights that `detector train` wrote"
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
        network = GridNetwork(
            SIZES[info.model],
            len(info.class_names),
            np.zeros(3, np.float32),
            np.ones(3, np.float32),
            wants_pooling(info.canvas_hw),
        )
    except (KeyError, ValueError, TypeError, IndexError) as error:
        raise InputError(f"{path}: the metadata are damaged ({type(error).__name__}: {error})") from None
    _load_tensors(network, tensors, path)
    return network.eval(), info


def find_weights(source: str | Path) -> Path:
    """Return the path of weights given by path or by shipped name.

    Raises:
        InputError: there are none.
    """
    path = Path(source)
    if path.is_file():
        return path
    shipped = {file.stem: file for file in sorted(SHIPPED.glob("*.safetensors"))}
    if str(source) in shipped:
        return shipped[str(source)]
    raise InputError(f"{source}: no such weights file, and no shipped weights of that name ({', '.join(shipped)})")


def _load_tensors(network: GridNetwork, tensors: dict[str, torch.Tensor], path: Path) -> None:
    wanted = {name: tensor for name, tensor in network.state_dict().items() if tensor.is_floating_point()}
    for name in sorted(wanted.keys() | tensors.keys()):
        if name not in tensors:
            raise InputError(f"{path}: tensor {name} is missing")
        if name not in wanted:
            raise InputError(f"{path}: tensor {name} is not a part of the network")
        if tensors[name].shape != wanted[name].shape:
            raise InputError(
                f"{path}: tensor {name} has shape {list(tensors[name].shape)}, expected {list(wanted[name].shape)}"
            )
        if not torch.isfinite(tensors[name]).all():
            raise InputError(f"{path}: tensor {name} holds values that are not numbers")
    network.load_state_dict({name: tensor.float() for name, tensor in tensors.items()}, strict=False)
