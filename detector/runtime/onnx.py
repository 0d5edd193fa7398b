"""ONNX Runtime as runtime: small, on every platform, without torch."""

from collections.abc import Sequence
from typing import Any

import numpy.typing as npt
import onnxruntime

from detector.arrays import ImageArray
from detector.errors import InputError
from detector.graph.metadata import GraphInfo, choose_input_size, read_metadata
from detector.runtime.base import PointPredictions, first_line, predict_each
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
        self.form: GraphInfo
        self.info, self.form = read_metadata(self._session.get_modelmeta().custom_metadata_map, source)
        self.input_hw = choose_input_size(self.info, self.form, long_side, source)

    def predict(self, inputs: Sequence[ImageArray]) -> PointPredictions:
        """Predict for B > 0 images [H, W, 3] uint8 RGB of the size of the canvas."""
        return predict_each(self._infer, inputs, self.form, len(self.info.class_names))

    def _infer(self, letterboxed: ImageArray, names: Sequence[str]) -> list[npt.NDArray[Any]]:
        answer: list[npt.NDArray[Any]] = self._session.run(names, {"image": letterboxed[None]})
        return answer
