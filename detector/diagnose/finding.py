"""One verdict of `detector check`: what was measured, what was expected, and what to do about it."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Literal, get_args

Verdict = Literal["ok", "look", "stop"]
"""From best to worst. look: a person should decide; stop: a training run would be in vain, or its scores wrong."""


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Attributes:
        check: its name, as "part: what".
        verdict: see `Verdict`.
        measured: what was seen, with its number.
        expected: what would have been well.
        advice: likely cause and what to do, as sentences; empty where all is well.

    >>> print(Finding("data: leakage", "look", "2 of 87 images of val", "none", "Take them out of one split."))
    look  data: leakage: 2 of 87 images of val (expected: none). Take them out of one split.
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
    """Return the worst verdict; of no findings, "ok"."""
    return max((finding.verdict for finding in findings), key=get_args(Verdict).index, default="ok")
