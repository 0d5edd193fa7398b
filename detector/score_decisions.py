"""What was decided about the scores of weights on val, and is stored with them: thresholds, and a map to probabilities.

`metrics/operating_point.py` and `metrics/calibration.py` decide.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from detector.arrays import Floats

_LONGEST_GOAL = 200
"""Largest number of characters of `ChosenThresholds.goal`."""

_LARGEST = 1e6
"""Largest size of a number; larger ones are damaged."""


@dataclass(frozen=True)
class ChosenThresholds:
    """The score threshold of each class that was chosen on val.

    Attributes:
        values: [C] thresholds, 0..1, in the order of class ids; a detection must have a higher score.
        goal: what was chosen, as text, such as "precision of at least 0.95 for each class".

    Raises:
        ValueError: a threshold is not a number from 0 to 1, or the goal is no text, or is too long.
    """

    values: tuple[float, ...]
    goal: str

    def __post_init__(self) -> None:
        if not all(_is_number(value) and 0 <= value <= 1 for value in self.values):
            raise ValueError("thresholds: expected numbers from 0 to 1")
        if not isinstance(self.goal, str) or len(self.goal) > _LONGEST_GOAL:
            raise ValueError(f"goal of the thresholds: expected a text of at most {_LONGEST_GOAL} characters")

    def to_json(self) -> dict[str, Any]:
        """Return the thresholds as JSON values."""
        return {"values": list(self.values), "goal": self.goal}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "ChosenThresholds":
        """Return the thresholds that JSON values contain; the inverse of `to_json`.

        Raises:
            KeyError, TypeError, ValueError: a value is missing or damaged.
        """
        if not isinstance(values["values"], list):
            raise TypeError("thresholds: expected a list")
        return cls(tuple(values["values"]), values["goal"])


@dataclass(frozen=True)
class ScoreMap:
    """A strictly increasing map from scores to probabilities.

    The probability is the logistic function of slope x logit(score) + intercept. With a slope above 1, scores near 1
    have probabilities so near to 1 that they are equal as float32; the scores of a network end far below.

    Attributes:
        slope: above 0.
        intercept: any number.

    Raises:
        ValueError: the slope is not a number above 0, or the intercept is not a number.

    >>> ScoreMap(1.0, 0.0).apply(np.array([0, 0.25, 1], np.float32)).tolist()
    [0.0, 0.25, 1.0]
    """

    slope: float
    intercept: float

    def __post_init__(self) -> None:
        if not _is_number(self.slope) or not _is_number(self.intercept) or self.slope <= 0:
            raise ValueError("score map: expected a slope above 0 and an intercept")

    def apply(self, scores: Floats) -> Floats:
        """Return the probabilities [N] of scores [N], both 0..1: a higher score never has a lower probability."""
        exact = scores.astype(np.float64)
        with np.errstate(divide="ignore", over="ignore"):  # the scores 0 and 1 have infinite logits
            logits = np.log(exact) - np.log1p(-exact)
            return (1 / (1 + np.exp(-(self.slope * logits + self.intercept)))).astype(np.float32)

    def to_json(self) -> dict[str, Any]:
        """Return the map as JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "ScoreMap":
        """Return the map that JSON values contain; the inverse of `to_json`.

        Raises:
            KeyError, TypeError, ValueError: a value is missing or damaged.
        """
        return cls(values["slope"], values["intercept"])


def _is_number(value: object) -> bool:
    """Return True if a value is a number that is not too large, and neither NaN nor text nor True or False."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _LARGEST
