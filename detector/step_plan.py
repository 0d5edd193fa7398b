"""The planned number of steps of a run, which can change during the run if its length is given in minutes."""

from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True)
class StepPlan:
    """The planned number of steps of a run, with its changes during the run.

    The progress of a run is the fraction that is done, from 0 to 1. With a fixed number of steps it is steps done /
    steps. A change of the plan keeps the progress, and spreads the rest evenly over the new number of remaining steps.
    So the progress is a piecewise linear function of the step, without jumps. Exact fractions: the progress of a run
    without changes is exactly step / steps.

    Attributes:
        changes: pairs (number of steps done, number of steps of the whole run): after so many steps, the run got this
            length. The first pair is (0, first length).
    """

    changes: tuple[tuple[int, int], ...]

    @classmethod
    def fixed(cls, steps: int) -> "StepPlan":
        """Return the plan of a run whose number of steps does not change."""
        return cls(((0, steps),))

    @property
    def steps(self) -> int:
        """Number of steps of the whole run, according to the latest change."""
        return self.changes[-1][1]

    def changed(self, done: int, steps: int) -> "StepPlan":
        """Return the plan with another number of steps of the whole run.

        Args:
            done: number of steps done; not before the latest change, and before the end of the run.
            steps: new number of steps of the whole run, at least done + 1.
        """
        assert self.changes[-1][0] <= done < min(steps, self.steps)
        return StepPlan((*self.changes, (done, steps)))

    def left_after(self, done: int) -> Fraction:
        """Return the fraction of the run that is left after `done` steps: 1 at the start, 0 at the end."""
        left = Fraction(1)
        ends = [start for start, _ in self.changes[1:]] + [self.steps]
        for (start, steps), end in zip(self.changes, ends, strict=True):
            if start < done:
                left *= Fraction(steps - min(done, end), steps - start)
        return left

    def length_at(self, step: int) -> float:
        """Return the number of steps for the schedules at a step: after it, step + 1 of so many steps are done.

        A run of this fixed length has the same progress after the step. So a schedule, which is a function of the step
        and the number of steps of the run, does not jump when the plan changes: this number moves gradually from the
        old length to the new one, which it reaches at the last step. In a run without changes it is always `steps`.

        Args:
            step: index of the step, from 0.
        """
        return float((step + 1) / (1 - self.left_after(step + 1)))

    def evenly_spaced(self, count: int) -> list[int]:
        """Return the numbers of the steps after which the progress is 1/count, 2/count, ..., 1, rounded.

        A change of the plan moves only those that are not reached yet. If there are fewer steps than `count`, several
        of them are the same step, which is listed once.

        >>> StepPlan.fixed(100).evenly_spaced(3)
        [33, 67, 100]
        >>> StepPlan(((0, 100), (33, 83))).evenly_spaced(3)
        [33, 58, 83]
        """
        after: list[int] = []
        for start, steps in self.changes:
            after = [step for step in after if step <= start]
            left = self.left_after(start)
            for index in range(len(after), count):
                part = 1 - (1 - Fraction(index + 1, count)) / left  # of the steps from `start` on
                after.append(max(start + 1, round(start + (steps - start) * part)))
        return sorted(set(after))
