"""What an exported graph says about itself beside what its weights say: sizes, arithmetic, suppression inside.

Each fact is a text under its own key of the metadata, in JSON; a graph that lacks a key is of the plain form.
"""

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import lru_cache

from detector.errors import InputError
from detector.letterbox import FILL, input_hw_for_aspect
from detector.model.old_metadata import upgrade_metadata
from detector.options import IOU_THRESHOLD, MAX_DETECTIONS, SCORE_THRESHOLD
from detector.weights_info import WeightsInfo, damaged, from_metadata, to_metadata

log = logging.getLogger(__name__)

USAGE = (
    "image: RGB, uint8, [images, height, width, 3]; the image scaled by one factor to fit (each pixel the mean of "
    "what it covers where it shrinks, bilinear where it grows), in the middle (an odd pixel goes right and below), "
    f"gray {FILL} around; the normalization is inside. boxes: corners x1, y1, x2, y2 in pixels of this canvas."
)
"""How to use a graph without this package; travels with it."""


@dataclass(frozen=True)
class NmsSettings:
    """Suppression inside a graph, fixed when it is exported: `classic`, per class, of each point's best class.

    Attributes:
        score_threshold: lowest score that counts, 0..1.
        iou_threshold: overlap above which the lower of two boxes goes, 0..1.
        max_detections: most detections per image.

    Raises:
        InputError: a number out of its range.
    """

    score_threshold: float = SCORE_THRESHOLD
    iou_threshold: float = IOU_THRESHOLD
    max_detections: int = MAX_DETECTIONS

    def __post_init__(self) -> None:
        for name in ("score_threshold", "iou_threshold"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"nms: {name} must be from 0 to 1, got {getattr(self, name)}")
        if self.max_detections < 1:
            raise InputError(f"nms: max_detections must be at least 1, got {self.max_detections}")


@dataclass(frozen=True)
class GraphInfo:
    """What kind of graph it is.

    Attributes:
        dynamic: it takes any canvas whose sides divide by 32, and, without suppression, several images at once.
        int8: it computes in eight-bit integers.
        nms: the suppression inside; None: every point of the grid answers.
    """

    dynamic: bool = False
    int8: bool = False
    nms: NmsSettings | None = None


def graph_metadata(info: WeightsInfo, input_hw: tuple[int, int]) -> dict[str, str]:
    """Return the texts that make a graph enough by itself, with `input_hw` as its canvas."""
    return to_metadata(replace(info, input_hw=input_hw)) | {"usage": USAGE}


def graph_info_metadata(form: GraphInfo) -> dict[str, str]:
    """Return the form as texts, to be added to `graph_metadata`."""
    return {key: json.dumps(value) for key, value in asdict(form).items() if value}


def read_metadata(metadata: Mapping[str, str], source: str) -> tuple[WeightsInfo, GraphInfo]:
    """Read what `graph_metadata` and `graph_info_metadata` wrote.

    Raises:
        InputError: the file `source` is of another program or version, or damaged.
    """
    metadata = upgrade_metadata(metadata)
    info = from_metadata(metadata, source)
    try:
        said = {key: json.loads(metadata.get(key, "null")) for key in ("dynamic", "int8", "nms")}
        nms = None if said["nms"] is None else NmsSettings(**said["nms"])
    except (TypeError, ValueError, RecursionError) as error:
        raise damaged(source, error) from None
    return info, GraphInfo(said["dynamic"] is True, said["int8"] is True, nms)


def choose_input_size(info: WeightsInfo, form: GraphInfo, long_side: int | None, source: str) -> tuple[int, int]:
    """Return the canvas (height, width) a graph is run with.

    Raises:
        InputError: it cannot take this long side.
    """
    height, width = info.input_hw
    if long_side is None or long_side == max(height, width):
        return height, width
    if not form.dynamic:
        raise InputError(
            f"{source}: was exported for an input of {max(height, width)} pixels and cannot take {long_side}: "
            f"export it again with --imgsz {long_side}, or with --dynamic for any"
        )
    return input_hw_for_aspect(long_side, width / height)


@lru_cache(maxsize=64)
def say_what_is_fixed(
    nms: NmsSettings,
    score_threshold: float,
    iou_threshold: float,
    max_detections: int,
    class_agnostic: bool,
    every_class: bool,
    suppression: str,
) -> None:
    """Say, once in a process, what of a request a graph cannot answer that suppresses inside.

    Higher score thresholds and fewer detections are answered as without; any other difference only in part.
    """
    lost = {
        f"score threshold {score_threshold:g}": score_threshold < nms.score_threshold,
        f"IoU threshold {iou_threshold:g}": iou_threshold != nms.iou_threshold,
        f"{max_detections} detections": max_detections > nms.max_detections,
        "suppression across classes": class_agnostic,
        "every class of a point": every_class,
        f"suppression {suppression}": suppression != "classic",
    }
    if any(lost.values()):
        log.warning(
            "this graph suppresses inside, fixed at score %g, IoU %g, %d detections, the best class of each point: "
            "it cannot answer as asked (%s); export it with --nms out, or with other thresholds",
            nms.score_threshold,
            nms.iou_threshold,
            nms.max_detections,
            ", ".join(what for what, is_lost in lost.items() if is_lost),
        )
