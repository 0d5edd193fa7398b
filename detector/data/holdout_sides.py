"""Chooses which groups of images are held back: corrects the random choice until sizes and classes fit."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from detector.annotation import Annotation

_MIN_HELD_BACK = 5
"""Smallest number of images that are held back, if that is within the limit."""


@dataclass(eq=False)
class Group:
    """Images that stay on one side.

    Attributes:
        images: the images.
        position: random number in 0..1 that belongs to the group. Groups with small positions are held back first.
        is_held_back: the current side.
        is_fixed: True if the side must not change.
    """

    images: Sequence[Annotation]
    position: float
    is_held_back: bool
    is_fixed: bool = False

    def __post_init__(self) -> None:
        self.classes = {int(c) for image in self.images for c in image.class_ids[~image.is_crowd]}

    def __len__(self) -> int:
        return len(self.images)


def choose_sides(groups: Iterable[Group], limit: int) -> None:
    """Move groups to the other side until sizes and classes fit; `is_held_back` of the groups is changed.

    Afterwards, as far as fixed groups allow: every class is in training; at most `limit` images are held back, and at
    least 5 if the limit allows; every class that occurs in at least two groups is held back too.

    Args:
        groups: the groups, with the sides that follow from their positions.
        limit: largest number of images that are held back.
    """
    _Sides(groups, limit).correct()


class _Sides:
    """The sides of all groups; the parameters are those of `choose_sides`."""

    def __init__(self, groups: Iterable[Group], limit: int) -> None:
        self._groups = sorted(groups, key=lambda group: group.position)
        self._limit, self._minimum = limit, min(_MIN_HELD_BACK, limit)
        self._size = sum(len(group) for group in self._groups if group.is_held_back)
        self._total = Counter(c for group in self._groups for c in group.classes)
        self._held_back = Counter(c for group in self._groups if group.is_held_back for c in group.classes)
        # The rarest class first: it has the fewest groups to choose from.
        self._classes = sorted(self._total, key=lambda c: (self._total[c], c))

    def correct(self) -> None:
        """Move groups until sizes and classes fit."""
        for c in self._classes:
            if self._held_back[c] == self._total[c]:
                self._move_last(lambda group, c=c: c in group.classes)  # type: ignore[misc]
        while self._size > self._limit and (self._move_last(self._is_surplus) or self._move_last(lambda _: True)):
            pass
        for group in self._groups:
            if self._size >= self._minimum:
                break
            if self._may_be_held_back(group) and self._size + len(group) <= self._limit:
                self._move(group)
        for c in self._classes:
            if self._held_back[c] == 0:
                self._hold_back_class(c)

    def _hold_back_class(self, c: int) -> None:
        """Hold back the first group with objects of a class for which there is room."""
        for group in self._groups:
            if c in group.classes and self._may_be_held_back(group):
                self._move(group)
                removed = []
                while self._size > self._limit:
                    last = self._last(lambda other, group=group: other is not group and self._is_surplus(other))  # type: ignore[misc]
                    if last is None or self._size - len(last) < self._minimum:
                        break
                    self._move(last)
                    removed.append(last)
                if self._size <= self._limit:
                    return
                for other in (group, *removed):  # there is not enough room for this group
                    self._move(other)

    def _may_be_held_back(self, group: Group) -> bool:
        """Return whether a group may be held back: each of its classes is also in another group that trains."""
        if group.is_fixed or group.is_held_back:
            return False
        return all(self._total[c] - self._held_back[c] >= 2 for c in group.classes)

    def _is_surplus(self, group: Group) -> bool:
        """Return whether each class of a held back group is also in another held back group."""
        return all(self._held_back[c] >= 2 for c in group.classes)

    def _last(self, condition: Callable[[Group], bool]) -> Group | None:
        """Return the held back group with the largest position that may be moved and fulfills a condition."""
        candidates = (g for g in reversed(self._groups) if g.is_held_back and not g.is_fixed)
        return next((group for group in candidates if condition(group)), None)

    def _move_last(self, condition: Callable[[Group], bool]) -> bool:
        """Move the last such group (see `_last`) to training; return whether there is one."""
        group = self._last(condition)
        if group is not None:
            self._move(group)
        return group is not None

    def _move(self, group: Group) -> None:
        """Move a group to the other side."""
        group.is_held_back = not group.is_held_back
        sign = 1 if group.is_held_back else -1
        self._size += sign * len(group)
        for c in group.classes:
            self._held_back[c] += sign
