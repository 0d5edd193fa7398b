"""Recognizes archives, such as a downloaded .zip, in place of a dataset."""

import tarfile
import zipfile
from pathlib import Path
from shlex import quote

_ZIP = ("zip archive", "unzip {file} -d {folder}")
_MAGIC = {
    b"PK\x03\x04": _ZIP,
    b"7z\xbc\xaf\x27\x1c": ("7z archive", "7z x {file} -o{folder}"),
    b"Rar!\x1a\x07": ("RAR archive", "mkdir {folder} && unrar x {file} {folder}/"),
    b"\x1f\x8b": ("gzip file", "gunzip -k {file}"),
}
"""First bytes of a file → its kind, and the command that unpacks it."""


def archive_message(path: Path) -> str | None:
    """Return what to do with an archive that was given as a dataset; None if the file is not an archive.

    The kind of archive is recognized by its content, not by its suffix.

    Args:
        path: an existing file or folder.
    """
    try:
        kind = _kind_of(path) if path.is_file() else None
    except OSError:
        return None
    if kind is None:
        return None
    name, command = kind
    folder = path.parent / path.name.split(".")[0]
    if folder in (path, path.parent):
        folder = path.with_name(f"{path.name}_files")
    unpack = command.format(file=quote(str(path)), folder=quote(str(folder)))
    return f"{path}: is a {name}, not a folder; unpack it, then pass the folder {folder}; to unpack: {unpack}"


def _kind_of(path: Path) -> tuple[str, str] | None:
    """Return the kind of an archive, and the command that unpacks it; None if the file is not an archive.

    Raises:
        OSError: the file cannot be read.
    """
    if zipfile.is_zipfile(path):
        return _ZIP
    with path.open("rb") as file:
        start = file.read(8)
    try:
        # An empty file and a file of zeros would count as tar archives without members.
        if start.strip(b"\0") and tarfile.is_tarfile(path):
            return "tar archive", "mkdir {folder} && tar -xf {file} -C {folder}"
    except (OSError, EOFError):  # damaged data after the header
        pass
    return next((kind for magic, kind in _MAGIC.items() if start.startswith(magic)), None)
