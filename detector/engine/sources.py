"""What a user names, as single pictures: files, folders, globs, and the built-in set."""

import glob
from collections.abc import Container, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from detector import images
from detector.data import scenes
from detector.errors import InputError
from detector.images import Pixels

_SCENES_SHOWN = 12


class _Read(Protocol):
    def __call__(self) -> Pixels: ...


@dataclass(frozen=True, slots=True)
class Source:
    """A picture that can be read.

    Attributes:
        name: as results call it: the path, or a made-up one for the built-in set.
        read: gives the picture [H, W, 3]; raises InputError.
    """

    name: Path
    read: _Read


def find_sources(words: Sequence[str]) -> list[Source]:
    """Return the pictures that `words` name, each once, in order: files, folders (not their subfolders), globs.

    The word "scenes" stands for a dozen pictures of the built-in set, unless there is a file of that name.

    Raises:
        InputError: a word names nothing.
    """
    if not words:
        raise InputError("no pictures given; name files, folders or patterns, or `scenes`")
    found: dict[Path, Source] = {}
    for word in words:
        path = Path(word)
        if path.is_dir():
            paths = images.find(path)
            if not paths:
                raise InputError(f"{word}: no pictures in this folder ({', '.join(sorted(images.SUFFIXES))})")
        elif path.exists():
            paths = [path]
        elif word == "scenes":
            split = scenes.read_split("test")
            for annotation in split.annotations[:_SCENES_SHOWN]:
                found[annotation.image_path] = Source(annotation.image_path, partial(split.read_image, annotation))
            continue
        else:
            paths = sorted(Path(match) for match in glob.glob(word) if Path(match).is_file())  # noqa: PTH207 (may be absolute)
            if not paths:
                raise InputError(f"{word}: no such file, folder or pattern")
        found |= {path: Source(path, partial(images.read, path)) for path in paths}
    return list(found.values())


def not_done(sources: Sequence[Source], done: Container[str], batch: int) -> list[Source]:
    """Return the sources of all batches of which a picture is not done, by name.

    Whole batches, since the last digits of an answer may depend on the pictures that are computed beside it: a run that
    goes on gives the same answers as one that was never stopped.
    """
    batches = (sources[start : start + batch] for start in range(0, len(sources), batch))
    return [source for some in batches if any(str(one.name) not in done for one in some) for source in some]
