"""The account of every row a data set held: found = used + clipped + dropped, each loss with its place and reason."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from detector.errors import InputError, location


@dataclass(frozen=True)
class LedgerEntry:
    """One row that was not used as it stood.

    Attributes:
        action: "clipped": used after cutting it to the image; "dropped": not used.
        path: the file that holds the row.
        line: its line there, counted from 1; None where the file is not text.
        reason: what was wrong, with the value.
        image: the image the row belongs to, if it is known.
    """

    action: Literal["clipped", "dropped"]
    path: Path
    line: int | None
    reason: str
    image: Path | None = None

    def __str__(self) -> str:
        return f"{location(self.path, self.line)}: {self.action}: {self.reason}"


@dataclass
class Ledger:
    """Counts rows (one row = one box as the files hold it) while a split is read.

    Attributes:
        used: rows used as they stood, crowd regions among them.
        crowd: rows among the used or clipped ones that mark a crowd or ignore region.
        background: images without any object; they stay.
        missing: images the files name that are not there or do not open; they are left out and their rows dropped.
        entries: every other row.
    """

    used: int = 0
    crowd: int = 0
    background: int = 0
    missing: list[Path] = field(default_factory=list)
    entries: list[LedgerEntry] = field(default_factory=list)

    def __add__(self, other: "Ledger") -> "Ledger":
        return Ledger(
            used=self.used + other.used,
            crowd=self.crowd + other.crowd,
            background=self.background + other.background,
            missing=self.missing + other.missing,
            entries=self.entries + other.entries,
        )

    def clip(self, path: Path, line: int | None, reason: str, image: Path | None = None) -> None:
        """Count one row as used after cutting it to the image."""
        self.entries.append(LedgerEntry("clipped", path, line, reason, image))

    def drop(self, path: Path, line: int | None, reason: str, image: Path | None = None) -> None:
        """Count one row as not used."""
        self.entries.append(LedgerEntry("dropped", path, line, reason, image))

    def lose_image(self, image: Path, rows: int, crowd: int, reason: str) -> None:
        """Drop the rows of an image that turned out not to decode after they were counted as used or clipped.

        Args:
            image: as `clip` and `drop` knew it.
            rows: how many rows of it were used or clipped.
            crowd: how many of them mark crowd regions.
            reason: what is wrong with the image.
        """
        others = [entry for entry in self.entries if entry.action != "clipped" or entry.image != image]
        self.used -= rows - (len(self.entries) - len(others))
        self.crowd -= crowd
        self.background -= rows == crowd and all(entry.image != image for entry in others)
        self.missing.append(image)
        self.entries = others + [LedgerEntry("dropped", image, None, reason, image)] * rows

    @property
    def clipped(self) -> int:
        """Rows used after cutting them to the image."""
        return sum(entry.action == "clipped" for entry in self.entries)

    @property
    def dropped(self) -> int:
        """Rows not used."""
        return sum(entry.action == "dropped" for entry in self.entries)

    @property
    def found(self) -> int:
        """All rows."""
        return self.used + len(self.entries)

    def summary(self) -> str:
        """Say the account in one line.

        >>> Ledger(used=3, background=1).summary()
        '3 boxes found = 3 used + 0 clipped + 0 dropped (0 crowd regions, 1 background images)'
        """
        return (
            f"{self.found} boxes found = {self.used} used + {self.clipped} clipped + {self.dropped} dropped "
            f"({self.crowd} crowd regions, {self.background} background images)"
            + (f", {len(self.missing)} images missing, first: {self.missing[0]}" if self.missing else "")
        )

    def to_json(self) -> dict[str, Any]:
        """Return the whole account as JSON-ready values."""
        return {
            "found": self.found,
            "used": self.used,
            "clipped": self.clipped,
            "dropped": self.dropped,
            "crowd": self.crowd,
            "background_images": self.background,
            "missing_images": [str(path) for path in self.missing],
            "entries": [
                {"action": e.action, "file": str(e.path), "line": e.line, "reason": e.reason} for e in self.entries
            ],
        }

    def check(self, allowed_fraction: float) -> None:
        """Refuse a split that lost too many rows.

        Args:
            allowed_fraction: the largest share of found rows that may be dropped, 0..1.

        Raises:
            InputError: more were dropped; names the first ones.
        """
        if self.dropped > allowed_fraction * self.found:
            first = [str(entry) for entry in self.entries if entry.action == "dropped"][:5]
            raise InputError(
                f"{self.dropped} of {self.found} boxes would be dropped, more than the allowed {allowed_fraction:.1%}:\n  "
                + "\n  ".join(first)
                + "\nMend the files, or say --allow-dropped SHARE to go on without these boxes."
            )
