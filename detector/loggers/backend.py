"""What the code for an experiment tracker does. It runs in the process of the logger; its errors do not stop a run."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from detector.arrays import ImageArray
from detector.loggers.messages import Row, Status


class Backend(Protocol):
    """An open run of an experiment tracker.

    Attributes:
        place: where the run can be seen, for a message.
    """

    place: str

    def settings(self, step: int, values: Mapping[str, object]) -> None:
        """Log the settings."""

    def steps(self, rows: Sequence[Row]) -> None:
        """Log metrics of steps, in their order."""

    def evaluation(self, row: Row, images: Mapping[str, ImageArray]) -> None:
        """Log metrics of an evaluation, and images [H, W, 3] RGB."""

    def file(self, path: Path) -> None:
        """Store a file with the run. Does nothing where the tracker stores no files."""

    def close(self, status: Status) -> None:
        """Write everything that is not written yet, and end."""
