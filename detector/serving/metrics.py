"""Counts requests and measures times, for Prometheus."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field

_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper limits in seconds of the classes of the histograms."""


@dataclass
class _Histogram:
    """Durations: how many are in each class, and their sum in seconds."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(_BUCKETS) + 1))
    total: float = 0.0


class Metrics:
    """Numbers about the requests to the server since its start. Only the thread of the event loop uses them."""

    def __init__(self) -> None:
        self._responses: Counter[tuple[str, int]] = Counter()
        self._times: dict[str, _Histogram] = {name: _Histogram() for name in ("request", "decode", "detect")}
        self.in_progress = 0
        self.decode_timeouts = 0

    def count_response(self, path: str, status: int) -> None:
        """Count a response.

        Args:
            path: path of the endpoint; "other" for unknown paths, so that clients cannot create new rows.
            status: status code.
        """
        self._responses[path, status] += 1

    @contextmanager
    def count_in_progress(self) -> Generator[None, None, None]:
        """Count an image as in progress while the context is active."""
        self.in_progress += 1
        try:
            yield
        finally:
            self.in_progress -= 1

    def add_time(self, name: str, seconds: float) -> None:
        """Add a duration.

        Args:
            name: "request" (from the first byte of the body to the response), "decode" or "detect".
            seconds: the duration.
        """
        histogram = self._times[name]
        histogram.counts[bisect_left(_BUCKETS, seconds)] += 1
        histogram.total += seconds

    def render(self) -> str:
        """Return all numbers in the text format of Prometheus, version 0.0.4."""
        lines = ["# TYPE detector_responses_total counter"]
        lines += [
            f'detector_responses_total{{path="{path}",status="{status}"}} {count}'
            for (path, status), count in sorted(self._responses.items())
        ]
        lines += ["# TYPE detector_in_progress gauge", f"detector_in_progress {self.in_progress}"]
        lines += ["# TYPE detector_decode_timeouts_total counter"]
        lines += [f"detector_decode_timeouts_total {self.decode_timeouts}"]
        for name, histogram in self._times.items():
            lines += _render_histogram(f"detector_{name}_seconds", histogram)
        return "\n".join(lines) + "\n"


def _render_histogram(name: str, histogram: _Histogram) -> list[str]:
    """Return the lines of a histogram; the counts of its classes are cumulative, as Prometheus expects."""
    lines, below = [f"# TYPE {name} histogram"], 0
    for limit, count in zip((*_BUCKETS, "+Inf"), histogram.counts, strict=True):
        below += count
        lines.append(f'{name}_bucket{{le="{limit}"}} {below}')
    return [*lines, f"{name}_sum {histogram.total:.6f}", f"{name}_count {below}"]
