"""ONNX Runtime as runtime: small, on every platform, without torch."""

from collections.abc import Sequence

import numpy as np
import onnxruntime

from detector.errors import InputError
from detector.images import Pixels
from detector.runtime.form import GraphForm, choose_canvas, read_metadata
from detector.runtime.runtime import PointPredictions, as_points, first_line
from detector.weights_info import WeightsInfo


class OnnxRuntime:
    """Computes a graph written by `to_onnx` on the CPU.

    Args:
        graph: the ONNX file's bytes.
        source: its name, for messages.
        long_side: of the canvas in pixels; None: the graph's own.

    Attributes:
        info: what the graph says about its weights.
        form: what it says about itself.

    Raises:
        InputError: the file is damaged, or of another program, or cannot take this canvas.
    """

    name = "onnxruntime"

    def __init__(self, graph: bytes, source: str, long_side: int | None = None) -> None:
        try:
            self._session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
        except Exception as error:  # its own classes have no common parent
            raise InputError(f"{source}: not a readable ONNX file ({first_line(error)})") from None
        self.info: WeightsInfo
        self.form: GraphForm
        self.info, self.form = read_metadata(self._session.get_modelmeta().custom_metadata_map, source)
        self.canvas_hw = choose_canvas(self.info, self.form, long_side, source)

    def predict(self, canvases: Sequence[Pixels]) -> PointPredictions:
        """Predict for B > 0 pictures [H, W, 3] uint8 RGB of the size of the canvas."""
        if self.form.nms is not None:
            names = ["boxes", "scores", "class_ids"]
            found = [self._session.run(names, {"image": canvas[None]}) for canvas in canvases]
            return as_points(found, len(self.info.class_names), self.form.nms)
        answers = [self._session.run(["boxes", "scores"], {"image": canvas[None]}) for canvas in canvases]
        boxes, scores = (np.concatenate(parts) for parts in zip(*answers, strict=True))
        return PointPredictions(boxes, scores)
