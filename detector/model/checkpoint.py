"""Weights on disk: safetensors with everything needed to use them in the metadata; never pickle."""

from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from detector.config import config_of
from detector.errors import InputError
from detector.files import write_atomic
from detector.model.network import GridNetwork, uses_spp
from detector.model.old_metadata import upgrade_metadata, upgrade_tensors
from detector.weights_info import WeightsInfo, from_metadata, to_metadata

SHIPPED = Path(__file__).parent.parent / "weights"
"""Folder of the weights that come with the package."""

_PYTORCH = "a file of PyTorch's, which may run code when it is loaded and is not read: expected .safetensors"
_OTHER_MAKES = {
    ".pt": _PYTORCH,
    ".pth": _PYTORCH,
    ".onnx": "an export: expected the .safetensors it came from",
}
"""Ending of what is no safetensors file → what it is and what was expected."""


def save_weights(path: Path, network: GridNetwork, info: WeightsInfo, float16: bool = False) -> None:
    """Write a network's weights; the file appears whole or not at all.

    Args:
        path: ends in .safetensors.
        network: not fused.
        info: goes into the metadata as JSON.
        float16: store in float16, half the size.
    """
    tensors = {
        # The batch counters of batch norm are not needed: its momentum is fixed.
        name: (tensor.half() if float16 else tensor).contiguous().cpu()
        for name, tensor in network.state_dict().items()
        if tensor.is_floating_point()
    }
    write_atomic(path, save(tensors, to_metadata(info)))


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
            metadata = upgrade_metadata(file.metadata() or {})
            tensors = upgrade_tensors({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118 (no mapping)
    except (SafetensorError, OSError) as error:
        what = _OTHER_MAKES.get(path.suffix.lower(), f"not a readable safetensors file ({error})")
        raise InputError(f"{path}: {what}") from None
    info = from_metadata(metadata, str(path))
    try:
        config = config_of(dict(info.config) | {"model": info.model})
    except InputError as error:
        raise InputError(f"{path}: made by another version, or damaged: {error}") from None
    network = GridNetwork(
        config,
        len(info.class_names),
        np.zeros(3, np.float32),
        np.eye(3, dtype=np.float32),
        uses_spp(info.input_hw),
    )
    _load_tensors(network, tensors, path)
    return network.eval(), info


def copy_weights(network: GridNetwork, weights: GridNetwork, all_classes: bool) -> None:
    """Begin with the numbers of trained weights.

    Args:
        network: of the same make; changed.
        weights: as `load_weights` gave them.
        all_classes: the classes are the same; else the last layers keep their first numbers.
    """
    own_last = {f"{name}." for name, module in network.named_modules() if any(module is o for o in network.outputs)}
    tensors = {
        name: tensor
        for name, tensor in weights.state_dict().items()
        if all_classes or not name.startswith(tuple(own_last))
    }
    network.load_state_dict(network.state_dict() | tensors)


def find_weights(source: str | Path) -> Path:
    """Return the path of weights given by path or by shipped name.

    Raises:
        InputError: there are none.
    """
    path = Path(source)
    try:
        if path.is_file():
            return path
    except OSError as error:  # no name a file can have, or not for us to see
        raise InputError(f"{source!s:.60}: no such weights file ({error.strerror})") from None
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
        if tensors[name].dtype not in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
            raise InputError(f"{path}: tensor {name} is of {tensors[name].dtype}, expected float16 or float32")
        if not torch.isfinite(tensors[name]).all():
            raise InputError(f"{path}: tensor {name} holds values that are not numbers")
    network.load_state_dict({name: tensor.float() for name, tensor in tensors.items()}, strict=False)
