"""Class balance: how often images of rare classes and background images are shown, and the weights of the classes."""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from detector.annotation import Annotation
from detector.arrays import Doubles, Ints
from detector.config import ClassConfig, Config
from detector.wording import few_names, plural

_BETA = 0.999
"""Hyperparameter of the effective number of objects: from about 1 / (1 - beta) objects on, more objects of a class do
not lower its weight."""


def class_repeat_factors(annotations: Sequence[Annotation], threshold: float, class_count: int) -> Doubles:
    """Return the repeat factor [C] of each class: max(1, sqrt(threshold / f)), and 1 for a class without objects.

    Args:
        annotations: the training images.
        threshold: a class with objects in at least this fraction of the images has the factor 1.
        class_count: number of classes C.

    Source: Gupta et al., LVIS: A Dataset for Large Vocabulary Instance Segmentation, 2019, section 4.
    """
    images = np.zeros(class_count, dtype=np.int64)
    for annotation in annotations:
        images[np.unique(annotation.class_ids[~annotation.is_crowd])] += 1
    with np.errstate(divide="ignore"):
        factors = np.sqrt(threshold * len(annotations) / images)
    return np.asarray(np.where(images > 0, np.maximum(factors, 1), 1))


def image_repeat_factors(annotations: Sequence[Annotation], threshold: float) -> Doubles:
    """Return the repeat factor [N] of each of N images: the largest of its classes; 1 for an image without objects.

    Args:
        annotations: the training images.
        threshold: see `class_repeat_factors`; 0: all factors are 1.

    Source: as for `class_repeat_factors`.
    """
    if not threshold:
        return np.ones(len(annotations))
    class_count = 1 + max((int(a.class_ids.max()) for a in annotations if len(a.class_ids)), default=0)
    factors = class_repeat_factors(annotations, threshold, class_count)
    return np.array([factors[a.class_ids[~a.is_crowd]].max(initial=1) for a in annotations])


def shown_fractions(annotations: Sequence[Annotation], config: ClassConfig) -> Doubles | None:
    """Return the fraction [N] of the samples of an epoch that show each of N images; None: all images equally often.

    Args:
        annotations: the training images.
        config: the settings `repeat_factor` and `max_background`.
    """
    factors = image_repeat_factors(annotations, config.repeat_factor)
    scale = _background_scale(annotations, factors, config.max_background)
    if scale == 1 and not config.repeat_factor:
        return None
    factors *= [1 if annotation.has_objects else scale for annotation in annotations]
    return np.asarray(factors / factors.sum())


def _background_scale(annotations: Sequence[Annotation], factors: Doubles, limit: float) -> float:
    """Return by what factor background images must be shown less often, so that their share is at most `limit`.

    Args:
        annotations: the N training images.
        factors: [N] how often each image would be shown without the limit, up to a common factor.
        limit: the setting `max_background`.
    """
    has_objects = np.array([annotation.has_objects for annotation in annotations])
    objects, background = float(factors[has_objects].sum()), float(factors[~has_objects].sum())
    if not objects or background <= limit * (objects + background):
        return 1.0
    return limit * objects / ((1 - limit) * background)


def count_objects(annotations: Sequence[Annotation], class_count: int = 0) -> Ints:
    """Return the number of objects of each class, without crowd regions.

    Args:
        annotations: at least one image.
        class_count: number of classes C, and of the counts; 0: there are counts up to the last class with objects.
    """
    return np.bincount(np.concatenate([a.class_ids[~a.is_crowd] for a in annotations]), minlength=class_count)


def class_weights(counts: Ints, balance: Literal["none", "inverse", "sqrt_inverse", "effective"]) -> Doubles | None:
    """Return the weight [C] of each class in the loss; None with "none".

    The mean weight of all objects is 1. A class without objects has the weight of a class with one object.

    Args:
        counts: [C] number of objects of each class; at least one object.
        balance: "inverse": 1 / n for a class with n objects; "sqrt_inverse": 1 / sqrt(n); "effective":
            1 / (1 - 0.999^n).

    Source: Cui et al., Class-Balanced Loss Based on Effective Number of Samples, 2019, equation 2, for "effective".
    """
    if balance == "none":
        return None
    n = np.maximum(counts, 1).astype(np.float64)
    weights = {"inverse": 1 / n, "sqrt_inverse": 1 / np.sqrt(n), "effective": 1 / (1 - _BETA**n)}[balance]
    return np.asarray(weights * counts.sum() / (weights * counts).sum())


def balance_lines(annotations: Sequence[Annotation], class_names: Sequence[str], config: Config) -> list[str]:
    """Return what the settings of class balance do to a training split, as lines of text; none if they are off."""
    lines = []
    if config.repeat_factor:
        repeats = class_repeat_factors(annotations, config.repeat_factor, len(class_names))
        rare = [int(i) for i in np.argsort(-repeats, kind="stable") if repeats[i] > 1]
        repeated = few_names([f"{class_names[i]} {repeats[i]:.2f}x" for i in rare])
        lines.append(
            f"repeat_factor: images of {len(rare)} of {len(class_names)} classes are shown more often: {repeated}"
            if rare
            else f"repeat_factor: no effect, because each class is in at least {config.repeat_factor:g} of the images"
        )
    with_objects = sum(annotation.has_objects for annotation in annotations)
    factors = image_repeat_factors(annotations, config.repeat_factor)
    if _background_scale(annotations, factors, config.max_background) < 1:
        background = len(annotations) - with_objects
        lines.append(
            f"max_background: {background} of {plural(len(annotations), 'training image')} "
            f"({background / len(annotations):.0%}) have no objects; they are shown less often, as "
            f"{config.max_background:.0%} of the images of an epoch, and each image with objects "
            f"{'on average ' if config.repeat_factor else ''}"
            f"{(1 - config.max_background) * len(annotations) / with_objects:.1f} times per epoch"
        )
    counts = count_objects(annotations, len(class_names))
    weights = class_weights(counts, config.class_balance)
    if weights is not None:
        used = [int(i) for i in np.argsort(-weights, kind="stable") if counts[i]]
        lines.append(f"class_balance: weights {few_names([f'{class_names[i]} {weights[i]:.3g}' for i in used])}")
    return lines
