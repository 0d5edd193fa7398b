"""The manifest of an output folder: the names and hashes of the files that this package wrote there.

The manifest has one line of JSON per event. The name of a file is added before the file is written, and its hash after
that. A name without a hash counts as written by this package, so that a command that was killed at any point can be
repeated. Size and modification time stand beside the hash, and the hash is computed again only if one of them differs.
"""

import hashlib
import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from detector.errors import FileError
from detector.files import append_line, parse_line, part_name, write_errors

MANIFEST_NAME = ".detector.manifest"
"""Name of the manifest in an output folder."""

_FORMAT = "detector-manifest-1"


@dataclass(frozen=True)
class Proof:
    """What is known about a file that this package wrote.

    Attributes:
        sha256: hash of the content; None if the file is being written, or a command was killed while writing it.
        size: size in bytes.
        mtime_ns: modification time in nanoseconds.
    """

    sha256: str | None = None
    size: int = 0
    mtime_ns: int = 0

    @classmethod
    def of(cls, path: Path) -> "Proof":
        """Return hash, size and modification time of a file.

        Raises:
            OSError: the file cannot be read.
        """
        status = path.stat()
        with path.open("rb") as file:
            return cls(hashlib.file_digest(file, "sha256").hexdigest(), status.st_size, status.st_mtime_ns)

    def holds_for(self, path: Path) -> bool:
        """Return True if a file is as it was written; it is read only if its modification time differs."""
        if self.sha256 is None:
            return True
        try:
            status = path.stat()
            if status.st_size != self.size:
                return False
            return status.st_mtime_ns == self.mtime_ns or Proof.of(path).sha256 == self.sha256
        except OSError:
            return False


class Manifest:
    """The manifest of one folder. It is read at once, and written when the first file is added.

    Args:
        folder: an existing folder.
        doing: what this process does in the folder, such as "training"; written to the first line.

    Attributes:
        earlier_doing: what the process did that wrote the file; None if there was no file.
        proofs: name of a file, relative to the folder and with `/` as separator → proof.
        part: beginning of the names of the temporary files that this process writes.

    Raises:
        FileError: the manifest is a link, cannot be read, or another program wrote it.
    """

    def __init__(self, folder: Path, doing: str) -> None:
        self._folder, self._path, self._doing = folder, folder / MANIFEST_NAME, doing
        self.earlier_doing: str | None = None
        self._old_parts: list[str] = []
        self.proofs: dict[str, Proof] = {}
        self.part = part_name()
        self._is_current = False
        if os.path.lexists(self._path):
            self._read()

    def add(self, name: str, proof: Proof) -> None:
        """Append a line for a file that is about to be written (a proof without hash), or that has been written.

        Raises:
            FileError: the manifest cannot be written.
        """
        self.proofs[name] = proof
        self._append(_line(name, proof))

    def remove(self, name: str) -> None:
        """Append a line for a file that has been removed.

        Raises:
            FileError: the manifest cannot be written.
        """
        del self.proofs[name]
        self._append({"name": name, "removed": True})

    def is_part(self, file_name: str) -> bool:
        """Return True if a file has the name of a temporary file of this process, or of a command that was killed."""
        return file_name.startswith((self.part, *self._old_parts))

    def _append(self, values: dict[str, Any]) -> None:
        """Append a line. Before the first line of a process, create the file, or remove what is outdated."""
        with write_errors(self._path):
            if not self._is_current:
                if os.path.lexists(self._path):
                    self._remove_old_parts()
                    self._remove_old_lines()
                else:
                    with self._path.open("xb") as file:
                        file.write(self._content())
                self._is_current = True
            with self._path.open("ab", buffering=0) as file:
                append_line(file, values)

    def _content(self) -> bytes:
        """Return the content of a new manifest."""
        lines = [
            {"format": _FORMAT, "doing": self._doing},
            {"part": self.part},
            *(_line(*item) for item in self.proofs.items()),
        ]
        return "".join(f"{json.dumps(line)}\n" for line in lines).encode()

    def _remove_old_parts(self) -> None:
        """Remove the temporary files of commands that were killed."""
        for folder in {self._folder, *((self._folder / name).parent for name in self.proofs)}:
            for part in self._old_parts:
                for path in folder.glob(f"{part}*"):
                    path.unlink()

    def _remove_old_lines(self) -> None:
        """Write the file anew, without outdated lines."""
        with self._path.open("ab", buffering=0) as file:
            append_line(file, {"part": self.part})  # if this process is killed now, the next one removes its part
        new = self._folder / self.part
        try:
            with new.open("xb") as file:
                file.write(self._content())
            new.replace(self._path)
        except OSError:
            with suppress(OSError):  # what prevented writing may also prevent removing
                new.unlink(missing_ok=True)
            raise

    def _read(self) -> None:
        """Read the file. A line that is damaged proves nothing and is skipped; an empty file is a new manifest.

        Raises:
            FileError: as for `Manifest`.
        """
        refusal = (
            f"{self._path}: this file is not a manifest of this program, so nothing is written to its folder; use "
            "another --out"
        )
        if self._path.is_symlink() or not self._path.is_file():
            raise FileError(refusal)
        try:
            first, *lines = self._path.read_bytes().split(b"\n")
        except OSError as error:
            raise FileError(f"{self._path}: cannot be read ({error.strerror})") from None
        if parse_line(first).get("format") != _FORMAT and (first or lines):
            raise FileError(refusal)
        earlier = parse_line(first).get("doing")
        self.earlier_doing = earlier if isinstance(earlier, str) else None
        for values in map(parse_line, lines):
            name, part = values.get("name"), values.get("part")
            if isinstance(part, str) and _is_part_name(part):
                self._old_parts.append(part)
            elif not isinstance(name, str) or not _is_inside(name):
                continue
            elif values.get("removed") is True:
                self.proofs.pop(name, None)
            elif "sha256" not in values:
                self.proofs[name] = Proof()
            elif [type(values.get(key)) for key in ("sha256", "size", "mtime_ns")] == [str, int, int]:
                self.proofs[name] = Proof(values["sha256"], values["size"], values["mtime_ns"])


def _line(name: str, proof: Proof) -> dict[str, Any]:
    """Return the line of the manifest for a file."""
    return {"name": name} if proof.sha256 is None else {"name": name} | asdict(proof)


def _is_inside(name: str) -> bool:
    """Return True if a name in a manifest leads to a file inside the folder."""
    return name not in ("", ".") and not Path(name).is_absolute() and ".." not in Path(name).parts


def _is_part_name(name: str) -> bool:
    """Return True if a name in a manifest is the name of a temporary file, as `part_name` returns it."""
    return len(name) == len(part_name()) and name[0] == "." and name[1:-5].isalnum() and name.endswith(".part")
