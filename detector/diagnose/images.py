"""Findings about images: images of a single color, duplicate images, and images that are in two splits.

The checks compare thumbnails. If there are very many images, only an evenly spaced sample of the images is checked.
"""

from collections.abc import Sequence
from itertools import chain

import numpy as np

from detector.data.near_duplicates import Thumbnails, find_near_duplicates, is_uniform
from detector.data.split import Split
from detector.diagnose.finding import Finding, Verdict
from detector.diagnose.objects import first_few


def diagnose_shared_files(splits: Sequence[Split]) -> Finding:
    """Check that no image file of the training split is also in another split, and return a finding."""
    train, *others = ({annotation.image_path for annotation in split.annotations} for split in splits)
    shared = sorted(train.intersection(chain(*others)))
    return Finding(
        "data: shared files",
        "stop" if shared else "ok",
        f"{len(shared)} files of {splits[0].name} are also in other splits",
        "none",
        f"Scores on training images are meaningless. Remove these files from one of the splits: {first_few(shared)}."
        if shared
        else "",
    )


def diagnose_images(thumbnails: Sequence[Thumbnails]) -> Finding:
    """Check that every image can be decoded and has more than one color, and return a finding."""
    checked = sum(len(t.paths) + len(t.unreadable) for t in thumbnails)
    unreadable = [path for t in thumbnails for path in t.unreadable]
    uniform = [path for t in thumbnails for path, flat in zip(t.paths, is_uniform(t.pixels), strict=True) if flat]
    bad = [*unreadable, *uniform]
    verdict: Verdict = "stop" if len(bad) > checked / 2 else "look" if bad else "ok"
    return Finding(
        "data: images",
        verdict,
        f"{len(uniform)} of {_count_text(thumbnails)} have a single color, {len(unreadable)} cannot be decoded",
        "none",
        f"Check these files: {first_few(bad)}." if bad else "",
    )


def diagnose_duplicate_images(train: Thumbnails) -> Finding:
    """Check that no training images are exact copies and at most 20% are near copies of others; return a finding."""
    not_uniform = np.flatnonzero(~is_uniform(train.pixels))
    exact, near = find_near_duplicates(train.pixels[not_uniform])
    fraction = (len(exact) + len(near)) / max(1, len(not_uniform))
    pairs = (
        f"{train.paths[not_uniform[i]]} = {train.paths[not_uniform[j]]}" for i, j in chain(exact.items(), near.items())
    )
    too_many = bool(exact) or fraction > 0.2
    return Finding(
        "data: duplicate images",
        "look" if too_many else "ok",
        f"{len(exact)} of {_count_text([train])} are exact copies of an earlier image, {len(near)} are near copies",
        "no exact copies, at most 20% near copies",
        f"Copies, such as neighboring video frames, add nothing to learn. Remove one of each pair: {first_few(pairs)}."
        if too_many
        else "",
    )


def diagnose_leakage(thumbnails: Sequence[Thumbnails]) -> Finding:
    """Check that no image of an evaluation split is a copy of a training image, and return a finding.

    Args:
        thumbnails: thumbnails of each split, the training split first.
    """
    train, *others = thumbnails
    sampled_fraction = len(train.paths) / max(1, len(train.split.annotations))
    in_train = np.flatnonzero(~is_uniform(train.pixels))
    counts, pairs, worst = [], [], 0.0
    for other in others:
        in_other = np.flatnonzero(~is_uniform(other.pixels))
        exact, near = find_near_duplicates(other.pixels[in_other], train.pixels[in_train])
        # If both splits are sampled, the sample of the other split does not contain most of the copies.
        worst = max(worst, len(exact) / max(1, min(len(in_train), len(in_other))) / max(sampled_fraction, 1e-9))
        counts.append(f"{len(exact)} exact and {len(near)} near in {other.split.name}")
        pairs += [
            f"{other.paths[in_other[i]]} = {train.paths[in_train[j]]}" for i, j in (*exact.items(), *near.items())
        ]
    advice = ""
    if pairs:
        advice = (
            "Scores on training images are too high: split the images again, so that copies and neighboring video "
            f"frames are in the same split. Copies: {first_few(pairs)}."
        )
    return Finding(
        "data: leakage",
        "stop" if worst > 0.05 else "look" if pairs else "ok",
        f"copies of {train.split.name} images: {', '.join(counts) or 'no other split'}; "
        f"{_count_text(thumbnails)} checked",
        "none",
        advice,
    )


def _count_text(thumbnails: Sequence[Thumbnails]) -> str:
    """Return a text with the number of checked images; if only a sample was checked, also the number of all images."""
    checked = sum(len(t.paths) + len(t.unreadable) for t in thumbnails)
    total = sum(len(t.split.annotations) for t in thumbnails)
    return f"{checked} images" + (f" (a sample of {total})" if checked < total else "")
