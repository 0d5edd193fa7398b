"""Export: from weights to a file or folder that runs without torch."""

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from detector.arrays import ImageArray
from detector.config import config_of
from detector.data.open_data import open_data
from detector.data.split import evenly_spaced
from detector.errors import InputError
from detector.files import write_atomic
from detector.graph.int8_onnx import quantize
from detector.graph.metadata import NmsSettings
from detector.graph.nms_in_graph import suppress_inside
from detector.graph.openvino_ir import BIN, XML, is_ir, to_ir
from detector.graph.to_onnx import to_onnx
from detector.letterbox import input_hw_for_aspect, letterbox_image
from detector.media.sources import Source, sources_of
from detector.model.checkpoint import load_weights
from detector.weights_info import FORMAT, WeightsInfo

CERTIFICATE = "certificate.json"
"""Name of the certificate in an exported folder."""

Format = Literal["onnx", "openvino"]

_LEAST_IMAGES, _IMAGES = 16, 128
"""Images to see the ranges of activations on: with fewer they are chance, with more they hardly change."""


def export(
    weights: str | Path,
    path: Path,
    format: Format = "onnx",
    long_side: int | None = None,
    int8_images: Sequence[Source] | None = None,
    nms: NmsSettings | None = None,
    dynamic: bool = False,
) -> tuple[int, int]:
    """Write weights as an ONNX file, or as a folder with an OpenVINO IR; it appears whole or not at all.

    Args:
        weights: .safetensors by path or shipped name.
        path: a file that ends in .onnx; for "openvino" a folder, new, empty, or such an export, which is replaced.
        format: what is written.
        long_side: of the canvas in pixels, divides by 32; None: as trained.
        int8_images: compute in eight-bit integers, in the ranges seen on these images (128 of them are looked at).
        nms: suppress inside the graph, with these thresholds for ever; None: every point answers.
        dynamic: take an input of any size.

    Returns:
        The canvas (height, width).

    Raises:
        InputError: no such weights or canvas, a path that will not do or cannot be written, a package is missing, the
            images are too few or cannot be read, or such a network cannot be exported so.
    """
    (_check_folder if format == "openvino" else _check_file)(path)
    network, info = load_weights(weights)
    if nms is not None:
        _check_suppression(info)
    height, width = info.input_hw
    input_hw = info.input_hw if long_side is None else input_hw_for_aspect(long_side, width / height)
    inputs = None if int8_images is None else _calibration(int8_images, input_hw)
    graph = to_onnx(network, info, input_hw, dynamic)
    if format == "onnx" and inputs is not None:
        graph = quantize(graph, inputs)
    if nms is not None:
        graph = suppress_inside(graph, nms)
    if format == "openvino":
        ir = to_ir(graph, inputs)
        _write_folder(path, {XML: ir.xml, BIN: ir.numbers})
    else:
        write_atomic(path, graph)
    return input_hw


def training_images(data: str | Path, allow_outside: bool = False) -> list[Source]:
    """Return the training images of a data set, to see the ranges of eight-bit integers on.

    Args:
        data: anything `open_data` takes.
        allow_outside: as of `open_data`.

    Raises:
        InputError: as of `open_data`, or it has no training images.
    """
    return sources_of(open_data(data, allow_outside=allow_outside).read("train"))


def _calibration(images: Sequence[Source], input_hw: tuple[int, int]) -> list[ImageArray]:
    """Return some of the images, evenly chosen, on the canvas [H, W, 3]."""
    if len(images) < _LEAST_IMAGES:
        raise InputError(
            f"int8: {len(images)} images are too few to see the range of every activation: "
            f"give at least {_LEAST_IMAGES}, better {_IMAGES}"
        )
    return [letterbox_image(image.read(), input_hw)[1] for image in evenly_spaced(images, _IMAGES)]


def _check_suppression(info: WeightsInfo) -> None:
    """Refuse to put into the graph another suppression than the one of the weights' settings."""
    config = config_of(dict(info.config))
    if config.suppression != "classic" or config.class_agnostic:
        raise InputError(
            f"nms: inside the graph it is classic and per class, the weights' settings say suppression="
            f"{config.suppression}, class_agnostic={config.class_agnostic}: export with --nms out"
        )


def _check_file(path: Path) -> None:
    if path.suffix != ".onnx":
        raise InputError(f"{path}: expected a name that ends in .onnx")
    if path.is_dir():
        raise InputError(f"{path}: is a folder, expected the name of a file")
    try:
        is_other = path.exists() and FORMAT.encode() not in path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    if is_other:
        raise InputError(f"{path}: is there already and no export of ours: name another file, it would be replaced")


def _check_folder(path: Path) -> None:
    """Refuse a place where anything else than an export would be lost."""
    if path.suffix == ".onnx" or path.is_file():
        raise InputError(f"{path}: expected the name of a folder, such as {path.stem}_openvino")
    try:
        found = sorted(entry.name for entry in path.iterdir()) if path.exists() else []
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    others = [name for name in found if name not in (XML, BIN, CERTIFICATE)]
    if found and (others or not is_ir(path)):
        what = f"holds {others[0]}, which is no part of an export" if others else "holds another program's model"
        raise InputError(f"{path}: {what}: name another folder, it would be replaced as a whole")


def _write_folder(path: Path, files: Mapping[str, bytes]) -> None:
    """Write a folder under another name, make sure that it is on the disk, then give it its name.

    What stood there before is moved aside first and removed last: there is no moment with half of either.

    Raises:
        InputError: it cannot be written; what stood there before is there again.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        workplace = Path(tempfile.mkdtemp(prefix=f"{path.name}.", suffix=".part", dir=path.parent))
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror})") from None
    new, old = workplace / "new", workplace / "old"
    try:
        new.mkdir()
        for name, data in files.items():
            write_atomic(new / name, data)
        if path.exists():
            path.rename(old)
        try:
            new.rename(path)
        except OSError:
            if old.exists():
                old.rename(path)
            raise
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror})") from None
    finally:
        shutil.rmtree(workplace, ignore_errors=True)
