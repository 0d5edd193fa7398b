"""Load weights into a runtime, chosen by the type of the file or folder, the installed packages, and the device."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np

from detector.errors import ConfigError, FileError, MissingPackageError, WeightsError
from detector.graph.openvino_ir import XML, Ir, read_ir
from detector.letterbox import input_hw_for_aspect
from detector.options import RuntimeName
from detector.runtime.base import Runtime, first_line
from detector.weights_info import WeightsInfo


def load_runtime(
    weights: str | Path, *, device: str = "auto", runtime: RuntimeName = "auto", input_size: int | None = None
) -> tuple[Runtime, WeightsInfo]:
    """Load weights into a runtime (inference backend).

    Args:
        weights: path or shipped name of a .safetensors file; or an export, an .onnx file or the folder of an OpenVINO
            IR. Exports run without torch.
        device: device for torch, see `choose_device`. The other runtimes use the CPU.
        runtime: "auto" chooses, for an .onnx file, OpenVINO if it is installed, otherwise ONNX Runtime; for a folder
            OpenVINO; for a .safetensors file torch. The other runtimes run a .safetensors file after converting it in
            memory. All runtimes compute the same predictions in float32, except "openvino-fast": it lets OpenVINO
            choose the precision, bf16 on newer CPUs, which is several times faster and changes scores by up to about
            0.02.
        input_size: long side of the network input in pixels, a multiple of 32; None: as in training. A graph has a
            fixed input size unless it was exported as dynamic.

    Returns:
        The runtime, and the information about the weights.

    Raises:
        InputError: the weights, the runtime or the device does not exist, or they do not fit together. The kinds:
            FileError, WeightsError, ConfigError, MissingPackageError.
    """
    path = Path(weights).parent if Path(weights).name == XML else Path(weights)
    if path.suffix.lower() == ".onnx" or _is_folder(path):
        return _load_export(path, device, runtime, input_size)
    from detector.model.checkpoint import load_weights
    from detector.runtime.hardware import choose_device

    network, info = load_weights(weights)
    height, width = info.input_hw
    input_hw = info.input_hw if input_size is None else input_hw_for_aspect(input_size, width / height)
    if runtime in ("auto", "torch"):
        from detector.runtime.pytorch import TorchRuntime

        return TorchRuntime(network, input_hw, choose_device(device)), info
    _check_device(device, runtime)
    from detector.graph.to_onnx import to_onnx

    return _start_runtime(to_onnx(network, info, input_hw), str(weights), runtime)


def _load_export(path: Path, device: str, runtime: RuntimeName, input_size: int | None) -> tuple[Runtime, WeightsInfo]:
    if runtime == "torch":
        raise ConfigError(
            f"{path}: torch runs .safetensors files, not exports: use the weights that it was exported from"
        )
    _check_device(device, path.name)
    try:
        graph = read_ir(path) if path.is_dir() else path.read_bytes()
    except OSError as error:
        raise FileError(f"{path}: cannot be read ({error.strerror})") from None
    if isinstance(graph, Ir) and runtime == "onnxruntime":
        raise ConfigError(
            f"{path}: onnxruntime runs .onnx files, not the folder of an OpenVINO IR: export with --format onnx"
        )
    if runtime == "auto":
        runtime = "openvino" if isinstance(graph, Ir) or find_spec("openvino") else "onnxruntime"
    loaded, info = _start_runtime(graph, str(path), runtime, input_size)
    _check_outputs(loaded, info, path)
    return loaded, info


def _check_outputs(runtime: Runtime, info: WeightsInfo, path: Path) -> None:
    """Run a graph on a black image and raise WeightsError if it fails or its outputs do not match its metadata."""
    try:
        predictions = runtime.predict([np.zeros((*runtime.input_hw, 3), dtype=np.uint8)])
    except Exception as error:  # the runtimes' exceptions have no common base class
        reason = first_line(error)
        raise WeightsError(
            f"{path}: the graph cannot be run ({reason}): export it again from its .safetensors file"
        ) from None
    boxes, scores = predictions.boxes, predictions.scores
    points, classes = scores.shape[1:] if scores.ndim == 3 else (0, 0)
    is_empty = not points and predictions.nms is None
    if boxes.shape != (1, points, 4) or is_empty or classes != len(info.class_names):
        raise WeightsError(
            f"{path}: the graph outputs boxes {list(boxes.shape)} and scores {list(scores.shape)}, expected [1, P, 4] "
            f"and [1, P, {len(info.class_names)}]: export it again from its .safetensors file"
        )
    if not (np.isfinite(boxes).all() and np.isfinite(scores).all()):
        raise WeightsError(
            f"{path}: the graph outputs NaN or infinity: its weights are damaged; export it again from its "
            ".safetensors file"
        )


def _start_runtime(
    graph: bytes | Ir, source: str, runtime: str, input_size: int | None = None
) -> tuple[Runtime, WeightsInfo]:
    package = runtime.removesuffix("-fast")
    if not find_spec(package):
        raise MissingPackageError(f"{source}: needs the package {package}: pip install {package}")
    if package == "openvino":
        from detector.runtime.openvino import OpenVinoRuntime

        openvino = OpenVinoRuntime(graph, source, fast=runtime != package, input_size=input_size)
        return openvino, openvino.info
    from detector.runtime.onnx import OnnxRuntime

    assert isinstance(graph, bytes)
    onnx = OnnxRuntime(graph, source, input_size=input_size)
    return onnx, onnx.info


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # not a valid file name, or no permission
        return False


def _check_device(device: str, source: str) -> None:
    if device not in ("auto", "cpu"):
        raise ConfigError(f"device '{device}': {source} runs on the CPU; for a GPU use a .safetensors file with torch")
