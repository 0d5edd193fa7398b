"""The interface of a runtime: letterboxed images in, boxes and scores at every grid point out. NumPy only."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from detector.arrays import Floats, ImageArray
from detector.graph.metadata import GraphInfo
from detector.options import DetectOptions


@dataclass(frozen=True, eq=False)
class PointPredictions:
    """Raw predictions for B images at P grid points.

    Attributes:
        boxes: [B, P, 4] float32 corners x1, y1, x2, y2 in input pixels, not clipped.
        scores: [B, P, C] float32, 0..1.
        nms: options of the NMS that the graph has applied already; None: no NMS, all grid points are included.
    """

    boxes: Floats
    scores: Floats
    nms: DetectOptions | None = None


class Runtime(Protocol):
    """Runs a trained network.

    Attributes:
        name: name of the library.
        input_hw: height and width of the network input, pixels.
        graph_info: properties of the graph it runs.
    """

    name: str
    input_hw: tuple[int, int]
    graph_info: GraphInfo

    def predict(self, inputs: Sequence[ImageArray]) -> PointPredictions:
        """Run the network on B > 0 images.

        Args:
            inputs: letterboxed images [H, W, 3] uint8 RGB of the size `input_hw`.
        """
        ...


def predict_one_by_one(
    infer: Callable[[ImageArray, Sequence[str]], Sequence[npt.NDArray[Any]]],
    inputs: Sequence[ImageArray],
    graph_info: GraphInfo,
    class_count: int,
) -> PointPredictions:
    """Run a graph on B > 0 images, one after the other.

    Args:
        infer: takes an image [H, W, 3] and names of outputs, runs the graph on the image, and returns these outputs.
        inputs: letterboxed images [H, W, 3] uint8 RGB.
        graph_info: properties of the graph.
        class_count: C.
    """
    if graph_info.nms is not None:
        detections = [infer(image, ("boxes", "scores", "class_ids")) for image in inputs]
        return points_from_detections(detections, class_count, graph_info.nms)
    outputs = [infer(image, ("boxes", "scores")) for image in inputs]
    boxes, scores = (np.concatenate(parts) for parts in zip(*outputs, strict=True))
    return PointPredictions(boxes, scores)


def points_from_detections(
    detections: Sequence[Sequence[npt.NDArray[Any]]], class_count: int, nms: DetectOptions
) -> PointPredictions:
    """Convert the detections of a graph with NMS inside to predictions at P points, one per detection.

    A point has a nonzero score only for the class of its detection. Boxes that survived NMS survive it again, so the
    code after the runtime needs no special case. P is the largest number of detections in an image; images with fewer
    are padded with points of score 0.

    Args:
        detections: for each of B images boxes [N, 4], scores [N] and class ids [N].
        class_count: C.
        nms: options of the NMS inside the graph.

    Raises:
        ValueError: the shapes of the arrays do not match, or a class id is not in 0..C-1.
    """
    most = max(len(scores) for _, scores, _ in detections)
    all_boxes = np.zeros((len(detections), most, 4), dtype=np.float32)
    all_scores = np.zeros((len(detections), most, class_count), dtype=np.float32)
    for image, (boxes, scores, class_ids) in enumerate(detections):
        n = len(scores)
        if boxes.shape != (n, 4) or class_ids.shape != (n,) or not np.isin(class_ids, range(class_count)).all():
            raise ValueError(f"boxes {boxes.shape}, scores {scores.shape}, class_ids {class_ids.shape}")
        all_boxes[image, :n] = boxes
        all_scores[image, np.arange(n), class_ids] = scores
    return PointPredictions(all_boxes, all_scores, nms)


def first_line(error: Exception) -> str:
    """Return the first informative line of a library's error message, or the name of its type if there is none."""
    lines = [line for line in str(error).splitlines() if line and not line.startswith(("Exception from", "Check '"))]
    return (lines or [type(error).__name__])[0]
