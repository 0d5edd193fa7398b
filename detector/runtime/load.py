"""From weights to a runtime: by what the file or folder is, what is installed, and what the machine has."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np

from detector.errors import InputError
from detector.graph.openvino_ir import XML, Ir, read_ir
from detector.letterbox import input_hw_for_aspect
from detector.options import RuntimeName
from detector.runtime.base import Runtime, first_line
from detector.weights_info import WeightsInfo


def load_runtime(
    weights: str | Path, runtime: RuntimeName = "auto", device: str = "auto", long_side: int | None = None
) -> tuple[Runtime, WeightsInfo]:
    """Load weights into a runtime.

    Args:
        weights: .safetensors by path or shipped name; or what `export` wrote, an .onnx file or a folder with an
            OpenVINO IR, which are used without torch.
        runtime: "auto" takes, for .onnx, OpenVINO where it is installed, else ONNX Runtime; for a folder OpenVINO; for
            .safetensors torch.
            Safetensors run in the others after a conversion in memory. All of these give the same answers but
            "openvino-fast", which lets OpenVINO choose its precision: bf16 on newer processors, several times faster,
            scores off by up to about 0.02.
        device: for torch: where to run. The others run on the CPU.
        long_side: of the canvas in pixels, divides by 32; None: as trained. A graph has the one it was exported with,
            unless it is dynamic.

    Raises:
        InputError: no such weights, runtime or device, or they do not go together.
    """
    path = Path(weights).parent if Path(weights).name == XML else Path(weights)
    if path.suffix.lower() == ".onnx" or _is_folder(path):
        return _load_graph(path, runtime, device, long_side)
    from detector.model.checkpoint import load_weights
    from detector.runtime.hardware import choose_device

    network, info = load_weights(weights)
    height, width = info.input_hw
    input_hw = info.input_hw if long_side is None else input_hw_for_aspect(long_side, width / height)
    if runtime in ("auto", "torch"):
        from detector.runtime.pytorch import TorchRuntime

        return TorchRuntime(network, input_hw, choose_device(device)), info
    _check_device(device, runtime)
    from detector.graph.to_onnx import to_onnx

    return _start(to_onnx(network, info, input_hw), str(weights), runtime)


def _load_graph(path: Path, runtime: RuntimeName, device: str, long_side: int | None) -> tuple[Runtime, WeightsInfo]:
    if runtime == "torch":
        raise InputError(f"{path}: torch runs .safetensors, not an export: use the weights it was exported from")
    _check_device(device, path.name)
    try:
        graph = read_ir(path) if path.is_dir() else path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    if isinstance(graph, Ir) and runtime == "onnxruntime":
        raise InputError(f"{path}: onnxruntime runs .onnx, not a folder for OpenVINO: export with --format onnx")
    if runtime == "auto":
        runtime = "openvino" if isinstance(graph, Ir) or find_spec("openvino") else "onnxruntime"
    started, info = _start(graph, str(path), runtime, long_side)
    _try_out(started, info, path)
    return started, info


def _try_out(runtime: Runtime, info: WeightsInfo, path: Path) -> None:
    """Refuse a graph that does not answer as its metadata say, before it is asked about an image."""
    try:
        answer = runtime.predict([np.zeros((*runtime.input_hw, 3), dtype=np.uint8)])
    except Exception as error:  # the runtimes' own classes have no common parent
        reason = first_line(error)
        raise InputError(f"{path}: the graph does not run ({reason}): export it again from its .safetensors") from None
    points, classes = answer.scores.shape[1:] if answer.scores.ndim == 3 else (0, 0)
    is_empty = not points and answer.nms is None
    if answer.boxes.shape != (1, points, 4) or is_empty or classes != len(info.class_names):
        shapes = f"boxes {list(answer.boxes.shape)}, scores {list(answer.scores.shape)}"
        raise InputError(
            f"{path}: the graph answers {shapes}, expected [1, P, 4] and [1, P, {len(info.class_names)}]: "
            "export it again from its .safetensors"
        )
    if not (np.isfinite(answer.boxes).all() and np.isfinite(answer.scores).all()):
        raise InputError(f"{path}: the graph answers what are no numbers: its weights are damaged")


def _start(graph: bytes | Ir, source: str, runtime: str, long_side: int | None = None) -> tuple[Runtime, WeightsInfo]:
    package = runtime.removesuffix("-fast")
    if not find_spec(package):
        raise InputError(f"{source}: needs {package}, which is not installed: pip install {package}")
    if package == "openvino":
        from detector.runtime.openvino import OpenVinoRuntime

        openvino = OpenVinoRuntime(graph, source, runtime != package, long_side)
        return openvino, openvino.info
    from detector.runtime.onnx import OnnxRuntime

    assert isinstance(graph, bytes)
    onnx = OnnxRuntime(graph, source, long_side)
    return onnx, onnx.info


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # no name a file can have, or not for us to see
        return False


def _check_device(device: str, what: str) -> None:
    if device not in ("auto", "cpu"):
        raise InputError(f"device '{device}': {what} runs on the CPU here; for a GPU use .safetensors with torch")
