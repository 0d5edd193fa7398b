"""Output folders: files are written only where nothing is, or where the manifest proves that this package wrote them.

`outputs.py` has the rule, and the functions for single files that the user names.
"""

import logging
import os
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path, PurePosixPath
from typing import Self

from detector.errors import FileError
from detector.files import LOCK_NAME, flush_folder, local_path, locked, make_folder, write_errors
from detector.manifest import MANIFEST_NAME, Manifest, Proof
from detector.wording import few_names, plural

_LOG = logging.getLogger(__name__)

_WAYS_OUT = "use another --out, move the file away, or add --overwrite to replace it"


def claim_folder(path: Path, doing: str, *, names: Iterable[str] = (), overwrite: bool = False) -> "OutputFolder":
    """Create and lock an output folder, check that files can be written there, and return the folder.

    Called before the work whose results are written to the folder. No file in the folder is changed until the first
    result is written. Links in `path` are followed; a link inside the folder never is.

    Args:
        path: the folder.
        doing: what the process does that locks this folder, such as "training"; part of an error message.
        names: names of the files that the command will write, as far as they are known.
        overwrite: whether to replace files that this package did not write, or that were changed since.

    Raises:
        FileError: the folder cannot be created or is in use; its manifest cannot be used; it holds the results of
            another command, such as a run; or a file must not be written, see `OutputFolder.claim`.
    """
    folder = OutputFolder(local_path(path), doing, overwrite)
    try:
        folder.claim(names)
    except BaseException:
        folder.close()
        raise
    return folder


def next_free(path: Path) -> Path:
    """Return `path` if it does not exist, else the first of `path-2`, `path-3`, ... that does not exist."""
    number = 1
    candidate = path
    while os.path.lexists(candidate):
        number += 1
        candidate = path.with_name(f"{path.name}-{number}")
    return candidate


def as_output_folder(folder: "Path | OutputFolder", doing: str) -> "AbstractContextManager[OutputFolder]":
    """Return a context manager that claims a folder, or that returns a folder which the caller has claimed."""
    return nullcontext(folder) if isinstance(folder, OutputFolder) else claim_folder(folder, doing)


class OutputFolder:
    """A folder into which one command writes its files. `claim_folder` creates this object.

    The names of files are relative to the folder, with `/` as separator. Use it as a context manager: the folder is
    locked against other processes until `close` is called or the `with` block ends.

    Attributes:
        path: path of the folder.
        overwrite: whether to replace files that this package did not write, or that were changed since.
    """

    def __init__(self, path: Path, doing: str, overwrite: bool) -> None:
        self.path, self.overwrite = path, overwrite
        self._parts = 0
        self._replaced: dict[str, Proof | None] = {}  # of files that are being written: the proof before
        self._new_folders = [folder for folder in (path, *path.parents) if not folder.exists()]
        make_folder(path)
        with ExitStack() as stack:
            stack.enter_context(locked(path, doing))
            self._manifest = Manifest(path, doing)
            self._earlier = {name for name in self._manifest.proofs if os.path.lexists(path / name)}
            self._check_same_command(doing)
            self._stack = stack.pop_all()

    def _check_same_command(self, doing: str) -> None:
        """Raise FileError if the folder holds the files of another kind of command, which would be removed.

        For example, `detect --out` would remove the weights of a run.
        """
        earlier = self._manifest.earlier_doing
        if self._earlier and earlier not in (None, doing) and not self.overwrite:
            raise FileError(
                f"{self.path}: the folder holds the results of another command ({earlier:.40}); choose another --out, "
                "or add --overwrite to replace these results"
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Unlock the folder; remove it, and the parents created for it, if this command has written nothing."""
        self._stack.close()
        if self._new_folders and not self._manifest.proofs:
            with suppress(OSError):  # a folder is not empty
                (self.path / LOCK_NAME).unlink(missing_ok=True)
                for folder in self._new_folders:
                    folder.rmdir()

    @property
    def has_earlier(self) -> bool:
        """Whether files of an earlier command are in the folder, which were neither replaced nor removed yet."""
        return bool(self._earlier)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all files that the manifest lists."""
        return tuple(self._manifest.proofs)

    def is_foreign(self) -> bool:
        """Return True if the folder contains files, and this package wrote none of them."""
        with write_errors(self.path):
            names = {path.name for path in self.path.iterdir()}
        return bool(names - {LOCK_NAME, MANIFEST_NAME}) and not self._manifest.proofs

    def is_intact(self, name: str) -> bool:
        """Return True if a file exists and is as this package wrote it."""
        return (self.path / name).is_file() and self._foreign(name) is None

    def claim(self, names: Iterable[str], *, only_here: bool = False) -> None:
        """Raise FileError if one of the files must not be written.

        Args:
            names: names of the files.
            only_here: whether the command can write nowhere else, so that --out and --overwrite are no ways out.

        Raises:
            FileError: a file or link is there that is not provably an unchanged file of an earlier command; or a link
                or a file is in the place of one of its folders.
        """
        refused = []
        for name in names:
            if reason := self._blocked(name):
                ways_out = "move it away" if only_here else "use another --out, or move it away"
                raise FileError(f"{reason}, so nothing is written there; {ways_out}")
            if not self.overwrite and (reason := self._foreign(name)):
                refused.append(f"{self.path / name}: {reason}")
        if refused:
            more = f", nor is {plural(len(refused) - 1, 'more file')}" if refused[1:] else ""
            ways_out = "move the file away" if only_here else _WAYS_OUT
            raise FileError(f"{refused[0]}, so it is not overwritten{more}; {ways_out}")

    def adopt(self, names: Iterable[str]) -> None:
        """Count files as written by this package: the files of a run of an older version, which wrote no manifest."""
        for name in names:
            path = self.path / name
            if name not in self._manifest.proofs and path.is_file() and not path.is_symlink():
                self._manifest.add(name, Proof.of(path))
                self._earlier.add(name)

    def vouch(self, name: str) -> None:
        """Count a file as written by this package, whatever its content: the caller has recognized its first line.

        For a file that grows line by line, and from which the user may remove lines. The manifest in the folder does
        not change before this command writes a file.

        Raises:
            FileError: the file is a link.
        """
        if (self.path / name).is_symlink():
            self.claim([name])
        elif name not in self._manifest.proofs or self._foreign(name):
            self._manifest.proofs[name] = Proof()

    def remove_earlier(self) -> None:
        """Remove the unchanged files of earlier commands; log their number, and the files that stay.

        Called when the first result exists. A file that was written before this call is not removed. With
        `--overwrite`, changed files of earlier commands are removed too.
        """
        if not self._earlier:
            return
        removed = sum(self.remove(name) for name in sorted(self._earlier))
        self._earlier = set()
        if removed:
            _LOG.info("%s: %s of an earlier run replaced", self.path, plural(removed, "file"))
        if stay := sorted(self.foreign_files()):
            _LOG.warning(
                "%s: %s not written by this program or changed since, and kept: %s",
                *(self.path, plural(len(stay), "file"), few_names(stay, most=5)),
            )

    def keep_earlier(self) -> None:
        """Keep the files of earlier commands: this command continues an earlier one."""
        self._earlier = set()

    def foreign_files(self) -> Iterator[str]:
        """Yield the name of each file and link in the folder that this package did not write, or that was changed.

        Subfolders with a manifest of their own are left out.
        """
        for place, folders, files in os.walk(self.path):
            here = Path(place)
            if here != self.path and MANIFEST_NAME in files:
                folders.clear()
                continue
            links = [name for name in folders if (here / name).is_symlink()]
            for file in (*files, *links):
                name = (here / file).relative_to(self.path).as_posix()
                is_own = name in (LOCK_NAME, MANIFEST_NAME) or self._manifest.is_part(file)
                if not is_own and self._foreign(name):
                    yield name

    def remove(self, name: str) -> bool:
        """Remove a file that this package wrote, and the folders that become empty; return whether it was removed.

        A file that was changed stays, unless the user passed `--overwrite`.

        Raises:
            FileError: the file cannot be removed.
        """
        path = self.path / name
        if name not in self._manifest.proofs or not os.path.lexists(path) or self._blocked(name):
            return False
        if not self.overwrite and self._foreign(name):
            return False
        with write_errors(path):
            path.unlink()
        self._manifest.remove(name)
        with suppress(OSError):  # the folder is not empty
            for parent in list(PurePosixPath(name).parents)[:-1]:
                (self.path / parent).rmdir()
        return True

    def write(self, name: str, data: bytes, *, durable: bool = False) -> None:
        """Write a file atomically.

        Args:
            name: name of the file.
            data: content of the file.
            durable: whether to flush the file to disk, so that it survives a power failure.

        Raises:
            FileError: the file cannot be written, or must not be written; see `claim`.
        """
        with self.writing(name) as part, part.open("xb") as file:
            file.write(data)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        if durable:
            with write_errors(self.path / name):
                flush_folder((self.path / name).parent)

    @contextmanager
    def writing(self, name: str, suffix: str = "") -> Iterator[Path]:
        """Context manager that yields the path of a new temporary file, and renames the file at the end of the block.

        If an error occurs in the block, the temporary file is removed, and a file that existed before is unchanged.

        Args:
            name: name of the file.
            suffix: suffix of the temporary file, for writers that choose the format by the suffix.

        Raises:
            FileError: as for `write`.
        """
        with self.beginning(name, suffix) as part:
            yield part
        self.seal(name)

    @contextmanager
    def beginning(self, name: str, suffix: str = "") -> Iterator[Path]:
        """Context manager as `writing`, for the first lines of a file to which the caller will append more.

        The caller calls `seal` when the file is complete. Until then, its name in the manifest has no hash: it counts
        as written by this package. To continue a file, the caller copies it: another name (a hard link of a backup) may
        lead to the old file.

        Raises:
            FileError: as for `write`.
        """
        part = self.part_of(name, suffix)
        with write_errors(self.path / name):
            try:
                yield part
                part.replace(self.path / name)
            except BaseException:
                self.abandon(name, part)
                raise
        self._replaced.pop(name)

    def part_of(self, name: str, suffix: str = "") -> Path:
        """Add the name of a file to the manifest, and return the path of a new temporary file beside it.

        The caller writes the temporary file and calls `complete` or `abandon`. If this process is killed before, the
        next command that writes to the folder removes the temporary file.

        Raises:
            FileError: as for `write`.
        """
        self.claim([name])  # again: the file may have appeared during the work
        self._replaced[name] = self._manifest.proofs.get(name)
        self._manifest.add(name, Proof())
        self._earlier.discard(name)
        self._parts += 1
        path = self.path / name
        with write_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        return path.with_name(f"{self._manifest.part}{self._parts}{suffix}")

    def complete(self, name: str, part: Path) -> None:
        """Rename a temporary file, which `part_of` returned, to its final name, and add its hash to the manifest.

        Raises:
            FileError: the file cannot be renamed.
        """
        with write_errors(self.path / name):
            part.replace(self.path / name)
        self._replaced.pop(name)
        self.seal(name)

    def abandon(self, name: str, part: Path) -> None:
        """Remove an incomplete temporary file, which `part_of` returned; the name has the same proof as before again.

        Otherwise a file of the user with this name would count as written by this package. Does nothing if that fails:
        what prevented writing may also prevent removing.
        """
        before = self._replaced.pop(name)
        with suppress(OSError):
            part.unlink(missing_ok=True)
        with suppress(FileError):
            if before is not None:
                self._manifest.add(name, before)
            else:
                self._manifest.remove(name)

    def seal(self, name: str) -> None:
        """Add the hash of a complete file to the manifest: from now on, a change of the file is noticed.

        Raises:
            FileError: the file cannot be read, or the manifest cannot be written.
        """
        with write_errors(self.path / name):
            self._manifest.add(name, Proof.of(self.path / name))

    def _blocked(self, name: str) -> str | None:
        """Return why a file can never be written: path and kind of what is in its place or of its folder; else None."""
        for parent in list(PurePosixPath(name).parents)[-2::-1]:
            place = self.path / parent
            if place.is_symlink():
                return f"{place}: is a link to {place.readlink()}"
            if place.exists() and not place.is_dir():
                return f"{place}: is not a folder"
        path = self.path / name
        return f"{path}: is a folder" if path.is_dir() and not path.is_symlink() else None

    def _foreign(self, name: str) -> str | None:
        """Return why a file must not be replaced; None if nothing is there, or this package wrote it."""
        path, proof = self.path / name, self._manifest.proofs.get(name)
        if not os.path.lexists(path):
            return None
        if path.is_symlink():
            return f"is a link to {path.readlink()}"
        if proof is None or not path.is_file():
            return "was not written by this program"
        return None if proof.holds_for(path) else "was changed after it was written"
