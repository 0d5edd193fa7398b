"""What a runtime is: inputs in, boxes and scores at every point of the grid out. NumPy only."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from detector.arrays import Floats, ImageArray
from detector.graph.metadata import GraphInfo, NmsSettings


@dataclass(frozen=True, eq=False)
class PointPredictions:
    """What the network says about B images at each of the P points of its grid.

    Attributes:
        boxes: [B, P, 4] float32 corners in canvas pixels, not clipped.
        scores: [B, P, C] float32, 0..1.
        nms: the suppression the points have been through inside the graph; None: they are all there.
    """

    boxes: Floats
    scores: Floats
    nms: NmsSettings | None = None


class Runtime(Protocol):
    """Computes a trained network.

    Attributes:
        name: of the library.
        input_hw: height and width of its images.
        form: what kind of graph it runs.
    """

    name: str
    input_hw: tuple[int, int]
    form: GraphInfo

    def predict(self, inputs: Sequence[ImageArray]) -> PointPredictions:
        """Predict for B > 0 images [H, W, 3] uint8 RGB of the size of the canvas."""
        ...


def predict_each(
    infer: Callable[[ImageArray, Sequence[str]], Sequence[npt.NDArray[Any]]],
    inputs: Sequence[ImageArray],
    form: GraphInfo,
    class_count: int,
) -> PointPredictions:
    """Return the predictions of a graph that is run on B > 0 images, one after the other.

    Args:
        infer: runs the graph on an image [H, W, 3], and gives the outputs of these names.
        inputs: the images.
        form: of the graph.
        class_count: C.
    """
    if form.nms is not None:
        return as_points(
            [infer(letterboxed, ("boxes", "scores", "class_ids")) for letterboxed in inputs], class_count, form.nms
        )
    answers = [infer(letterboxed, ("boxes", "scores")) for letterboxed in inputs]
    boxes, scores = (np.concatenate(parts) for parts in zip(*answers, strict=True))
    return PointPredictions(boxes, scores)


def as_points(found: Sequence[Sequence[npt.NDArray[Any]]], class_count: int, nms: NmsSettings) -> PointPredictions:
    """Return what graphs with suppression inside found in B images as predictions of a few points.

    A point has a score for the one class it was found as. What has survived a suppression survives it again, so that
    nothing behind a runtime needs to know of it. Images in which less was found have points of score 0.

    Args:
        found: per image boxes [N, 4], scores [N] and class_ids [N].
        class_count: C.
        nms: the suppression.

    Raises:
        ValueError: the arrays do not fit together.
    """
    most = max(len(scores) for _, scores, _ in found)
    boxes = np.zeros((len(found), most, 4), dtype=np.float32)
    all_scores = np.zeros((len(found), most, class_count), dtype=np.float32)
    for image, (own_boxes, scores, class_ids) in enumerate(found):
        n = len(scores)
        if own_boxes.shape != (n, 4) or class_ids.shape != (n,) or not np.isin(class_ids, range(class_count)).all():
            raise ValueError(f"boxes {own_boxes.shape}, scores {scores.shape}, class_ids {class_ids.shape}")
        boxes[image, :n] = own_boxes
        all_scores[image, np.arange(n), class_ids] = scores
    return PointPredictions(boxes, all_scores, nms)


def first_line(error: Exception) -> str:
    """Return the first line that says something of an error of a library; its name where none does."""
    lines = [line for line in str(error).splitlines() if line and not line.startswith(("Exception from", "Check '"))]
    return (lines or [type(error).__name__])[0]
