"""Write and parse the metadata of exported graphs: information about the weights, and properties of the graph.

Each property of the graph is stored as JSON text under its own metadata key. If a key is missing, the graph does not
have the property.
"""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from detector.errors import WeightsError
from detector.letterbox import FILL, SIZE_DIVISOR
from detector.model.old_metadata import upgrade_metadata
from detector.options import DetectOptions
from detector.outputs import SIGNATURE_KEY, UNSIGNED
from detector.weights_info import WeightsInfo, check_text_lengths, damaged, from_metadata, to_metadata

log = logging.getLogger(__name__)

USAGE = (
    "image: uint8 RGB [images, height, width, 3], letterboxed: scaled by one factor to fit (area averaging to shrink, "
    f"bilinear to enlarge), centered (an odd pixel of padding goes to the right or bottom), padded with gray {FILL}; "
    "the graph contains the normalization. boxes: corners x1, y1, x2, y2 in pixels of this letterboxed image."
)
"""Instructions for running a graph without this package. This text is stored in the metadata of each graph."""

LEVELS_USAGE = USAGE.replace(
    "uint8 RGB [images, height, width, 3]", "float32 RGB [3, height, width] with levels from 0 to 255"
)
"""The same for runtimes that take float32 images: ncnn, Core ML."""


@dataclass(frozen=True)
class GraphInfo:
    """Properties of an exported graph: dynamic input size, int8 quantization, float16, NMS inside the graph.

    Attributes:
        dynamic: True if height and width of the input may be any multiples of 32. Without NMS, a dynamic graph also
            accepts batches of images.
        int8: True if the graph is quantized to int8.
        nms: options of the NMS inside the graph. Only the score threshold, the IoU threshold and the largest number of
            detections are stored; the other options have their default values. None: the graph contains no NMS and
            outputs a prediction for every grid point.
        int8_weight_bits: 7 if the int8 weights are limited to -64..64, so that ONNX Runtime computes the same sums on
            every CPU; 8 if they are not. Files of older versions do not record it and have 8. Only valid with `int8`.
        fp16: True if the weights are stored in float16, so that a runtime may also compute in float16.
    """

    dynamic: bool = False
    int8: bool = False
    nms: DetectOptions | None = None
    int8_weight_bits: int = 8
    fp16: bool = False


def graph_metadata(info: WeightsInfo, input_hw: tuple[int, int], usage: str = USAGE) -> dict[str, str]:
    """Return the metadata that is needed to run a graph with the input size `input_hw` (height, width).

    The metadata contains `info`, with its input size replaced by `input_hw`, the text `usage`, and the place for a
    signature; see `outputs.sign`.
    """
    return to_metadata(replace(info, input_hw=input_hw)) | {"usage": usage, SIGNATURE_KEY: UNSIGNED}


def graph_info_metadata(graph_info: GraphInfo) -> dict[str, str]:
    """Return metadata with the properties of a graph; the caller adds it to the result of `graph_metadata`."""
    metadata = {name: "true" for name in ("dynamic", "int8", "fp16") if getattr(graph_info, name)}
    if graph_info.int8:
        metadata["int8_weight_bits"] = str(graph_info.int8_weight_bits)
    if (nms := graph_info.nms) is not None:
        thresholds = {
            "score_threshold": nms.lowest_threshold,
            "iou_threshold": nms.iou_threshold,
            "max_detections": nms.max_detections,
        }
        metadata["nms"] = json.dumps(thresholds)
    return metadata


def read_metadata(metadata: Mapping[str, str], source: str) -> tuple[WeightsInfo, GraphInfo]:
    """Parse the metadata of a graph file, and return information about the weights, and properties of the graph.

    Args:
        metadata: metadata that was created with `graph_metadata` and `graph_info_metadata`.
        source: name of the graph file, for error messages.

    Raises:
        WeightsError: the metadata is damaged, or another program or version wrote the file.
    """
    check_text_lengths(metadata, source)
    metadata = upgrade_metadata(metadata)
    info = from_metadata(metadata, source)
    try:
        keys = ("dynamic", "int8", "fp16", "nms")
        dynamic, int8, fp16, nms = (json.loads(metadata.get(key, "null")) for key in keys)
        bits = 7 if metadata.get("int8_weight_bits") == "7" else 8
        parsed_nms = None if nms is None else _parse_nms(nms)
        graph_info = GraphInfo(dynamic is True, int8 is True, parsed_nms, bits, fp16 is True)
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise damaged(source, error) from None
    return info, graph_info


def _parse_nms(values: Mapping[str, Any]) -> DetectOptions:
    """Return the options of the NMS inside a graph for the JSON object under the metadata key "nms"."""
    return DetectOptions(
        score_threshold=values["score_threshold"],
        iou_threshold=values["iou_threshold"],
        max_detections=values["max_detections"],
    )


def graph_input_size(info: WeightsInfo, graph_info: GraphInfo, input_size: int | None, source: str) -> tuple[int, int]:
    """Return the input size (height, width) at which a graph runs, in pixels.

    Args:
        info: information about the weights of the graph.
        graph_info: properties of the graph.
        input_size: requested long side of the input, in pixels; None: the input size of the export. The aspect ratio of
            the export is kept as far as multiples of 32 allow.
        source: name of the graph file, for error messages.

    Raises:
        WeightsError: the graph has a fixed input size whose long side is not `input_size`, or its input size is so
            large that the user must ask for it.
        ConfigError: `input_size` is not a multiple of 32, or is too large.
    """
    height, width = info.input_hw
    if input_size not in (None, max(height, width)) and not (graph_info.dynamic or info.has_fixed_input):
        raise WeightsError(
            f"{source}: the graph has a fixed input size of {max(height, width)} pixels (long side) and cannot run at "
            f"{input_size}; export it again with --imgsz {input_size}, or with --dynamic for any multiple of "
            f"{SIZE_DIVISOR}"
        )
    return info.choose_input_hw(input_size, source)


def warn_fixed_nms(nms: DetectOptions, options: DetectOptions) -> None:
    """Log a warning that lists the requested options that NMS inside a graph ignores or applies only in part.

    No warning is logged for a higher score threshold or a smaller number of detections, because both have their full
    effect. The same warning is logged only once per process.

    Args:
        nms: options of the NMS inside the graph.
        options: options that the user requests.
    """
    differences = {
        f"score threshold {options.lowest_threshold:g}": options.lowest_threshold < nms.lowest_threshold,
        f"IoU threshold {options.iou_threshold:g}": options.iou_threshold != nms.iou_threshold,
        f"{options.max_detections} detections": options.max_detections > nms.max_detections,
        "class-agnostic NMS": bool(options.class_agnostic),
        "several classes per grid point": options.multi_label,
        f"suppression {options.suppression}": options.suppression not in (None, "classic"),
    }
    if any(differences.values()):
        warn_once(
            f"this graph contains NMS with a fixed score threshold of {nms.lowest_threshold:g}, IoU threshold of "
            f"{nms.iou_threshold:g}, limit of {nms.max_detections} detections, and one class per grid point. These "
            "options have no or only a partial effect: "
            + ", ".join(text for text, differs in differences.items() if differs)
            + ". Export the weights again with --nms out, or with other values of --conf, --iou and --max-det."
        )


@lru_cache(maxsize=64)
def warn_once(message: str) -> None:
    """Log `message` as a warning; do nothing if this process has logged the same message before."""
    log.warning(message)
