"""Metadata of exported graphs: the information about the weights, plus the properties of the graph itself.

Each property is a JSON string under a metadata key of its own. A missing key means that the graph lacks the property.
"""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from detector.errors import WeightsError
from detector.letterbox import FILL, SIZE_DIVISOR, input_hw_for_aspect
from detector.model.old_metadata import upgrade_metadata
from detector.options import DetectOptions
from detector.weights_info import WeightsInfo, damaged, from_metadata, to_metadata

log = logging.getLogger(__name__)

USAGE = (
    "image: uint8 RGB [images, height, width, 3], letterboxed: scaled by one factor to fit (area averaging to shrink, "
    f"bilinear to enlarge), centered (an odd pixel of padding goes to the right or bottom), padded with gray {FILL}; "
    "the graph contains the normalization. boxes: corners x1, y1, x2, y2 in pixels of this letterboxed image."
)
"""How to run a graph without this package; stored in its metadata."""


@dataclass(frozen=True)
class GraphInfo:
    """Properties of a graph.

    Attributes:
        dynamic: whether it accepts any input size that is a multiple of 32 and, without NMS, batches of images.
        int8: whether it is quantized to int8.
        nms: the score threshold, IoU threshold and largest number of detections of the NMS inside the graph; the other
            options are at their defaults. None: no NMS inside, the graph outputs a prediction for every grid point.
    """

    dynamic: bool = False
    int8: bool = False
    nms: DetectOptions | None = None


def graph_metadata(info: WeightsInfo, input_hw: tuple[int, int]) -> dict[str, str]:
    """Return the metadata of a graph with the input size `input_hw` (height, width): all that is needed to run it."""
    return to_metadata(replace(info, input_hw=input_hw)) | {"usage": USAGE}


def graph_info_metadata(graph_info: GraphInfo) -> dict[str, str]:
    """Return the properties of a graph as metadata, to be added to `graph_metadata`."""
    metadata = {name: "true" for name in ("dynamic", "int8") if getattr(graph_info, name)}
    if (nms := graph_info.nms) is not None:
        thresholds = {
            "score_threshold": nms.score_threshold,
            "iou_threshold": nms.iou_threshold,
            "max_detections": nms.max_detections,
        }
        metadata["nms"] = json.dumps(thresholds)
    return metadata


def read_metadata(metadata: Mapping[str, str], source: str) -> tuple[WeightsInfo, GraphInfo]:
    """Parse the metadata that `graph_metadata` and `graph_info_metadata` returned.

    Args:
        metadata: metadata of a graph file.
        source: name of the file, for error messages.

    Raises:
        WeightsError: the file was written by another program or version, or is damaged.
    """
    metadata = upgrade_metadata(metadata)
    info = from_metadata(metadata, source)
    try:
        dynamic, int8, nms = (json.loads(metadata.get(key, "null")) for key in ("dynamic", "int8", "nms"))
        graph_info = GraphInfo(dynamic is True, int8 is True, None if nms is None else _parse_nms(nms))
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise damaged(source, error) from None
    return info, graph_info


def _parse_nms(values: Mapping[str, Any]) -> DetectOptions:
    return DetectOptions(
        score_threshold=values["score_threshold"],
        iou_threshold=values["iou_threshold"],
        max_detections=values["max_detections"],
    )


def graph_input_size(info: WeightsInfo, graph_info: GraphInfo, input_size: int | None, source: str) -> tuple[int, int]:
    """Return the input size (height, width) to run a graph with.

    Args:
        info: information about the weights of the graph.
        graph_info: properties of the graph.
        input_size: requested long side of the input, pixels; None: the one the graph was exported with.
        source: name of the file, for error messages.

    Raises:
        WeightsError: the graph has a fixed input size, and it is another one.
        ConfigError: `input_size` is not a multiple of 32.
    """
    height, width = info.input_hw
    if input_size is None or input_size == max(height, width):
        return height, width
    if not graph_info.dynamic:
        raise WeightsError(
            f"{source}: was exported with a fixed input size of {max(height, width)} pixels and cannot run at "
            f"{input_size}: export it again with --imgsz {input_size}, or with --dynamic for any multiple of "
            f"{SIZE_DIVISOR}"
        )
    return input_hw_for_aspect(input_size, width / height)


def warn_fixed_nms(nms: DetectOptions, options: DetectOptions) -> None:
    """Warn about options that have no or only partial effect on a graph with NMS inside.

    A higher score threshold and fewer detections work as without NMS in the graph. Each combination of differences is
    reported once per process.

    Args:
        nms: options of the NMS inside the graph.
        options: the requested options.
    """
    differences = {
        f"score threshold {options.score_threshold:g}": options.score_threshold < nms.score_threshold,
        f"IoU threshold {options.iou_threshold:g}": options.iou_threshold != nms.iou_threshold,
        f"{options.max_detections} detections": options.max_detections > nms.max_detections,
        "class-agnostic NMS": bool(options.class_agnostic),
        "several classes per grid point": options.multi_label,
        f"suppression {options.suppression}": options.suppression not in (None, "classic"),
    }
    if any(differences.values()):
        warn_once(
            f"this graph contains NMS with a fixed score threshold of {nms.score_threshold:g}, IoU threshold of "
            f"{nms.iou_threshold:g} and {nms.max_detections} detections, of the best class of each grid point. Options "
            "without full effect: " + ", ".join(text for text, differs in differences.items() if differs) + ". "
            "Export the weights again with --nms out, or with these thresholds."
        )


@lru_cache(maxsize=64)
def warn_once(message: str) -> None:
    """Log a warning the first time it is passed in this process."""
    log.warning(message)
