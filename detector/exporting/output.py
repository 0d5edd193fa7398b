"""Write the file or folder of an export: completely or not at all, and replacing only an earlier export."""

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from detector.errors import ConfigError, FileError, InputError
from detector.exporting.certificate import FILE_NAME, certificate_path
from detector.files import write_atomic
from detector.graph.openvino_ir import BIN, XML, Ir, read_ir
from detector.outputs import WAYS_OUT, claim_file, is_signed, sign, why_not_ours


def check_onnx_path(path: Path, overwrite: bool) -> None:
    """Raise an InputError if an ONNX export or its certificate cannot be written, or would replace another file.

    Args:
        path: path of the ONNX file.
        overwrite: whether to replace other files.

    Raises:
        ConfigError: the name does not end in .onnx, or `path` is a folder.
        FileError: as for `claim_file`.
    """
    if path.suffix != ".onnx":
        raise ConfigError(f"{path}: expected a file name that ends in .onnx")
    if path.is_dir():
        raise ConfigError(f"{path}: is a folder, expected a file name")
    claim_file(path, overwrite=overwrite)
    claim_file(certificate_path(path), overwrite=overwrite)


def check_openvino_path(path: Path, overwrite: bool) -> None:
    """Raise an InputError if an OpenVINO export cannot be written to the folder `path`, or would delete other files.

    Args:
        path: path of the folder.
        overwrite: whether to replace files with the names of an export that this package did not write.

    Raises:
        ConfigError: `path` is a file, or its name ends in .onnx.
        FileError: the folder contains files that are not part of an unchanged export, or it cannot be read.
    """
    if path.suffix == ".onnx" or path.is_file():
        raise ConfigError(f"{path}: expected a folder name, such as {path.stem}_openvino")
    try:
        found = sorted((entry.name for entry in path.iterdir()), reverse=True) if path.exists() else []
    except OSError as error:
        raise FileError(f"{path}: cannot be read ({error.strerror})") from None
    if others := [name for name in found if name not in (XML, BIN, FILE_NAME)]:
        raise FileError(
            f"{path}: contains {others[0]}, which is not part of an export, and an export would replace the whole "
            "folder; use another folder"
        )
    for name in () if overwrite else found:
        if reason := _why_not_own_bin(path) if name == BIN else why_not_ours(path / name):
            raise FileError(f"{path / name}: {reason}, so it is not overwritten; {WAYS_OUT}")


def _why_not_own_bin(path: Path) -> str | None:
    """Return why model.bin must not be overwritten; None if the signed graph in the folder contains its hash."""
    if (path / BIN).is_symlink():
        return f"is a link to {(path / BIN).readlink()}"
    try:
        return None if is_signed(read_ir(path).xml) else "was not written by this program"
    except InputError:  # the hash in the graph is that of another file
        return "was not written by this program, or changed since"


def write_openvino(path: Path, ir: Ir) -> None:
    """Write the folder of an OpenVINO export: write it under a temporary name, flush it to disk, then rename it.

    An existing folder is renamed before that and removed at the end. So a folder never contains files of both exports.

    Raises:
        FileError: the folder cannot be written. An existing folder is restored.
    """
    path = path.resolve()  # a link to the folder stays
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f"{path.name}.", suffix=".part", dir=path.parent))
    except OSError as error:
        raise FileError(f"{path}: cannot be written ({error.strerror})") from None
    try:
        _replace_folder(path, temporary, {XML: sign(ir.xml), BIN: ir.weights})
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
