"""What the callbacks of a training run receive: `TrainingStep` and `TrainingEvaluation`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from detector.metrics.average_precision import AveragePrecision


@dataclass(frozen=True)
class TrainingStep:
    """A step of a training run that was just done, for the callback `on_step`.

    Attributes:
        step: number of steps done, from 1.
        steps: planned number of steps of the run; None during the first 20 steps of a run with a length in minutes.
        epoch: passes over the training images, not rounded.
        losses: name of a loss term → its value, before the step.
        learning_rates: name of an optimizer → its learning rate in this step. If the backbone has a learning rate of
            its own, it has the name with `_backbone`.
        input_hw: height and width of the network input in this step.
        seconds: wall time since the start of the run, without interruptions.
        images_per_second: throughput of this step.
    """

    step: int
    steps: int | None
    epoch: float
    losses: Mapping[str, float]
    learning_rates: Mapping[str, float]
    input_hw: tuple[int, int]
    seconds: float
    images_per_second: float

    @property
    def loss(self) -> float:
        """The total loss: the sum of its terms."""
        return sum(self.losses.values())


@dataclass(frozen=True)
class TrainingEvaluation:
    """An evaluation during a training run, for the callback `on_evaluation`.

    Attributes:
        step: number of steps done.
        steps: planned number of steps of the run.
        epoch: passes over the training images, not rounded.
        losses: name of a loss term → its mean since the last evaluation.
        ap: metrics of the averaged weights on val, such as `ap.AP`, `ap.AP50` and `ap.per_class`; None: no val split.
        is_best: whether these are the best weights so far.
        weights: file with these weights, which the next evaluation replaces.
        best_weights: file with the best weights so far.
        seconds: wall time since the start of the run, without interruptions.
    """

    step: int
    steps: int
    epoch: float
    losses: Mapping[str, float]
    ap: AveragePrecision | None
    is_best: bool
    weights: Path
    best_weights: Path
    seconds: float


StepCallback = Callable[[TrainingStep], object]
"""A function that is called after each step; what it returns is not used."""

EvaluationCallback = Callable[[TrainingEvaluation], object]
"""A function that is called after each evaluation; what it returns is not used."""
