"""The result of one check: what was measured, what was expected, and what the user should do."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Literal, get_args

Verdict = Literal["ok", "look", "stop"]
"""Verdicts from best to worst.

ok: as expected. look: the user should look at the finding and decide. stop: a training run would be useless, or its
scores would be wrong.
"""


@dataclass(frozen=True)
class Finding:
    """The result of one check: a verdict, the measured and expected values, and advice.

    Attributes:
        check: name of the check, as "part: subject".
        verdict: "ok", "look" or "stop"; see `Verdict`.
        measured: what the check measured, with numbers.
        expected: what a good result is.
        advice: likely causes and what to do, in full sentences; empty if the verdict is "ok".
        from_data: whether the finding follows from the dataset alone, and from no setting. `train` does not start if
            such a finding has the verdict "stop".

    >>> print(Finding("data: leakage", "look", "2 of 87 images of val", "none", "Remove them from one split."))
    look  data: leakage: 2 of 87 images of val (expected: none). Remove them from one split.
    """

    check: str
    verdict: Verdict
    measured: str
    expected: str
    advice: str = ""
    from_data: bool = False

    def __str__(self) -> str:
        line = f"{self.verdict:<4}  {self.check}: {self.measured} (expected: {self.expected})"
        return f"{line}. {self.advice}" if self.advice else line

    def to_json(self) -> dict[str, object]:
        """Return the fields as a dictionary that can be written as JSON."""
        return asdict(self)


def worst(findings: Iterable[Finding]) -> Verdict:
    """Return the worst verdict of the findings, or "ok" if there are no findings."""
    return max((finding.verdict for finding in findings), key=get_args(Verdict).index, default="ok")
