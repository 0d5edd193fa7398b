"""Leaves out labels that another label file of the same folder repeats."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from detector.data.image_labels import BadRow, ImageLabels, NamedRow
from detector.wording import plural


def without_copies(
    labels: Sequence[ImageLabels], splits: Sequence[str | None]
) -> tuple[tuple[ImageLabels, ...], tuple[str, ...]]:
    """Return the labels without those that another file in the same folder repeats, and one note per such file.

    VIA, for example, saves the same labels as a project and as an export. Of two files with the same labels, the one
    whose name contains a split is used: `labels.csv` may contain all rows of `train_labels.csv` and `test_labels.csv`.
    Labels in two splits are kept.

    Args:
        labels: the labels of all images.
        splits: the split that each of them names, or None.
    """
    groups: dict[tuple[Path, str], list[int]] = {}
    for i, own in enumerate(labels):
        groups.setdefault((own.label_file.parent, own.image_name), []).append(i)
    dropped: dict[int, int] = {}
    for group in groups.values():
        # Files that name a split come first. `sorted` keeps the order of the others.
        ordered = sorted(group, key=lambda i: splits[i] is None)
        for position, i in enumerate(ordered):
            for j in ordered[:position]:
                is_other_file = labels[j].label_file != labels[i].label_file
                is_same_split = splits[i] in (None, splits[j])
                if j in dropped or not is_other_file or not is_same_split:
                    continue
                if _content(labels[i]) == _content(labels[j]):
                    dropped[i] = j
                    break
    copies = Counter((labels[i].label_file, labels[j].label_file) for i, j in sorted(dropped.items()))
    notes = (
        f"{copy} has the same labels as {original} for {plural(count, 'image')}; they are used once"
        for (copy, original), count in copies.items()
    )
    return tuple(own for i, own in enumerate(labels) if i not in dropped), tuple(notes)


def _content(labels: ImageLabels) -> tuple[object, ...]:
    """Return everything that the labels of an image say, without the places in the label file."""
    rows = [row._replace(line=None) for row in labels.rows if isinstance(row, NamedRow)]
    bad = [(row.error.code, row.error.reason) for row in labels.rows if isinstance(row, BadRow)]
    return rows, bad, labels.image_hw, labels.are_fractions
