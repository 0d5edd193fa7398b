"""From weights to a runtime: by what the file is, what is installed, and what the machine has."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np

from detector.config import RuntimeName
from detector.errors import InputError
from detector.letterbox import canvas_of_aspect
from detector.runtime.runtime import Runtime, first_line
from detector.weights_info import WeightsInfo


def load_runtime(
    weights: str | Path, runtime: RuntimeName = "auto", device: str = "auto", long_side: int | None = None
) -> tuple[Runtime, WeightsInfo]:
    """Load weights into a runtime.

    Args:
        weights: .safetensors by path or shipped name; or .onnx, which is used without torch.
        runtime: "auto" takes, for .onnx, OpenVINO where it is installed, else ONNX Runtime; for .safetensors torch.
            Safetensors run in the others after a conversion in memory. All of these give the same answers but
            "openvino-fast", which lets OpenVINO choose its precision: bf16 on newer processors, several times faster,
            scores off by up to about 0.02.
        device: for torch: where to run. The others run on the CPU.
        long_side: of the canvas in pixels, divides by 32; None: as trained. A graph has the one it was exported with.

    Raises:
        InputError: no such weights, runtime or device, or they do not go together.
    """
    if Path(weights).suffix.lower() == ".onnx":
        return _load_graph(Path(weights), runtime, device, long_side)
    from detector.model.checkpoint import load_weights
    from detector.runtime.machine import choose_device

    network, info = load_weights(weights)
    height, width = info.canvas_hw
    canvas_hw = info.canvas_hw if long_side is None else canvas_of_aspect(long_side, width / height)
    if runtime in ("auto", "torch"):
        from detector.runtime.pytorch import TorchRuntime

        return TorchRuntime(network, canvas_hw, choose_device(device)), info
    _check_device(device, runtime)
    from detector.runtime.graph import to_onnx

    return _start(to_onnx(network, info, canvas_hw), str(weights), runtime)


def _load_graph(path: Path, runtime: RuntimeName, device: str, long_side: int | None) -> tuple[Runtime, WeightsInfo]:
    if runtime == "torch":
        raise InputError(f"{path}: torch runs .safetensors, not .onnx: use the weights it was exported from")
    _check_device(device, path.name)
    try:
        graph = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    if runtime == "auto":
        runtime = "openvino" if find_spec("openvino") else "onnxruntime"
    started, info = _start(graph, str(path), runtime)
    _try_out(started, info, path)
    if long_side is not None and long_side != max(started.canvas_hw):
        raise InputError(
            f"{path}: was exported for a canvas of {max(started.canvas_hw)} pixels and cannot take {long_side}: "
            f"export it again with --imgsz {long_side}"
        )
    return started, info


def _try_out(runtime: Runtime, info: WeightsInfo, path: Path) -> None:
    """Refuse a graph that does not answer as its metadata say, before it is asked about a picture."""
    try:
        answer = runtime.predict([np.zeros((*runtime.canvas_hw, 3), dtype=np.uint8)])
    except Exception as error:  # the runtimes' own classes have no common parent
        reason = first_line(error)
        raise InputError(f"{path}: the graph does not run ({reason}): export it again from its .safetensors") from None
    points, classes = answer.scores.shape[1:] if answer.scores.ndim == 3 else (0, 0)
    if answer.boxes.shape != (1, points, 4) or not points or classes != len(info.class_names):
        shapes = f"boxes {list(answer.boxes.shape)}, scores {list(answer.scores.shape)}"
        raise InputError(
            f"{path}: the graph answers {shapes}, expected [1, P, 4] and [1, P, {len(info.class_names)}]: "
            "export it again from its .safetensors"
        )
    if not (np.isfinite(answer.boxes).all() and np.isfinite(answer.scores).all()):
        raise InputError(f"{path}: the graph answers what are no numbers: its weights are damaged")


def _start(graph: bytes, source: str, runtime: str) -> tuple[Runtime, WeightsInfo]:
    package = runtime.removesuffix("-fast")
    if not find_spec(package):
        extra = "onnx" if package == "onnxruntime" else package
        raise InputError(f"{source}: needs {package}, which is not installed: pip install 'detector[{extra}]'")
    if package == "openvino":
        from detector.runtime.openvino import OpenVinoRuntime

        openvino = OpenVinoRuntime(graph, source, fast=runtime != package)
        return openvino, openvino.info
    from detector.runtime.onnx import OnnxRuntime

    onnx = OnnxRuntime(graph, source)
    return onnx, onnx.info


def _check_device(device: str, what: str) -> None:
    if device not in ("auto", "cpu"):
        raise InputError(f"device '{device}': {what} runs on the CPU here; for a GPU use .safetensors with torch")
