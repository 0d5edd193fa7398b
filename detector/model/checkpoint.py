"""Weights files: safetensors with everything needed to use them in the metadata. Pickle files are never read."""

from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from detector.config import config_of
from detector.errors import ConfigError, FileError, WeightsError
from detector.files import write_atomic
from detector.model.make_network import make_network
from detector.model.network import GridNetwork, uses_spp
from detector.model.old_metadata import upgrade_metadata, upgrade_tensors
from detector.weights_info import WeightsInfo, from_metadata, to_metadata

SHIPPED = Path(__file__).parent.parent / "weights"
"""Folder of the weights that come with the package."""

_PYTORCH = "a PyTorch file, which can run code when it is loaded and is therefore not read: expected .safetensors"
_OTHER_FORMATS = {
    ".pt": _PYTORCH,
    ".pth": _PYTORCH,
    ".onnx": "an exported graph: expected the .safetensors file that it was exported from",
}
"""Suffix of a file that is not safetensors → what it is, and what was expected."""

_FLOAT_TYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def save_weights(path: Path, network: GridNetwork, info: WeightsInfo, float16: bool = False) -> None:
    """Write the weights of a network atomically: the file is either complete or not there.

    Args:
        path: file to write, ends in .safetensors.
        network: not fused.
        info: stored as JSON in the metadata.
        float16: store in float16: half the size.
    """
    tensors = {
        # The batch counters of batch norm are not stored: with a fixed momentum they are not used.
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
        The network (not fused, float32, in evaluation mode), and the information stored with it.

    Raises:
        FileError: no such file.
        WeightsError: the file is damaged, was written by another program or version, or does not fit the network that
            its metadata describes.
    """
    path = find_weights(source)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = upgrade_metadata(file.metadata() or {})
            tensors = upgrade_tensors({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118 (no mapping)
    except (SafetensorError, OSError) as error:
        found = _OTHER_FORMATS.get(path.suffix.lower(), f"not a readable safetensors file ({error})")
        raise WeightsError(f"{path}: {found}") from None
    info = from_metadata(metadata, str(path))
    try:
        config = config_of(dict(info.config) | {"model": info.model})
    except ConfigError as error:
        raise WeightsError(f"{path}: damaged, or written by another version: {error}") from None
    network = make_network(
        config,
        len(info.class_names),
        np.zeros(3, np.float32),
        np.eye(3, dtype=np.float32),
        uses_spp(info.input_hw),
    )
    _load_tensors(network, tensors, path)
    return network.eval(), info


def copy_weights(network: GridNetwork, weights: GridNetwork, all_classes: bool) -> None:
    """Copy trained weights into a network, as the start of another training run.

    Args:
        network: the network to write to; same architecture as `weights`.
        weights: the trained network, as returned by `load_weights`.
        all_classes: True: copy all layers; the classes must be the same. False: the last layer of each head, whose
            outputs are the classes, keeps its initial weights.
    """
    outputs = {id(output) for output in network.outputs}
    last_layers = tuple(f"{name}." for name, module in network.named_modules() if id(module) in outputs)
    tensors = {
        name: tensor for name, tensor in weights.state_dict().items() if all_classes or not name.startswith(last_layers)
    }
    network.load_state_dict(network.state_dict() | tensors)


def find_weights(source: str | Path) -> Path:
    """Return the path of a weights file.

    Args:
        source: a path, or the name of shipped weights.

    Raises:
        FileError: neither exists.
    """
    path = Path(source)
    try:
        if path.is_file():
            return path
    except OSError as error:  # for example a name that is too long, or a folder without permission
        raise FileError(f"{source!s:.60}: no such weights file ({error.strerror})") from None
    shipped = {file.stem: file for file in sorted(SHIPPED.glob("*.safetensors"))}
    if str(source) in shipped:
        return shipped[str(source)]
    raise FileError(
        f"{source}: no such weights file, and no shipped weights of that name (shipped: {', '.join(shipped)})"
    )


def _load_tensors(network: GridNetwork, tensors: dict[str, torch.Tensor], path: Path) -> None:
    """Copy tensors from a file into a network.

    Raises:
        WeightsError: a tensor is missing, unknown, or has a wrong shape, type or value.
    """
    expected = {name: tensor for name, tensor in network.state_dict().items() if tensor.is_floating_point()}
    for name in sorted(expected.keys() | tensors.keys()):
        if name not in tensors:
            raise WeightsError(f"{path}: tensor {name} is missing")
        if name not in expected:
            raise WeightsError(f"{path}: tensor {name} is not part of the network")
        tensor = tensors[name]
        if tensor.shape != expected[name].shape:
            raise WeightsError(
                f"{path}: tensor {name} has shape {list(tensor.shape)}, expected {list(expected[name].shape)}"
            )
        if tensor.dtype not in _FLOAT_TYPES:
            found = str(tensor.dtype).removeprefix("torch.")
            raise WeightsError(f"{path}: tensor {name} has type {found}, expected float16 or float32")
        if not torch.isfinite(tensor).all():
            raise WeightsError(f"{path}: tensor {name} contains NaN or infinite values")
    network.load_state_dict({name: tensor.float() for name, tensor in tensors.items()}, strict=False)
