"""Load weights into a runtime (inference backend).

The type of the file or folder and the installed packages determine the default runtime.
"""

import threading
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import get_args

import numpy as np

from detector.cache import cache_key, read_entry, write_entry
from detector.errors import ConfigError, FileError, MissingPackageError, WeightsError
from detector.files import file_sha256
from detector.forks import no_fork
from detector.graph.export_format import SUFFIXES, Format, format_of_export
from detector.graph.openvino_ir import Ir, read_ir
from detector.options import RuntimeName
from detector.runtime.base import Runtime, summarize_error
from detector.runtime.instruction_set import warn_if_inexact
from detector.runtime.origin import export_path, is_folder
from detector.shipped_weights import find_weights
from detector.threads import available_cpus, check_threads
from detector.weights_info import WeightsInfo
from detector.wording import shown

_EXTRAS = {"onnxruntime": "onnx", "ai_edge_litert": "litert"}
"""Package of a runtime → extra that installs it, if the names differ."""

_OTHER_FORMATS: dict[RuntimeName, Format] = {"ncnn": "ncnn", "litert": "litert"}
"""Runtime that runs only exports of a format of its own → that format."""

_BUILDING = threading.Lock()
"""Held while weights are converted to a graph, so that threads that load the same weights convert them once."""


@no_fork()
def load_runtime(
    weights: str | Path,
    *,
    device: str = "auto",
    runtime: RuntimeName = "auto",
    input_size: int | None = None,
    threads: int | None = None,
    cache: bool = True,
) -> tuple[Runtime, WeightsInfo]:
    """Load weights into a runtime (inference backend), and return the runtime and the information about the weights.

    Several threads may load weights at the same time.

    Args:
        weights: path of a .safetensors file, name of shipped weights, or path of an export. An export is an .onnx file
            or the folder of an OpenVINO IR (the path of its model.xml is accepted too), the folder of an ncnn model (or
            its model.ncnn.param), or a .tflite file; it runs without torch. A file may be at a URL.
        device: device for torch, with a name as in `choose_device`. The other runtimes use the CPU and accept only
            "auto" and "cpu".
        runtime: "auto" selects torch for a .safetensors file, and OpenVINO for the folder of an OpenVINO IR. For an
            .onnx file, "auto" selects OpenVINO if it is installed, else ONNX Runtime. "ncnn" and "litert" run only
            exports of their own formats, and are the only ones that do. If another runtime than torch
            runs a .safetensors file, the weights are first converted to a graph. All runtimes compute the same
            predictions in float32, except "openvino-fast": there OpenVINO chooses the precision. On newer CPUs this is
            bf16, which is several times faster and changes scores by up to about 0.02.
        input_size: long side of the network input in pixels, a multiple of 32. None: the input size of the training or
            of the export. An export has a fixed input size unless it is dynamic.
        threads: largest number of CPU threads that run the network, at least 1. None: OMP_NUM_THREADS if it is set,
            else one per CPU core, but not more than the CPUs that this process may use. For torch, the number applies
            to the whole process.
        cache: whether to keep a graph that was converted from a .safetensors file in the cache, and to use it there.

    Raises:
        FileError: the weights do not exist or cannot be read.
        WeightsError: the weights are damaged, or the export has another fixed input size.
        ConfigError: the device is not available, `input_size` is not a multiple of 32, `threads` is not in 1..1024,
            the runtime is unknown, or runtime, device and weights cannot be combined.
        MissingPackageError: the runtime is not installed.
    """
    check_threads(threads)
    if runtime not in get_args(RuntimeName):
        known = ", ".join(get_args(RuntimeName))
        raise ConfigError(f"runtime: expected one of {known}, got {shown(runtime)}")
    if not isinstance(device, str):
        raise ConfigError(f"device: expected a name such as 'cpu' or 'cuda:1', got {shown(device)}")
    path = export_path(weights)
    is_export = path.suffix.lower() in (".onnx", *SUFFIXES.values()) or is_folder(path)
    if is_export:
        return _load_export(path, device, runtime, input_size, threads)
    from detector.runtime.hardware import limit_threads

    if runtime in ("auto", "torch"):
        return _load_torch(weights, device, input_size, threads)
    if runtime in _OTHER_FORMATS:
        raise ConfigError(
            f"{weights}: {runtime} runs only exports of its own format; export the weights with `detector export "
            f"--format {_OTHER_FORMATS[runtime]}`, and load the export"
        )
    _check_device(device, runtime)
    limit_threads(None)
    graph = _graph_of(weights, input_size, cache)
    return _start_runtime(graph, str(weights), runtime, threads=threads)


def _load_torch(
    weights: str | Path, device: str, input_size: int | None, threads: int | None
) -> tuple[Runtime, WeightsInfo]:
    """Load a .safetensors file into PyTorch. The arguments and errors are those of `load_runtime`."""
    import torch

    from detector.model.checkpoint import load_weights
    from detector.runtime.hardware import choose_device, limit_threads
    from detector.runtime.pytorch import TorchRuntime

    if threads is None and torch.get_num_threads() > available_cpus():
        threads = available_cpus()
    limit_threads(threads)
    network, info = load_weights(weights)
    input_hw = info.choose_input_hw(input_size, str(weights))
    return TorchRuntime(network, input_hw, choose_device(device), threads=threads), info


def _graph_of(weights: str | Path, input_size: int | None, cache: bool) -> bytes:
    """Return the ONNX graph of a .safetensors file, from the cache if possible.

    Args:
        weights: path of a .safetensors file, or name of shipped weights.
        input_size: long side of the network input in pixels; None: as in training.
        cache: whether to use the cache.

    Raises:
        InputError: the weights cannot be read, or the input size is invalid.
    """
    from detector.graph.to_onnx import code_hash, to_onnx
    from detector.model.checkpoint import load_weights

    path = find_weights(weights)
    weights_hash = file_sha256(path)
    key = cache_key("onnx graph", weights_hash, input_size, code_hash(), version("torch"), _version_of_onnx())
    with _BUILDING:
        if cache and (graph := read_entry(key)) is not None:
            return graph
        network, info = load_weights(weights)
        graph = to_onnx(network, info, info.choose_input_hw(input_size, str(weights)))
        if cache and file_sha256(path) == weights_hash:  # the file was not replaced in the meantime
            write_entry(key, graph)
    return graph


def _version_of_onnx() -> str | None:
    """Return the version of the package onnx; None if it is not installed."""
    return version("onnx") if find_spec("onnx") else None


def _load_export(
    path: Path, device: str, runtime: RuntimeName, input_size: int | None, threads: int | None
) -> tuple[Runtime, WeightsInfo]:
    """Load an export of any format; return the runtime and information about the weights.

    The arguments and errors are those of `load_runtime`. The outputs of the graph are checked on a black image.
    """
    if runtime == "torch":
        raise ConfigError(
            f"{path}: torch runs .safetensors files, not exports; use another --runtime, or the .safetensors file from "
            "which this file was exported"
        )
    _check_device(device, path.name)
    format = format_of_export(path)
    if format == "coreml":
        raise ConfigError(
            f"{path}: a Core ML package runs only on devices of Apple, in an app; this package cannot run it. Use the "
            "weights from which it was exported, or an export to another format"
        )
    if format in _OTHER_FORMATS.values() or runtime in _OTHER_FORMATS:
        loaded, info = _start_other(path, format, runtime, input_size, threads)
        _check_outputs(loaded, info, path)
        return loaded, info
    try:
        graph = read_ir(path) if path.is_dir() else path.read_bytes()
    except OSError as error:
        raise FileError(f"{path}: cannot be read ({error.strerror})") from None
    if isinstance(graph, Ir) and runtime == "onnxruntime":
        raise ConfigError(
            f"{path}: onnxruntime runs .onnx files, not the folder of an OpenVINO IR; use --runtime openvino, or "
            "export with --format onnx"
        )
    if runtime == "auto":
        runtime = "openvino" if isinstance(graph, Ir) or find_spec("openvino") else "onnxruntime"
    loaded, info = _start_runtime(graph, str(path), runtime, input_size, threads)
    _check_outputs(loaded, info, path)
    return loaded, info


def _check_outputs(runtime: Runtime, info: WeightsInfo, path: Path) -> None:
    """Raise WeightsError if the graph fails on a black image, or if its outputs there do not match its metadata."""
    try:
        predictions = runtime.predict([np.zeros((*runtime.input_hw, 3), dtype=np.uint8)])
    except Exception as error:  # the exceptions of the runtimes have no common base class
        reason = summarize_error(error)
        raise WeightsError(
            f"{path}: the graph cannot run ({reason}); export it again from its .safetensors file"
        ) from None
    boxes, scores = predictions.boxes, predictions.scores
    points, classes = scores.shape[1:] if scores.ndim == 3 else (0, 0)
    is_empty = not points and predictions.nms is None
    if boxes.shape != (1, points, 4) or is_empty or classes != len(info.class_names):
        raise WeightsError(
            f"{path}: the graph outputs boxes {list(boxes.shape)} and scores {list(scores.shape)}, expected [1, P, 4] "
            f"and [1, P, {len(info.class_names)}]; export it again from its .safetensors file"
        )
    if not (np.isfinite(boxes).all() and np.isfinite(scores).all()):
        raise WeightsError(
            f"{path}: the graph outputs NaN or infinity for a black image: its weights are damaged, or give values "
            "that are too large for this runtime, as random weights may; export it again from its .safetensors file, "
            "or to another format"
        )


def _start_runtime(
    graph: bytes | Ir, source: str, runtime: str, input_size: int | None = None, threads: int | None = None
) -> tuple[Runtime, WeightsInfo]:
    """Load a graph into OpenVINO or ONNX Runtime; return the runtime and the information about the weights.

    Args:
        graph: bytes of an ONNX file, or an OpenVINO IR.
        source: name of the file or folder, for error messages.
        runtime: "onnxruntime", "openvino" or "openvino-fast".
        input_size: long side of the network input in pixels; None: the input size of the export.
        threads: as for `load_runtime`.

    Raises:
        MissingPackageError: the runtime is not installed.
        WeightsError: the graph is damaged, another program wrote it, or it has another fixed input size.
        ConfigError: `input_size` is not a multiple of 32.
    """
    package = runtime.removesuffix("-fast")
    _check_package(package, runtime, source)
    if package == "openvino":
        from detector.runtime.openvino import OpenVinoRuntime

        openvino = OpenVinoRuntime(graph, source, fast=runtime != package, input_size=input_size, threads=threads)
        warn_if_inexact(openvino.graph_info, source)
        return openvino, openvino.info
    from detector.runtime.onnx import OnnxRuntime

    assert isinstance(graph, bytes)
    onnx = OnnxRuntime(graph, source, input_size=input_size, threads=threads)
    warn_if_inexact(onnx.graph_info, source)
    return onnx, onnx.info


def _start_other(
    path: Path, format: Format, runtime: RuntimeName, input_size: int | None, threads: int | None
) -> tuple[Runtime, WeightsInfo]:
    """Load an export of a format that only one runtime runs. The arguments and errors are those of `load_runtime`.

    Args:
        path: path of the export.
        format: its format.
        runtime: the requested runtime.
        input_size: as for `load_runtime`.
        threads: as for `load_runtime`.
    """
    if runtime not in ("auto", format):
        own = next((name for name, its in _OTHER_FORMATS.items() if its == format), "auto")
        raise ConfigError(
            f"{path}: {runtime} cannot run this export (format {format}); use --runtime {own} or leave it out"
        )
    if format == "ncnn":
        _check_package("ncnn", "ncnn", str(path))
        from detector.runtime.ncnn import NcnnRuntime

        ncnn = NcnnRuntime(path, input_size=input_size, threads=threads)
        return ncnn, ncnn.info
    _check_package("ai_edge_litert", "litert", str(path))
    from detector.runtime.litert import LiteRtRuntime

    litert = LiteRtRuntime(path, input_size=input_size, threads=threads)
    return litert, litert.info


def _check_package(package: str, runtime: str, source: str) -> None:
    """Raise MissingPackageError if the package of a runtime is not installed; `source` is the file or folder."""
    if not find_spec(package):
        raise MissingPackageError(
            f"{source}: the runtime {runtime} needs the package {package}: pip install "
            f"'grid-detector[{_EXTRAS.get(package, package)}]'"
        )


def _check_device(device: str, source: str) -> None:
    """Raise ConfigError if `device` is neither "auto" nor "cpu"; `source` is the name of the runtime or export."""
    if device not in ("auto", "cpu"):
        raise ConfigError(
            f"device '{device}': {source} runs only on the CPU; for a GPU, use a .safetensors file with --runtime torch"
        )
