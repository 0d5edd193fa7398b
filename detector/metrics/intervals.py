"""95 % confidence intervals from resampled values, and Student's t distribution."""

import math
from bisect import bisect_left
from dataclasses import dataclass
from typing import Literal

from detector.arrays import Doubles

_T95 = (12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281)
"""Quantiles t of Student's t distribution for 1 to 10 degrees of freedom: 95 % of it is between -t and t."""

_Z95 = 1.959964
"""The same quantile of the normal distribution."""

_FEWEST_IMAGES = 2
"""Smallest number of images that decide a metric for which there is an interval."""

_SMALLEST_ERROR = 1e-12
"""Below this standard error, all values of the halves are the same apart from rounding."""

Z80 = 0.8416
"""80 % of the normal distribution is below it."""

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

    def signed(self, digits: int = 3) -> str:
        """Return the interval of a difference as text.

        >>> Interval(-0.004, 0.02).signed()
        '[-0.004, +0.020]'
        """
        return f"[{self.low:+.{digits}f}, {self.high:+.{digits}f}]"

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


def half_sample_interval(
    estimate: float, halves: Doubles, images: int, limits: tuple[float, float], bias_factor: float
) -> Interval | None:
    """Return the 95 % confidence interval of a metric; None if random halves of the images do not tell it.

    The interval is estimate - bias ± sqrt((t * standard error)**2 + (bias / 2)**2), because the bias is known only to
    about half of it. The standard error is the standard deviation of the metric on random halves: half of the images,
    drawn without replacement, vary around all images as much as all images vary around the population.

    The bias of AP is positive: AP on few images is higher than on many, because COCO's precision at a recall is the
    highest precision at this or any higher recall. If the bias falls with the power a of the number of images, it is
    the mean excess of the halves times 1 / (2**a - 1). For AP, simulations show a of about 0.6, and so a factor of 2.
    The usual interval of the bootstrap, whose ends are quantiles of resamples with replacement, has this bias twice.

    Args:
        estimate: the metric of the data.
        halves: [R] the metric of R random halves of the images.
        images: number of images that decide the metric.
        limits: lowest and highest possible value of the metric.
        bias_factor: bias of the metric, divided by the mean excess of the halves.

    Source: Shao and Wu, A General Theory for Jackknife Variance Estimation, 1989 (delete-d jackknife); Politis and
    Romano, Large Sample Confidence Regions Based on Subsamples under Minimal Assumptions, 1994.
    """
    if images < _FEWEST_IMAGES or len(halves) < 2:
        return None
    error = float(halves.std(ddof=1))
    if error < _SMALLEST_ERROR:
        return None
    bias = bias_factor * (float(halves.mean()) - estimate)
    center = estimate - bias
    margin = math.hypot(students_t(images - 1) * error, bias / 2)
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


def needed(count: int, difference: float, margin: float, fixed: float = 0.0) -> int | None:
    """Return about how many images, or runs, would tell two detectors apart if the true difference is the measured one.

    With this number, the 95 % confidence interval does not contain zero in 4 of 5 cases. Its width is extrapolated with
    the square root of the number, and with the quantile of Student's t distribution.

    Args:
        count: number of images or runs of the measurement, at least 2.
        difference: the measured difference.
        margin: half the width of its 95 % confidence interval; the part of it that more images or runs make smaller.
        fixed: (t + 0.84) standard errors that more of them do not make smaller.

    Returns:
        The number, rounded up to two digits; None: more than `LARGEST_RATIO` times `count`.
    """
    deviation = margin / students_t(count - 1) * math.sqrt(count)

    def tells(number: int) -> bool:
        """Return whether so many images or runs are enough."""
        return math.hypot((students_t(number - 1) + Z80) * deviation / math.sqrt(number), fixed) <= abs(difference)

    if not tells(LARGEST_RATIO * count):
        return None
    number = bisect_left(range(LARGEST_RATIO * count), True, lo=2, key=tells)
    unit: int = 10 ** max(len(str(number)) - 2, 0)
    return -(-number // unit) * unit
