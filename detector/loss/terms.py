"""The terms of a loss, by name."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False)
class LossTerms:
    """Weighted terms of a loss.

    Attributes:
        parts: name → scalar tensor. "classes" and the other terms of this loss; the same names in every step of a run.
        positives: number of grid points (or cells) that are assigned to an object.
    """

    parts: Mapping[str, Tensor]
    positives: int

    @property
    def total(self) -> Tensor:
        """The sum of the terms."""
        first, *rest = self.parts.values()
        return sum(rest, start=first)

    def detach(self) -> "LossTerms":
        """Return the terms detached from the computation graph."""
        return LossTerms({name: part.detach() for name, part in self.parts.items()}, self.positives)
