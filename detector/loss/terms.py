"""`LossTerms`: the terms of a loss by name."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False)
class LossTerms:
    """The weighted terms of a loss, and the number of positives.

    Attributes:
        parts: name of a term → its value, a scalar tensor. "classes" always exists; the other names depend on the loss.
            The names are the same in every step of a run.
        positives: number of grid points (or cells) to which an object is assigned.
    """

    parts: Mapping[str, Tensor]
    positives: int

    @property
    def total(self) -> Tensor:
        """The sum of the terms, a scalar tensor."""
        first, *rest = self.parts.values()
        return sum(rest, start=first)

    def detach(self) -> "LossTerms":
        """Return a copy of the terms that is detached from the computation graph: it has no gradient."""
        return LossTerms({name: part.detach() for name, part in self.parts.items()}, self.positives)
