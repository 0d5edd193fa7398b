"""What small copies of the images tell: flat ones, repeated ones, and those that stand in two splits.

Of many images an even sample is looked at.
"""

from collections.abc import Sequence
from itertools import chain

import numpy as np

from detector.data.near_duplicates import Thumbnails, find_near_duplicates, is_uniform
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
        f"Scores on images that were learned from say nothing: {some(shared)}." if shared else "",
    )


def check_images(thumbnails: Sequence[Thumbnails]) -> Finding:
    """Every image should decode and show something."""
    looked_at = sum(len(t.paths) + len(t.unreadable) for t in thumbnails)
    unreadable = [path for t in thumbnails for path in t.unreadable]
    flat = [path for t in thumbnails for path, is_flat in zip(t.paths, is_uniform(t.pixels), strict=True) if is_flat]
    bad = [*unreadable, *flat]
    verdict: Verdict = "stop" if len(bad) > looked_at / 2 else "look" if bad else "ok"
    return Finding(
        "data: images",
        verdict,
        f"{len(flat)} of {_of(thumbnails)} are of one color, {len(unreadable)} do not decode",
        "none",
        f"Look at {some(bad)}." if bad else "",
    )


def check_repeated_images(train: Thumbnails) -> Finding:
    """Most images to learn from should differ."""
    shown = np.flatnonzero(~is_uniform(train.pixels))
    exact, near = find_near_duplicates(train.pixels[shown])
    fraction = (len(exact) + len(near)) / max(1, len(shown))
    pairs = (f"{train.paths[shown[i]]} = {train.paths[shown[j]]}" for i, j in chain(exact.items(), near.items()))
    many = bool(exact) or fraction > 0.2
    return Finding(
        "data: repeated images",
        "look" if many else "ok",
        f"{len(exact)} of {_of([train])} repeat an earlier one exactly, {len(near)} nearly",
        "none exactly, at most 20% nearly",
        f"They teach nothing new, as neighboring frames of a video do: {some(pairs)}." if many else "",
    )


def check_leakage(thumbnails: Sequence[Thumbnails]) -> Finding:
    """No image to be scored on should be among those to learn from."""
    train, *others = thumbnails
    sampled = len(train.paths) / max(1, len(train.split.annotations))
    own = np.flatnonzero(~is_uniform(train.pixels))
    parts, pairs, worst = [], [], 0.0
    for other in others:
        shown = np.flatnonzero(~is_uniform(other.pixels))
        exact, near = find_near_duplicates(other.pixels[shown], train.pixels[own])
        # In a sample of both splits most twins miss each other.
        worst = max(worst, len(exact) / max(1, min(len(own), len(shown))) / max(sampled, 1e-9))
        parts.append(f"{other.split.name} {len(exact)} exactly and {len(near)} nearly")
        pairs += [f"{other.paths[shown[i]]} = {train.paths[own[j]]}" for i, j in (*exact.items(), *near.items())]
    advice = ""
    if pairs:
        advice = (
            "Scores on images that were learned from are too good: split anew, with copies and neighboring frames "
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
    """Say how many images were looked at, and of how many."""
    looked_at = sum(len(t.paths) + len(t.unreadable) for t in thumbnails)
    there = sum(len(t.split.annotations) for t in thumbnails)
    return f"{looked_at} images" + (f" (a sample of {there})" if looked_at < there else "")
