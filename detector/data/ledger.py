"""Counts the label rows of a split, and lists every clipped and dropped row with its file, its line and the reason.

Always: found rows = used rows + clipped rows + dropped rows + rows of other classes. The last ones exist only if some
classes of the dataset are not used.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

from detector.errors import LabelError, location
from detector.escaping import escape_line
from detector.wording import plural

DropCode = Literal[
    "malformed_row",
    "pixel_coordinates",
    "not_finite",
    "no_area",
    "outside_image",
    "unknown_class",
    "class_id_equals_class_count",
    "unknown_image",
    "image_missing",
    "image_unusable",
]
"""Why a row was dropped:

- `malformed_row`: a value is missing or is not a number.
- `pixel_coordinates`: the coordinates are in pixels, but the format expects fractions of the image size.
- `not_finite`: a coordinate is NaN or infinite.
- `no_area`: the width or the height of the box is not above 0.
- `outside_image`: the box is completely outside of the image.
- `unknown_class`: the class is not among the classes of the dataset.
- `class_id_equals_class_count`: the class id is C for classes 0..C-1, as if class ids started at 1.
- `unknown_image`: the row does not belong to any image of the dataset.
- `image_missing`: the image file of the row does not exist or cannot be opened.
- `image_unusable`: the image cannot be decoded, or the size of the image differs from the size in the label file.
"""

RowCode = DropCode | Literal["clipped"]
"""A `DropCode`, or `clipped`: the box was clipped to the image, and the clipped box is used."""

ALWAYS_ALLOWED = 3
"""A split may drop this many rows in any case, so that one bad row does not stop a small dataset."""


@dataclass(frozen=True)
class LedgerEntry:
    """One label row that was clipped or dropped.

    Attributes:
        code: the kind of problem, for programs. Programs must not parse the text of `reason`.
        path: the label file that contains the row, or the image file if the image turned out to be unusable only when
            it was decoded.
        line: line number of the row in the label file, counted from 1; None if `path` is an image file, or if the row
            has no line of its own.
        reason: the problem and the value that caused it, as text for people.
        image: path of the image that the row belongs to; None if the image is unknown.
        class_id: class of a clipped row, as in `Annotation.class_ids`; None for a dropped row.
    """

    code: RowCode
    path: Path
    line: int | None
    reason: str
    image: Path | None = None
    class_id: int | None = None

    @property
    def action(self) -> Literal["clipped", "dropped"]:
        """What happened to the row: "clipped" (the clipped box is used) or "dropped" (the row is not used)."""
        return "clipped" if self.code == "clipped" else "dropped"

    def __str__(self) -> str:
        return escape_line(f"{location(self.path, self.line)}: {self.action}: {self.reason}")


class UnusableImage(NamedTuple):
    """An image that turned out to be unusable after the label rows were read.

    Attributes:
        image: path of the image, as in `LedgerEntry.image`.
        rows: number of used and clipped rows of the image.
        crowd: number of these rows that mark crowd regions.
        reason: why the image cannot be used.
    """

    image: Path
    rows: int
    crowd: int
    reason: str

    def entries(self) -> tuple[LedgerEntry, ...]:
        """Return the entries of the dropped rows, one per row."""
        reason = self.reason.removeprefix(escape_line(f"{self.image}: "))  # the entry names the image
        return (LedgerEntry("image_unusable", self.image, None, reason, self.image),) * self.rows


@dataclass(frozen=True)
class Ledger:
    """What happened to each label row of a split. One label row is one box in the label files.

    Attributes:
        used: number of rows that are used unchanged, including crowd regions.
        crowd: number of used or clipped rows that mark a crowd region or ignore region.
        background: number of images without objects and without dropped rows, which may be lost objects. These images
            are part of the split.
        missing: paths of the images that the dataset names, but that do not exist or cannot be opened. These images
            are not part of the split, and their rows are dropped.
        entries: one entry per clipped or dropped row.
        notes: what else the user should know about the label files, such as files that are not labels; one sentence
            each.
        truncated: paths of the images whose files lack their last bytes. These images are part of the split; the
            missing part is gray.
        other_classes: name of a class that is not used → number of its rows, including crowd regions. Their objects are
            background.
    """

    used: int = 0
    crowd: int = 0
    background: int = 0
    missing: tuple[Path, ...] = ()
    entries: tuple[LedgerEntry, ...] = ()
    notes: tuple[str, ...] = ()
    truncated: tuple[Path, ...] = ()
    other_classes: Mapping[str, int] = field(default_factory=dict)

    def __add__(self, other: "Ledger") -> "Ledger":
        return Ledger(
            used=self.used + other.used,
            crowd=self.crowd + other.crowd,
            background=self.background + other.background,
            missing=self.missing + other.missing,
            entries=self.entries + other.entries,
            notes=(*self.notes, *(note for note in other.notes if note not in self.notes)),
            truncated=self.truncated + other.truncated,
            other_classes=dict(Counter(self.other_classes) + Counter(other.other_classes)),
        )

    def without_images(self, unusable: Sequence["UnusableImage"]) -> "Ledger":
        """Return a ledger in which some images are missing and all rows of these images are dropped.

        For images that turn out to be unusable only after the label rows were read.
        """
        images = {each.image for each in unusable}
        kept = tuple(entry for entry in self.entries if entry.action != "clipped" or entry.image not in images)
        clipped = len(self.entries) - len(kept)
        with_drops = {entry.image for entry in kept}
        rows, crowd = sum(each.rows for each in unusable), sum(each.crowd for each in unusable)
        return Ledger(
            used=self.used - (rows - clipped),
            crowd=self.crowd - crowd,
            background=self.background
            - sum(each.rows == each.crowd and each.image not in with_drops for each in unusable),
            missing=(*self.missing, *(each.image for each in unusable)),
            entries=(*kept, *(entry for each in unusable for entry in each.entries())),
            notes=self.notes,
            truncated=self.truncated,
            other_classes=self.other_classes,
        )

    @property
    def clipped(self) -> int:
        """Number of rows whose box was clipped to the image; the clipped boxes are used."""
        return sum(entry.action == "clipped" for entry in self.entries)

    @property
    def dropped(self) -> int:
        """Number of rows that are not used."""
        return sum(entry.action == "dropped" for entry in self.entries)

    @property
    def found(self) -> int:
        """Number of all rows: used, clipped, dropped, and of other classes."""
        return self.used + len(self.entries) + sum(self.other_classes.values())

    def summary(self) -> str:
        """Return one line of text with all counts, and with the first missing image and the reason if there is one.

        >>> Ledger(used=3, background=1).summary()
        '3 boxes found = 3 used + 0 clipped + 0 dropped (0 crowd regions, 1 background image)'
        """
        text = (
            f"{plural(self.found, 'box')} found = {self.used} used + {self.clipped} clipped + {self.dropped} dropped "
            + (f"+ {sum(self.other_classes.values())} of other classes " if self.other_classes else "")
            + f"({plural(self.crowd, 'crowd region')}, {plural(self.background, 'background image')})"
        )
        if self.missing:
            text += f", {plural(len(self.missing), 'image')} left out because missing or unusable"
            text += f", {'first' if len(self.missing) > 1 else 'namely'}: {self.missing[0]}"
        if self.truncated:
            text += f", {plural(len(self.truncated), 'image')} with missing last bytes (shown gray)"
            text += f", {'first' if len(self.truncated) > 1 else 'namely'}: {self.truncated[0]}"
        return escape_line(text)

    def distinct_entries(self, limit: int) -> list[tuple[str, int]]:
        """Return the first different entries as text, each with the number of rows that have this text.

        All rows of an image that cannot be used have the same text.

        Args:
            limit: largest number of texts.
        """
        return list(islice(Counter(map(str, self.entries)).items(), limit))

    def note_lines(self) -> list[str]:
        """Return the notes as lines of text. A note may have several lines, such as a data.yaml to copy."""
        return [escape_line(line) for note in self.notes for line in note.split("\n")]

    def to_json(self) -> dict[str, Any]:
        """Return the counts and the entries as a dictionary of values that JSON can represent."""
        return {
            "found": self.found,
            "used": self.used,
            "clipped": self.clipped,
            "dropped": self.dropped,
            "other_classes": dict(self.other_classes),
            "crowd": self.crowd,
            "background_images": self.background,
            "missing_images": [str(path) for path in self.missing],
            "notes": list(self.notes),
            "truncated_images": [str(path) for path in self.truncated],
            "entries": [
                {"action": e.action, "code": e.code, "file": str(e.path), "line": e.line, "reason": e.reason}
                for e in self.entries
            ],
        }

    def too_many_dropped(self, allowed_fraction: float) -> bool:
        """Return True if more rows were dropped than a training run accepts.

        A run accepts `ALWAYS_ALLOWED` rows, or the allowed fraction of the found rows if that is more. If the allowed
        fraction is 0, no row may be dropped.

        Args:
            allowed_fraction: largest allowed value of `dropped / found`, 0..1, inclusive.
        """
        always = ALWAYS_ALLOWED if allowed_fraction > 0 else 0
        return self.dropped > max(always, allowed_fraction * self.found)

    def check(self, allowed_fraction: float) -> None:
        """Raise LabelError if too many rows were dropped, or all.

        Args:
            allowed_fraction: largest allowed value of `dropped / found`, 0..1; see `too_many_dropped`.

        Raises:
            LabelError: more rows were dropped. The message has one example and a count for each kind of reason.
        """
        nothing_left = 0 < self.dropped == self.found
        if not nothing_left and not self.too_many_dropped(allowed_fraction):
            return
        if nothing_left:
            problem = "none would be left" if self.dropped > 1 else "which is the only one"
            advice = "Fix the labels."
        else:
            limit = f"more than the allowed {allowed_fraction:.1%}"
            problem = limit + (f" and more than {ALWAYS_ALLOWED} boxes" if allowed_fraction else "")
            advice = "Fix the labels, or pass a larger fraction as --allow-dropped to continue without these boxes."
        listed = [f"  {line}" for line in self._dropped_by_code()]
        raise LabelError(f"{self.dropped} of {plural(self.found, 'box')} would be dropped, {problem}:", *listed, advice)

    def _dropped_by_code(self) -> Iterator[str]:
        """Yield one line per drop code that occurs: the first row with this code, and the number of other rows."""
        by_code: dict[RowCode, list[LedgerEntry]] = {}
        for entry in self._dropped_entries():
            by_code.setdefault(entry.code, []).append(entry)
        for entries in by_code.values():
            others = len(entries) - 1
            yield f"{entries[0]}" + (f" (and {plural(others, 'more box', 'more boxes')} like this)" if others else "")

    def _dropped_entries(self) -> Iterator[LedgerEntry]:
        return (entry for entry in self.entries if entry.action == "dropped")
