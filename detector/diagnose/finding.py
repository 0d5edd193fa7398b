"""The result of one check: what was measured, what was expected, and what to do about it."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Literal, get_args

Verdict = Literal["ok", "look", "stop"]
"""From best to worst. look: a person should decide; stop: a training run would be useless, or its scores wrong."""


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    Attributes:
        check: name of the check, as "part: subject".
        verdict: see `Verdict`.
        measured: what was found, with numbers.
        expected: what a good result would be.
        advice: likely cause and what to do, as sentences; empty if the verdict is "ok".

    >>> print(Finding("data: leakage", "look", "2 of 87 images of val", "none", "Remove them from one split."))
    look  data: leakage: 2 of 87 images of val (expected: none). Remove them from one split.
    """

    check: str
    verdict: Verdict
    measured: str
    expected: str
    advice: str = ""

    def __str__(self) -> str:
        line = f"{self.verdict:<4}  {self.check}: {self.measured} (expected: {self.expected})"
        return f"{line}. {self.advice}" if self.advice else line

    def to_json(self) -> dict[str, str]:
        """Return JSON-ready values."""
        return asdict(self)


def worst(findings: Iterable[Finding]) -> Verdict:
    """Return the worst verdict of the findings; "ok" if there are none."""
    return max((finding.verdict for finding in findings), key=get_args(Verdict).index, default="ok")
