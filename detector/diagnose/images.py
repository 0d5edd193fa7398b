"""What small copies of the pictures tell: flat ones, repeated ones, and those that stand in two splits.

Of many pictures an even sample is looked at.
"""

from collections.abc import Sequence
from itertools import chain

import numpy as np

from detector.data.near_duplicates import Thumbnails, find_twins, flat_ones
from detector.data.split import Split
from detector.diagnose.finding import Finding, Verdict
from detector.diagnose.objects import some


def check_shared_files(splits: Sequence[Split]) -> Finding:
    """No file to be scored on should be one to learn from."""
    train, *others = ({annotation.image_path for annotation in split.annotations} for split in splits)
    shared = sorted(train.intersection(chain(*others)))
    return Finding(
        "data: shared files",
        "stop" if shared else "ok",
        f"{len(shared)} files of {splits[0].name} are in other splits too",
        "none",
        f"Scores on pictures that were learned from say nothing: {some(shared)}." if shared else "",
    )


def check_pictures(thumbnails: Sequence[Thumbnails]) -> Finding:
    """Every picture should decode and show something."""
    looked_at = sum(len(t.paths) + len(t.unreadable) for t in thumbnails)
    unreadable = [path for t in thumbnails for path in t.unreadable]
    flat = [path for t in thumbnails for path, is_flat in zip(t.paths, flat_ones(t.pixels), strict=True) if is_flat]
    bad = [*unreadable, *flat]
    verdict: Verdict = "stop" if len(bad) > looked_at / 2 else "look" if bad else "ok"
    return Finding(
        "data: pictures",
        verdict,
        f"{len(flat)} of {_of(thumbnails)} are of one colour, {len(unreadable)} do not decode",
        "none",
        f"Look at {some(bad)}." if bad else "",
    )


def check_repeated_pictures(train: Thumbnails) -> Finding:
    """Most pictures to learn from should differ."""
    shown = np.flatnonzero(~flat_ones(train.pixels))
    exact, near = find_twins(train.pixels[shown])
    share = (len(exact) + len(near)) / max(1, len(shown))
    pairs = (f"{train.paths[shown[i]]} = {train.paths[shown[j]]}" for i, j in chain(exact.items(), near.items()))
    many = bool(exact) or share > 0.2
    return Finding(
        "data: repeated pictures",
        "look" if many else "ok",
        f"{len(exact)} of {_of([train])} repeat an earlier one exactly, {len(near)} nearly",
        "none exactly, at most 20% nearly",
        f"They teach nothing new, as neighbouring frames of a video do: {some(pairs)}." if many else "",
    )


def check_leakage(thumbnails: Sequence[Thumbnails]) -> Finding:
    """No picture to be scored on should be among those to learn from."""
    train, *others = thumbnails
    sampled = len(train.paths) / max(1, len(train.split.annotations))
    own = np.flatnonzero(~flat_ones(train.pixels))
    parts, pairs, worst = [], [], 0.0
    for other in others:
        shown = np.flatnonzero(~flat_ones(other.pixels))
        exact, near = find_twins(other.pixels[shown], train.pixels[own])
        # In a sample of both splits most twins miss each other.
        worst = max(worst, len(exact) / max(1, min(len(own), len(shown))) / max(sampled, 1e-9))
        parts.append(f"{other.split.name} {len(exact)} exactly and {len(near)} nearly")
        pairs += [f"{other.paths[shown[i]]} = {train.paths[own[j]]}" for i, j in (*exact.items(), *near.items())]
    advice = ""
    if pairs:
        advice = (
            "Scores on pictures that were learned from are too good: split anew, with copies and neighbouring frames "
            f"on one side. {some(pairs)}."
        )
    return Finding(
        "data: leakage",
        "stop" if worst > 0.05 else "look" if pairs else "ok",
        f"of {_of(thumbnails)} found again in {train.split.name}: {', '.join(parts) or 'no other split'}",
        "none",
        advice,
    )


def _of(thumbnails: Sequence[Thumbnails]) -> str:
    """Say how many pictures were looked at, and of how many."""
    looked_at = sum(len(t.paths) + len(t.unreadable) for t in thumbnails)
    there = sum(len(t.split.annotations) for t in thumbnails)
    return f"{looked_at} pictures" + (f" (a sample of {there})" if looked_at < there else "")
