"""Write the file or folder of an export: completely or not at all, and replacing only an earlier export."""

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from detector.errors import ConfigError, FileError
from detector.exporting.certificate import FILE_NAME
from detector.files import write_atomic
from detector.graph.openvino_ir import BIN, XML, Ir, is_ir
from detector.weights_info import FORMAT


def check_onnx_path(path: Path) -> None:
    """Raise an InputError if an ONNX export cannot be written to `path`, or would replace another kind of file.

    Raises:
        ConfigError: the name does not end in .onnx, or `path` is a folder.
        FileError: the file exists and is not an export, or it cannot be read.
    """
    if path.suffix != ".onnx":
        raise ConfigError(f"{path}: expected a file name that ends in .onnx")
    if path.is_dir():
        raise ConfigError(f"{path}: is a folder, expected a file name")
    try:
        is_other = path.exists() and FORMAT.encode() not in path.read_bytes()
    except OSError as error:
        raise FileError(f"{path}: cannot be read ({error.strerror})") from None
    if is_other:
        raise FileError(
            f"{path}: already exists and was not written by `detector export`, so it is not replaced; use another name"
        )


def check_openvino_path(path: Path) -> None:
    """Raise an InputError if an OpenVINO export cannot be written to the folder `path`, or would delete other files.

    Raises:
        ConfigError: `path` is a file, or its name ends in .onnx.
        FileError: the folder contains files that are not part of an export, or it cannot be read.
    """
    if path.suffix == ".onnx" or path.is_file():
        raise ConfigError(f"{path}: expected a folder name, such as {path.stem}_openvino")
    try:
        found = sorted(entry.name for entry in path.iterdir()) if path.exists() else []
    except OSError as error:
        raise FileError(f"{path}: cannot be read ({error.strerror})") from None
    others = [name for name in found if name not in (XML, BIN, FILE_NAME)]
    if found and (others or not is_ir(path)):
        what = f"contains {others[0]}, which is not part of an export" if others else "contains another program's model"
        raise FileError(f"{path}: {what}, and an export would replace the whole folder; use another folder")


def write_openvino(path: Path, ir: Ir) -> None:
    """Write the folder of an OpenVINO export: write it under a temporary name, flush it to disk, then rename it.

    An existing folder is renamed before that and removed at the end. So a folder never contains files of both exports.

    Raises:
        FileError: the folder cannot be written. An existing folder is restored.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f"{path.name}.", suffix=".part", dir=path.parent))
    except OSError as error:
        raise FileError(f"{path}: cannot be written ({error.strerror})") from None
    try:
        _replace_folder(path, temporary, {XML: ir.xml, BIN: ir.weights})
    except OSError as error:
        raise FileError(f"{path}: cannot be written ({error.strerror})") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _replace_folder(path: Path, temporary: Path, files: Mapping[str, bytes]) -> None:
    """Write files into a new folder below `temporary`, then rename it to `path`; on failure, restore the old folder."""
    new, old = temporary / "new", temporary / "old"
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
