"""How the classes of weights follow from the classes of their training data, if they are not simply the same."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from detector.errors import ConfigError

Missing = Literal["error", "unlabeled", "background"]
"""What a class is in the images of a dataset that does not have it: an error; not labeled there; or background."""

MERGED = "object"
"""Default name of a merged class."""


@dataclass(frozen=True)
class ClassChoice:
    """The classes of a dataset to learn; objects of all other classes are background.

    Attributes:
        names: names of the classes; None: all classes.
        merged: name of the one class into which they are merged; None: they are not merged.

    Raises:
        ConfigError: a name is empty, or `names` is empty.
    """

    names: tuple[str, ...] | None = None
    merged: str | None = None

    def __post_init__(self) -> None:
        if self.names is not None and not self.names:
            raise ConfigError("classes: expected at least one class name")
        if self.merged is not None and not self.merged.strip():
            raise ConfigError("single_class: expected the name of the merged class, got an empty text")

    @property
    def is_all(self) -> bool:
        """Whether every class is learned as it is."""
        return self.names is None and self.merged is None


@dataclass(frozen=True)
class TrainedClasses:
    """The classes of the training data from which each class of weights was made, stored with the weights.

    Attributes:
        data_classes: names of all classes of the training data, in their order.
        groups: for each class of the weights: the names of the classes of the data that it consists of.
        chosen: whether the user chose the classes. Then other classes, also unknown ones, are background.
        missing: "error": a dataset must have all these classes. Else the weights were trained on several datasets,
            and a class that one of them does not have was not labeled there, or background.
    """

    data_classes: tuple[str, ...]
    groups: tuple[tuple[str, ...], ...]
    chosen: bool = False
    missing: Missing = "error"

    def to_json(self) -> dict[str, object]:
        """Return values that JSON can represent."""
        return {
            "data_classes": list(self.data_classes),
            "groups": [list(group) for group in self.groups],
            "chosen": self.chosen,
            "missing": self.missing,
        }

    @classmethod
    def from_json(cls, values: object) -> "TrainedClasses":
        """Return what `to_json` wrote; the values may come from an untrusted file.

        Raises:
            ValueError: the values have another form.
        """
        if not isinstance(values, Mapping) or values.keys() != {"data_classes", "groups", "chosen", "missing"}:
            raise ValueError("trained_classes: expected the keys data_classes, groups, chosen and missing")
        groups, missing = values["groups"], values["missing"]
        is_valid = isinstance(groups, list) and all(map(_is_names, groups)) and _is_names(values["data_classes"])
        if not is_valid or type(values["chosen"]) is not bool or missing not in ("error", "unlabeled", "background"):
            raise ValueError("trained_classes: expected lists of names, true or false, and error or unlabeled")
        names = [name for group in groups for name in group]
        if len({*names}) < len(names):
            raise ValueError("trained_classes: a class of the data is in two groups")
        return cls(tuple(values["data_classes"]), tuple(map(tuple, groups)), values["chosen"], missing)


def common_classes(members: Sequence[tuple[Sequence[str], TrainedClasses | None]]) -> TrainedClasses | None:
    """Return from which classes of the data the classes of several weights together were made.

    Args:
        members: for each weights: the class names, and how they follow from those of the training data.

    Returns:
        The groups are in the order of the first appearance of the class names. None if the classes of all weights are
        simply those of their data, or if the weights contradict each other: a class consists of other classes, or a
        class of the data belongs to two classes.
    """
    known = [trained for _, trained in members if trained is not None]
    if not known:
        return None
    groups: dict[str, tuple[str, ...]] = {}
    data_classes: dict[str, None] = {}
    for names, trained in members:
        own_groups = [(name,) for name in names] if trained is None else trained.groups
        data_classes |= dict.fromkeys(names if trained is None else trained.data_classes)
        for name, group in zip(names, own_groups, strict=True):
            if {*groups.setdefault(name, group)} != {*group}:
                return None
    learned = [name for group in groups.values() for name in group]
    if len({*learned}) < len(learned):
        return None
    kinds = {trained.missing for trained in known}
    missing: Missing = "unlabeled" if "unlabeled" in kinds else "background" if "background" in kinds else "error"
    chosen = all(trained is not None and trained.chosen for _, trained in members)
    return TrainedClasses(tuple(data_classes), tuple(groups.values()), chosen, missing)


def changed_groups(
    class_names: Sequence[str], before: TrainedClasses | None, now: TrainedClasses | None
) -> dict[str, tuple[tuple[str, ...], tuple[str, ...]]]:
    """Return which classes were made from other classes of the data before than now.

    Args:
        class_names: names of the classes, which are the same before and now.
        before: how the classes followed from those of the data; None: they were the classes of the data.
        now: how they follow from those of the data now; None: they are the classes of the data.

    Returns:
        Class name → the classes of the data that it consisted of before, and those that it consists of now.
    """
    alone = tuple((name,) for name in class_names)
    groups = zip(alone if before is None else before.groups, alone if now is None else now.groups, strict=True)
    return {name: (old, new) for name, (old, new) in zip(class_names, groups, strict=True) if {*old} != {*new}}


def _is_names(value: Any) -> bool:
    """Return whether a JSON value is a list of at least one text."""
    return isinstance(value, list) and bool(value) and all(isinstance(name, str) for name in value)


def class_choice(classes: Sequence[str] | None, single_class: str | None) -> ClassChoice:
    """Return the choice that the arguments `classes` and `single_class` of `train` describe.

    Raises:
        ConfigError: `classes` is a text instead of a list, or a name is not a text or empty.
    """
    if isinstance(classes, str) or not all(isinstance(name, str) for name in classes or ()):
        raise ConfigError(f"classes: expected a list of class names, got {classes!r:.60}")
    if not isinstance(single_class, str | None):
        raise ConfigError(f"single_class: expected the name of the merged class, got {single_class!r:.60}")
    return ClassChoice(None if classes is None else tuple(dict.fromkeys(classes)), single_class)
