"""Settings with which a missed object would have been found: each is tried, by post-processing with this setting."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from detector.analysis.misses import Miss
from detector.analysis.outcome import ImagePredictions, outcome_of
from detector.annotation import Annotation
from detector.options import MATCH_IOU, DetectOptions

SettingName = Literal["conf", "iou", "max_det", "imgsz", "tile"]
"""Name of a setting, as on the command line."""

_SCORE_THRESHOLDS = (
    0.9, 0.8, 0.7, 0.6, 0.5, 0.45, 0.4, 0.35, 0.3, 0.25, 0.2, 0.15, 0.1, 0.08, 0.06, 0.05, 0.04, 0.03, 0.02, 0.01,
    0.005, 0.002, 0.001,
)  # fmt: skip
"""Score thresholds to try: few round numbers, so that the objects of many images share the cost of each on val."""

_IOU_THRESHOLDS = (0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
"""NMS IoU thresholds to try."""


@dataclass(frozen=True)
class Setting:
    """Another value of one setting; all others stay the same.

    Attributes:
        name: name of the setting, as on the command line.
        value: its value.
    """

    name: SettingName
    value: float

    def __str__(self) -> str:
        """Return the setting as it is written on the command line: `--conf 0.1`."""
        return f"--{self.name.replace('_', '-')} {self.value:g}"

    def apply(self, options: DetectOptions) -> DetectOptions:
        """Return options with this setting. `imgsz` is no option: it needs a detector with another input size."""
        match self.name:
            case "conf":
                return replace(options, score_threshold=self.value)
            case "iou":
                return replace(options, iou_threshold=self.value)
            case "max_det":
                return replace(options, max_detections=int(self.value))
            case "tile":
                return replace(options, tile=int(self.value))
            case "imgsz":
                return options


def find_settings(
    predictions: ImagePredictions,
    truth: Annotation,
    options: DetectOptions,
    misses: Sequence[Miss],
    *,
    min_iou: float = MATCH_IOU,
) -> tuple[tuple[Setting, ...], ...]:
    """Return the settings of post-processing that find each missed object: of each setting, the value nearest to now.

    Args:
        predictions: raw predictions for the image.
        truth: the objects in the image.
        options: the options with which the objects were missed.
        misses: the missed objects.
        min_iou: IoU from which a detection finds an object of its class.

    Returns:
        The settings for each missed object; empty if none finds it.
    """
    found: list[list[Setting]] = [[] for _ in misses]
    open_misses: list[int] = []
    name: SettingName | None = None
    for setting in _settings_to_try(predictions, options) if misses else ():
        if setting.name != name:
            name, open_misses = setting.name, list(range(len(misses)))
        if not open_misses:
            continue
        finds = outcome_of(predictions, truth, setting.apply(options), min_iou).matches.found
        for index in open_misses:
            if finds[misses[index].object]:
                found[index].append(setting)
        open_misses = [index for index in open_misses if not finds[misses[index].object]]
    return tuple(map(tuple, found))


def _settings_to_try(predictions: ImagePredictions, options: DetectOptions) -> Iterator[Setting]:
    """Yield the settings, each with its mildest value first."""
    yield from (Setting("conf", value) for value in _SCORE_THRESHOLDS if value < options.lowest_threshold)
    if options.suppression != "soft":  # Soft-NMS has no IoU threshold
        yield from (Setting("iou", value) for value in _IOU_THRESHOLDS if value > options.iou_threshold)
    most = predictions.scores.size if options.multi_label else len(predictions.scores)
    limits = sorted(digit * 10**power for power in range(6) for digit in (1, 2, 5))
    larger = [value for value in limits if value > options.max_detections]
    enough = next((position for position, value in enumerate(larger) if value >= most), len(larger))
    yield from (Setting("max_det", value) for value in larger[: enough + 1])
