"""ONNX Runtime as runtime: small, on every platform, without torch."""

from collections.abc import Sequence

import numpy as np
import onnxruntime

from detector.errors import InputError
from detector.images import Pixels
from detector.runtime.runtime import PointPredictions, first_line
from detector.weights_info import WeightsInfo, from_metadata


class OnnxRuntime:
    """Computes a graph written by `to_onnx` on the CPU.

    Args:
        graph: the ONNX file's bytes.
        source: its name, for messages.

    Attributes:
        info: what the graph says about itself.

    Raises:
        InputError: the file is damaged, or of another program.
    """

    name = "onnxruntime"

    def __init__(self, graph: bytes, source: str) -> None:
        try:
            self._session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
        except Exception as error:  # its own classes have no common parent
            raise InputError(f"{source}: not a readable ONNX file ({first_line(error)})") from None
        self.info: WeightsInfo = from_metadata(self._session.get_modelmeta().custom_metadata_map, source)
        self.canvas_hw = self.info.canvas_hw

    def predict(self, canvases: Sequence[Pixels]) -> PointPredictions:
        """Predict for B > 0 pictures [H, W, 3] uint8 RGB of the size of the canvas."""
        answers = [self._session.run(["boxes", "scores"], {"image": canvas[None]}) for canvas in canvases]
        boxes, scores = (np.concatenate(parts) for parts in zip(*answers, strict=True))
        return PointPredictions(boxes, scores)
