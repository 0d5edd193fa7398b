"""Weights files: save, find and load trained weights, and copy them into another network.

The files are in safetensors format. Their metadata describes the network. Pickle files are never read.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from detector.config import Config, config_of
from detector.errors import ConfigError, WeightsError
from detector.files import write_atomic
from detector.model.make_network import make_network
from detector.model.network import SIZES, GridNetwork, coarsest_hw
from detector.model.old_metadata import upgrade_metadata, upgrade_tensors
from detector.outputs import SIGNATURE_KEY, UNSIGNED, sign, write_file
from detector.shipped_weights import find_weights
from detector.weights_info import WeightsInfo, check_text_lengths, from_metadata, to_metadata

_PYTORCH = "PyTorch files are not read, since they can run code when they are loaded: pass a .safetensors file"
_OTHER_FORMATS = {
    ".pt": _PYTORCH,
    ".pth": _PYTORCH,
    ".onnx": "this is an exported graph: pass the .safetensors file that was exported",
    ".tflite": "this is an exported graph: pass the .safetensors file that was exported",
}
"""Suffix of a file that is not safetensors → why the file cannot be used, and which file to pass."""

_FLOAT_TYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def save_weights(path: Path, network: GridNetwork, info: WeightsInfo, float16: bool = False) -> None:
    """Write the weights of a network to a safetensors file, atomically: an interruption leaves no incomplete file.

    Args:
        path: the file to write, with the suffix .safetensors.
        network: the network, not fused.
        info: description of the network, stored as JSON in the metadata.
        float16: True: store the weights as float16, which halves the file size.
    """
    write_atomic(path, save(tensors_to_save(network, float16), to_metadata(info)))


def tensors_to_save(network: GridNetwork, float16: bool = False) -> dict[str, torch.Tensor]:
    """Return name → tensor on the CPU, for all tensors that a weights file contains.

    Args:
        network: the network, not fused.
        float16: as for `save_weights`.
    """
    return {
        # The batch counters of batch norm are not stored: batch norm with a fixed momentum does not use them.
        name: (tensor.half() if float16 else tensor).contiguous().cpu()
        for name, tensor in network.state_dict().items()
        if tensor.is_floating_point()
    }


def load_weights(source: str | Path) -> tuple[GridNetwork, WeightsInfo]:
    """Read a weights file that `save_weights` wrote; return the network and its description.

    Args:
        source: a path, or the name of shipped weights.

    Returns:
        The network (not fused, float32, in evaluation mode), and the description stored in the file.

    Raises:
        FileError: the file does not exist, and no shipped weights have this name.
        WeightsError: the file is damaged, was written by another program or version, or contains weights that do not
            fit the network in its metadata.
    """
    path = find_weights(source)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            check_text_lengths(metadata, str(path))
            info = from_metadata(upgrade_metadata(metadata), str(path))
            config = _config_of(info, path)
            names = upgrade_tensors({name: name for name in file.keys()})  # noqa: SIM118 (no mapping)
            _check_size(info, config, [file.get_slice(stored).get_shape() for stored in names.values()], path)
            tensors = {name: file.get_tensor(stored) for name, stored in names.items()}
    except (SafetensorError, OSError) as error:
        found = _OTHER_FORMATS.get(path.suffix.lower(), f"this is not a readable safetensors file ({error})")
        raise WeightsError(f"{path}: {found}") from None
    network = make_network(
        config,
        len(info.class_names),
        np.zeros(3, np.float32),
        np.eye(3, dtype=np.float32),
        info.input_hw,
    )
    _load_tensors(network, tensors, path)
    return network.eval(), info


def copy_with_info(source: str | Path, path: Path, info: WeightsInfo) -> None:
    """Write a copy of a weights file with another description; the tensors are the same, bit by bit.

    The copy is signed; see `outputs.claim_file`, which the caller has called for the path.

    Args:
        source: a path, or the name of shipped weights; `load_weights` must have accepted it.
        path: the new file.
        info: the description of the new file.

    Raises:
        FileError: the file cannot be written.
    """
    with safe_open(find_weights(source), framework="pt") as file:
        tensors = upgrade_tensors({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118 (no mapping)
    write_file(path, sign(save(tensors, to_metadata(info) | {SIGNATURE_KEY: UNSIGNED})))


def _config_of(info: WeightsInfo, path: Path) -> Config:
    """Return the settings in a weights file; raise WeightsError if they are invalid."""
    try:
        return config_of(dict(info.config) | {"model": info.model})
    except ConfigError as error:
        raise WeightsError(f"{path}: the file is damaged, or was written by another version: {error}") from None


def _check_size(info: WeightsInfo, config: Config, shapes: Iterable[Sequence[int]], path: Path) -> None:
    """Raise WeightsError if the description in a weights file is of a much larger network than its tensors.

    Otherwise a small file could make this process create a network of gigabytes.

    Args:
        info: description of the network in the file.
        config: settings of the network in the file.
        shapes: shapes of the tensors in the file.
        path: the file.
    """
    kernels = [shape for shape in shapes if len(shape) == 4]
    if not any(shape[0] > len(info.class_names) for shape in kernels):
        raise WeightsError(
            f"{path}: the file is damaged: it names {len(info.class_names):,} classes, but no layer has that many "
            "outputs"
        )
    if not any(shape[2:] == [config.kernel, config.kernel] for shape in kernels):
        raise WeightsError(f"{path}: the file is damaged: kernel is {config.kernel}, but no layer has this kernel size")
    if config.has_fixed_input:
        try:
            rows, columns = coarsest_hw(info.input_hw, config)
        except ConfigError as error:
            raise WeightsError(f"{path}: the file is damaged: {error}") from None
        values = rows * columns * (len(info.class_names) + 5 * config.boxes_per_cell)
        hidden = [config.dense_units, SIZES[config.model].stages[-1], rows, columns]
        if hidden not in kernels or [values, config.dense_units, 1, 1] not in kernels:
            raise WeightsError(
                f"{path}: the file is damaged: it has no fully connected layers for {rows} x {columns} cells and "
                f"{config.dense_units} hidden units"
            )


def copy_weights(network: GridNetwork, weights: GridNetwork, all_classes: bool) -> None:
    """Copy trained weights into `network` in place, to start another training run from these weights.

    Fully connected layers are not copied if they are for another input size, nor if they predict other classes.

    Args:
        network: the network that receives the weights; must have the same architecture as `weights`.
        weights: the trained network, as returned by `load_weights`.
        all_classes: True: copy all layers; both networks must have the same classes. False: of the last layer of each
            head, copy only the outputs that predict boxes; the first outputs, which predict the classes, stay unchanged
            in `network`.
    """
    own, tensors = network.state_dict(), weights.state_dict()
    names = {id(module): name for name, module in network.named_modules()}
    outputs = [] if all_classes else [names[id(output)] for output in network.outputs]
    fixed = [names[id(layer)] for layer in network.fixed_size_layers]
    for name in outputs:
        if name not in fixed:
            for key in (f"{name}.weight", f"{name}.bias"):
                tensors[key] = torch.cat([own[key][: network.class_count], tensors[key][weights.class_count :]])
    for name in fixed:
        if name in outputs or network.input_hw != weights.input_hw:
            tensors |= {key: tensor for key, tensor in own.items() if key.startswith(f"{name}.")}
    network.load_state_dict(tensors)


def _load_tensors(network: GridNetwork, tensors: dict[str, torch.Tensor], path: Path) -> None:
    """Check the tensors of a weights file and copy them into `network`, in place.

    Raises:
        WeightsError: a tensor is missing or unknown, or has a wrong shape or type, or values that are not finite.
    """
    expected = {name: tensor for name, tensor in network.state_dict().items() if tensor.is_floating_point()}
    for name in sorted(expected.keys() | tensors.keys()):
        if name not in tensors:
            raise WeightsError(f"{path}: the tensor {name} is missing")
        if name not in expected:
            raise WeightsError(f"{path}: the tensor {name} is not part of the network")
        tensor = tensors[name]
        if tensor.shape != expected[name].shape:
            raise WeightsError(
                f"{path}: the tensor {name} has shape {list(tensor.shape)}, expected {list(expected[name].shape)}"
            )
        if tensor.dtype not in _FLOAT_TYPES:
            found = str(tensor.dtype).removeprefix("torch.")
            raise WeightsError(f"{path}: the tensor {name} has type {found}, expected float16 or float32")
        if not torch.isfinite(tensor).all():
            raise WeightsError(f"{path}: the tensor {name} contains NaN or infinite values")
    network.load_state_dict({name: tensor.float() for name, tensor in tensors.items()}, strict=False)
