"""The messages from a training run to the process of a logger."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from detector.arrays import ImageArray
from detector.detections import Detections

Status = Literal["finished", "interrupted", "failed"]
"""How a run ended."""


@dataclass(frozen=True, eq=False)
class Start:
    """The first message: what is logged.

    Attributes:
        run_id: id of the run, the same after it is resumed.
        name: name of the run for people.
        folder: output folder of the run, as an absolute path.
        resumed_after: number of steps in the checkpoint from which the run continues; None: a new run.
        facts: what the weights depend on besides the settings: hashes of the data, versions, machine.
        images: name → image [H, W, 3] RGB of the validation images that are logged.
        metrics: names of the most important metrics of an evaluation.
    """

    run_id: str
    name: str
    folder: Path
    resumed_after: int | None
    facts: Mapping[str, object]
    images: Mapping[str, ImageArray]
    metrics: tuple[str, ...]


@dataclass(frozen=True)
class Settings:
    """The settings of the run, with the values that "auto" was resolved to. Sent again if the plan changes.

    Attributes:
        step: number of steps done.
        values: name → value.
    """

    step: int
    values: Mapping[str, object]


@dataclass(frozen=True)
class Row:
    """Metrics of a step.

    Attributes:
        step: number of steps done.
        time: seconds since 1970.
        values: name → value.
    """

    step: int
    time: float
    values: Mapping[str, float]


@dataclass(frozen=True, eq=False)
class EvaluationRow:
    """Metrics of an evaluation, and the detections in the validation images that are logged.

    Attributes:
        row: the metrics.
        found: name of the image → detections, in pixels of the image.
    """

    row: Row
    found: Mapping[str, Detections]


@dataclass(frozen=True)
class End:
    """The last message.

    Attributes:
        status: how the run ended.
        files: files to store with the run, such as the best weights.
    """

    status: Status
    files: tuple[Path, ...]


Message = Settings | Row | EvaluationRow
"""A message between the first and the last one."""
