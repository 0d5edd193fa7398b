"""Counts of all label rows of a split (found = used + clipped + dropped) and the file, line and reason of each loss."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from detector.errors import LabelError, location

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
- `pixel_coordinates`: coordinates in pixels where the format has fractions of the image.
- `not_finite`: a coordinate is NaN or infinite.
- `no_area`: the width or the height is not above 0.
- `outside_image`: the box is completely outside of its image.
- `unknown_class`: the class is not among the classes of the data set.
- `class_id_equals_class_count`: the class id is one too high, as if ids were counted from 1.
- `unknown_image`: the row belongs to no image of the data set.
- `image_missing`: its image does not exist or cannot be opened.
- `image_unusable`: its image cannot be decoded, or its size differs from the size in the labels.
"""

RowCode = DropCode | Literal["clipped"]
"""A `DropCode`, or `clipped`: the box was cut to its image and used."""


@dataclass(frozen=True)
class LedgerEntry:
    """One label row that was clipped or dropped.

    Attributes:
        code: the kind of problem. Programs decide by the code, never by the text of `reason`.
        path: the file that contains the row.
        line: line of the row, counted from 1; None where the file is not a text file.
        reason: the problem and the value that caused it, for people.
        image: the image that the row belongs to; None if unknown.
    """

    code: RowCode
    path: Path
    line: int | None
    reason: str
    image: Path | None = None

    @property
    def action(self) -> Literal["clipped", "dropped"]:
        """What happened to the row: "clipped" (cut to its image and used) or "dropped" (not used)."""
        return "clipped" if self.code == "clipped" else "dropped"

    def __str__(self) -> str:
        return f"{location(self.path, self.line)}: {self.action}: {self.reason}"


@dataclass(frozen=True)
class Ledger:
    """What happened to the label rows of a split. One row is one box in the label files.

    Attributes:
        used: number of rows used unchanged, including crowd regions.
        crowd: number of used or clipped rows that mark a crowd or ignore region.
        background: number of images without objects; these images are kept.
        missing: images named in the label files that do not exist or cannot be opened. These images are left out and
            their rows are dropped.
        entries: the clipped and dropped rows.
    """

    used: int = 0
    crowd: int = 0
    background: int = 0
    missing: tuple[Path, ...] = ()
    entries: tuple[LedgerEntry, ...] = ()

    def __add__(self, other: "Ledger") -> "Ledger":
        return Ledger(
            used=self.used + other.used,
            crowd=self.crowd + other.crowd,
            background=self.background + other.background,
            missing=self.missing + other.missing,
            entries=self.entries + other.entries,
        )

    def without_image(self, image: Path, rows: int, crowd: int, reason: str) -> "Ledger":
        """Return the ledger without an image that turned out to be unusable after its rows were counted.

        All rows of the image that were used or clipped become dropped rows, and the image is listed as missing.

        Args:
            image: path of the image, as in the entries.
            rows: number of its rows that were used or clipped.
            crowd: how many of these rows mark crowd regions.
            reason: what is wrong with the image.
        """
        kept = tuple(entry for entry in self.entries if entry.action != "clipped" or entry.image != image)
        clipped = len(self.entries) - len(kept)
        was_background = rows == crowd and all(entry.image != image for entry in kept)
        return Ledger(
            used=self.used - (rows - clipped),
            crowd=self.crowd - crowd,
            background=self.background - was_background,
            missing=(*self.missing, image),
            entries=kept + (LedgerEntry("image_unusable", image, None, reason, image),) * rows,
        )

    @property
    def clipped(self) -> int:
        """Number of rows that were cut to their image and used."""
        return sum(entry.action == "clipped" for entry in self.entries)

    @property
    def dropped(self) -> int:
        """Number of rows that were not used."""
        return sum(entry.action == "dropped" for entry in self.entries)

    @property
    def found(self) -> int:
        """Number of all rows."""
        return self.used + len(self.entries)

    def summary(self) -> str:
        """Return all counts in one line.

        >>> Ledger(used=3, background=1).summary()
        '3 boxes found = 3 used + 0 clipped + 0 dropped (0 crowd regions, 1 background images)'
        """
        return (
            f"{self.found} boxes found = {self.used} used + {self.clipped} clipped + {self.dropped} dropped "
            f"({self.crowd} crowd regions, {self.background} background images)"
            + (f", {len(self.missing)} images missing, first: {self.missing[0]}" if self.missing else "")
        )

    def to_json(self) -> dict[str, Any]:
        """Return the counts and entries as values that JSON can hold."""
        return {
            "found": self.found,
            "used": self.used,
            "clipped": self.clipped,
            "dropped": self.dropped,
            "crowd": self.crowd,
            "background_images": self.background,
            "missing_images": [str(path) for path in self.missing],
            "entries": [
                {"action": e.action, "code": e.code, "file": str(e.path), "line": e.line, "reason": e.reason}
                for e in self.entries
            ],
        }

    def check(self, allowed_fraction: float) -> None:
        """Check that not too many rows were dropped.

        Args:
            allowed_fraction: largest allowed ratio of dropped to found rows, 0..1.

        Raises:
            LabelError: more rows were dropped. The message lists the first of them.
        """
        if self.dropped > allowed_fraction * self.found:
            first = "\n  ".join(map(str, islice(self._dropped_entries(), 5)))
            raise LabelError(
                f"{self.dropped} of {self.found} boxes would be dropped, more than the allowed {allowed_fraction:.1%}:"
                f"\n  {first}\n"
                "Fix the label files, or pass a larger fraction as --allow-dropped to continue without these boxes."
            )

    def _dropped_entries(self) -> Iterator[LedgerEntry]:
        return (entry for entry in self.entries if entry.action == "dropped")
