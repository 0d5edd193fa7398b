"""95 % confidence intervals from resampled values, and Student's t distribution."""

import math
from dataclasses import dataclass
from typing import Literal

from detector.arrays import Doubles

_T95 = (12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281)
"""Quantiles t of Student's t distribution for 1 to 10 degrees of freedom: 95 % of it is between -t and t."""

_Z95 = 1.959964
"""The same quantile of the normal distribution."""

_SMALLEST_ERROR = 1e-12
"""Below this standard error, all resampled values are the same apart from rounding."""

_POWER_80 = 2.04
"""With so many times the number at which a difference is just significant, it is significant in 80 % of the cases:
((1.96 + 0.84) / 1.96)**2, of the quantiles 0.975 and 0.8 of the normal distribution."""

LARGEST_RATIO = 100
"""A number of images is not extrapolated beyond this multiple."""

Verdict = Literal["better", "worse", "cannot tell", "the same"]
"""Verdict on the difference of two detectors, or of two settings."""


@dataclass(frozen=True)
class Interval:
    """A 95 % confidence interval of a metric, or of a difference of two metrics.

    Attributes:
        low: lower end.
        high: upper end.
    """

    low: float
    high: float

    def __str__(self) -> str:
        """Return the interval as text.

        >>> print(Interval(0.5938, 0.66))
        [0.594, 0.660]
        """
        return f"[{self.low:.3f}, {self.high:.3f}]"

    def to_json(self) -> list[float]:
        """Return [low, high]."""
        return [self.low, self.high]


def students_t(degrees: float) -> float:
    """Return t: 95 % of Student's t distribution is between -t and t. The relative error is below 0.0002.

    Args:
        degrees: degrees of freedom, at least 1; below 11, a fraction is rounded down.

    Source: Abramowitz and Stegun, Handbook of Mathematical Functions, 1964, 26.7.5.

    >>> round(students_t(2), 2), round(students_t(71), 3)
    (4.3, 1.994)
    """
    if degrees < len(_T95) + 1:
        return _T95[math.floor(degrees) - 1]
    z = _Z95
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / degrees + second / degrees**2 + third / degrees**3


def bootstrap_interval(
    estimate: float, resampled: Doubles, images: int, limits: tuple[float, float], bias_factor: float
) -> Interval | None:
    """Return the 95 % confidence interval of a metric; None if resamples do not tell it.

    The interval is estimate - bias ± t * standard error. The standard error is the standard deviation of the resampled
    values, times sqrt(n / (n - 1)) for n images. The bias of AP is positive: a small test set gives a higher AP than a
    large one, because COCO's precision at a recall is the highest precision at this or a higher recall. Resamples have
    fewer different images than the data, and so an even higher AP; they show about half of the bias of the data.
    The usual percentile interval, whose ends are quantiles of the resampled values, has this bias twice.

    Args:
        estimate: the metric of the data.
        resampled: [R] the metric of R resamples of the images.
        images: number of images n that decide the metric.
        limits: lowest and highest possible value of the metric.
        bias_factor: bias of the metric, divided by the bias that the resamples show.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapters 10 and 12.
    """
    if images < 2 or len(resampled) < 2:
        return None
    error = float(resampled.std(ddof=1)) * math.sqrt(images / (images - 1))
    if error < _SMALLEST_ERROR:
        return None
    center = estimate - bias_factor * (float(resampled.mean()) - estimate)
    margin = students_t(images - 1) * error
    lowest, highest = limits
    return Interval(min(max(center - margin, lowest), highest), max(min(center + margin, highest), lowest))


def verdict(difference: float, interval: Interval | None) -> Verdict:
    """Return the verdict on a difference of two metrics.

    Args:
        difference: the measured difference.
        interval: its 95 % confidence interval; None: it is not known.
    """
    if interval is None:
        return "cannot tell" if difference else "the same"
    if interval.low > 0:
        return "better"
    return "worse" if interval.high < 0 else "cannot tell"


def needed(count: int, difference: float, interval: Interval | None) -> int | None:
    """Return about how many images, or runs, would tell two detectors apart if the true difference is the measured one.

    With this number, the 95 % confidence interval does not contain zero in 4 of 5 cases. Its width is extrapolated with
    the square root of the number.

    Args:
        count: number of images or runs of the measurement.
        difference: the measured difference.
        interval: its 95 % confidence interval; None: it is not known.

    Returns:
        The number with two digits; None: unknown, or more than 100 times `count`.
    """
    if interval is None or difference == 0:
        return None
    ratio = _POWER_80 * ((interval.high - interval.low) / 2 / difference) ** 2
    if ratio > LARGEST_RATIO:
        return None
    number = math.ceil(count * max(ratio, 1))
    unit: int = 10 ** max(len(str(number)) - 2, 0)
    return -(-number // unit) * unit
