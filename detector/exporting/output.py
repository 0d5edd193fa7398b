"""Write the file or folder of an export: completely or not at all, and replacing only an earlier export."""

import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from detector.errors import ConfigError, FileError, InputError
from detector.exporting.certificate import FILE_NAME, certificate_path
from detector.files import file_sha256, write_atomic
from detector.graph.export_format import FOLDER_FILES, SUFFIXES, Format, export_files
from detector.graph.ncnn_model import read_ncnn
from detector.graph.openvino_ir import read_ir
from detector.outputs import WAYS_OUT, claim_file, is_signed, why_not_ours


def check_output(path: Path, format: Format, overwrite: bool) -> None:
    """Raise an InputError if an export or its certificate cannot be written, or would replace something else.

    Args:
        path: path of the file or folder of the export.
        format: format of the export.
        overwrite: whether to replace files that this package did not write, or that were changed.

    Raises:
        ConfigError: the name does not fit the format, or is that of a folder instead of a file or vice versa.
        FileError: there is something else that the export would replace, or it cannot be written.
    """
    if format in FOLDER_FILES:
        _check_folder(path, format, overwrite)
        return
    if path.suffix != SUFFIXES[format]:
        raise ConfigError(f"{path}: expected a name that ends in {SUFFIXES[format]}, for --format {format}")
    if format == "coreml":
        _check_package(path, overwrite)
    elif path.is_dir():
        raise ConfigError(f"{path}: is a folder, expected a file name")
    else:
        claim_file(path, overwrite=overwrite)
    claim_file(certificate_path(path), overwrite=overwrite)


def _check_folder(path: Path, format: Format, overwrite: bool) -> None:
    """Raise an InputError if an export cannot be written to the folder `path`, or would delete other files.

    Args:
        path: path of the folder.
        format: "openvino" or "ncnn".
        overwrite: whether to replace files with the names of an export that this package did not write.

    Raises:
        ConfigError: `path` is a file, or its name ends like that of another format.
        FileError: the folder contains files that are not part of an unchanged export, or it cannot be read.
    """
    if path.suffix in SUFFIXES.values() or path.is_file():
        raise ConfigError(f"{path}: expected a folder name, such as {path.stem}_{format}")
    try:
        found = sorted((entry.name for entry in path.iterdir()), reverse=True) if path.exists() else []
    except OSError as error:
        raise FileError(f"{path}: cannot be read ({error.strerror})") from None
    if others := [name for name in found if name not in (*FOLDER_FILES[format], FILE_NAME)]:
        raise FileError(
            f"{path}: contains {others[0]}, which is not part of an export, and an export would replace the whole "
            "folder; use another folder"
        )
    for name in () if overwrite else found:
        unsigned = name.endswith((".bin", ".param"))
        if reason := _why_not_own(path, name, format) if unsigned else why_not_ours(path / name):
            raise FileError(f"{path / name}: {reason}, so it is not overwritten; {WAYS_OUT}")


def _why_not_own(path: Path, name: str, format: Format) -> str | None:
    """Return why a file without signature must not be overwritten; None if a signed file beside it has its hash.

    Args:
        path: folder of the export.
        name: name of the file.
        format: format of the export.
    """
    if (path / name).is_symlink():
        return f"is a link to {(path / name).readlink()}"
    try:
        if format == "ncnn":
            read_ncnn(path)  # checks the signature and the hashes
            return None
        return None if is_signed(read_ir(path).xml) else "was not written by this program"
    except InputError:  # the hash is that of another file
        return "was not written by this program, or changed since"


def _check_package(path: Path, overwrite: bool) -> None:
    """Raise an InputError if a Core ML package must not be replaced: its certificate has not the hashes of its files.

    Args:
        path: path of the package, a folder that may not exist.
        overwrite: whether to replace any other package too.
    """
    if path.is_symlink() or path.is_file():
        raise ConfigError(f"{path}: expected the name of a new package or of a folder, and it is a file or link")
    if not path.exists() or overwrite or not any(path.iterdir()):
        return
    if not is_certified_package(path):
        raise FileError(
            f"{path}: was not written by this program, or changed since, so it is not overwritten; {WAYS_OUT}"
        )


def is_certified_package(path: Path) -> bool:
    """Return whether a Core ML package has exactly the files whose hashes are in the signed certificate beside it."""
    try:
        data = certificate_path(path).read_bytes()
        hashes = json.loads(data)["files"] if is_signed(data) else None
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return bool(hashes == {str(file.relative_to(path)): file_sha256(file) for file in export_files(path)})


def write_folder(path: Path, files: Mapping[str, bytes]) -> None:
    """Write the folder of an export: write it under a temporary name, flush it to disk, then rename it.

    An existing folder is renamed before that and removed at the end. So a folder never contains files of both exports.

    Args:
        path: path of the folder.
        files: name, which may contain folders, → content of each file.

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
        _replace_folder(path, temporary, files)
    except OSError as error:
        raise FileError(f"{path}: cannot be written ({error.strerror})") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _replace_folder(path: Path, temporary: Path, files: Mapping[str, bytes]) -> None:
    """Write files into a new folder below `temporary`, then rename it to `path`; on failure, restore the old folder."""
    new, old = temporary / "new", temporary / "old"
    new.mkdir()
    for name, data in files.items():
        (new / name).parent.mkdir(parents=True, exist_ok=True)
        write_atomic(new / name, data)
    if path.exists():
        path.rename(old)
    try:
        new.rename(path)
    except OSError:
        if old.exists():
            old.rename(path)
        raise
