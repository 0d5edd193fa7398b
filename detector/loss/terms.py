"""What a loss is made of."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False)
class LossTerms:
    """Weighted terms by name, each a scalar tensor.

    Attributes:
        parts: "classes" and what else the loss consists of; the same names in every step of a run.
        positives: how many points (or cells) answered for an object.
    """

    parts: Mapping[str, Tensor]
    positives: int

    @property
    def total(self) -> Tensor:
        """Return the sum of the terms."""
        first, *others = self.parts.values()
        return sum(others, start=first)

    def detach(self) -> "LossTerms":
        """Return the terms without their graph."""
        return LossTerms({name: part.detach() for name, part in self.parts.items()}, self.positives)
