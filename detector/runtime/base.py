"""The interface of all runtimes (inference backends), and functions that several runtimes use. NumPy only, no torch.

A runtime takes letterboxed images and returns the boxes and scores of all grid points.
"""

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
    """Raw predictions of a network: boxes and class scores for B images, P grid points and C classes.

    Attributes:
        boxes: [B, P, 4] float32 corners x1, y1, x2, y2 in input pixels, not clipped.
        scores: [B, P, C] float32 class scores, 0..1.
        nms: options of the NMS that the graph has already applied; the points are then its detections. None: the graph
            contains no NMS, and the points are all grid points.
    """

    boxes: Floats
    scores: Floats
    nms: DetectOptions | None = None


class Runtime(Protocol):
    """An inference backend that has loaded a trained network and runs it.

    Attributes:
        name: name of the library that runs the network.
        input_hw: height and width of the network input, in pixels.
        graph_info: properties of the graph; the defaults of `GraphInfo` if the runtime is PyTorch.
    """

    name: str
    input_hw: tuple[int, int]
    graph_info: GraphInfo

    def predict(self, inputs: Sequence[ImageArray]) -> PointPredictions:
        """Run the network on B > 0 letterboxed images and return its raw predictions.

        Args:
            inputs: B letterboxed images, each [H, W, 3] uint8 RGB, with (H, W) equal to `input_hw`.
        """
        ...


def predict_one_by_one(
    infer: Callable[[ImageArray, Sequence[str]], Sequence[npt.NDArray[Any]]],
    inputs: Sequence[ImageArray],
    graph_info: GraphInfo,
    class_count: int,
) -> PointPredictions:
    """Run a graph on B > 0 images, one image after the other, and return the predictions for all images.

    Args:
        infer: function that runs the graph on one image [H, W, 3] and returns the outputs with the given names.
        inputs: B letterboxed images, each [H, W, 3] uint8 RGB.
        graph_info: properties of the graph.
        class_count: number of classes C.
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
    """Convert the detections of a graph with NMS to raw predictions in which each detection is one point.

    The score of a point is nonzero only for the class of its detection. `postprocess` applies NMS to these points
    again, and a second NMS with the same options removes nothing. So the code after the runtime needs no special case.
    The number of points P is the largest number of detections in an image. Images with fewer detections are padded with
    points whose scores are 0.

    Args:
        detections: for each of B images: boxes [N, 4], scores [N] and class ids [N].
        class_count: number of classes C.
        nms: options of the NMS inside the graph.

    Raises:
        ValueError: the shapes of the arrays do not match, or a class id is not from 0 to C - 1.
    """
    most = max(len(scores) for _, scores, _ in detections)
    all_boxes = np.zeros((len(detections), most, 4), dtype=np.float32)
    all_scores = np.zeros((len(detections), most, class_count), dtype=np.float32)
    for image, (boxes, scores, class_ids) in enumerate(detections):
        n = len(scores)
        if boxes.shape != (n, 4) or class_ids.shape != (n,) or not np.isin(class_ids, range(class_count)).all():
            raise ValueError(
                f"expected boxes [{n}, 4], scores [{n}] and class ids [{n}] below {class_count} from the model, "
                f"got boxes {list(boxes.shape)}, scores {list(scores.shape)}, class ids {class_ids.tolist()}"
            )
        all_boxes[image, :n] = boxes
        all_scores[image, np.arange(n), class_ids] = scores
    return PointPredictions(all_boxes, all_scores, nms)


def summarize_error(error: Exception) -> str:
    """Return the first informative line of a library's error message; if it has none, the name of the error's type."""
    lines = [line for line in str(error).splitlines() if line and not line.startswith(("Exception from", "Check '"))]
    return (lines or [type(error).__name__])[0]
