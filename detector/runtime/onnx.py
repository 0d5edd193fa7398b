"""Run graphs with ONNX Runtime, a small inference backend for all platforms. It does not need torch."""

from collections.abc import Sequence
from typing import Any

import numpy.typing as npt

from detector.arrays import ImageArray
from detector.errors import WeightsError
from detector.graph.metadata import GraphInfo, graph_input_size, read_metadata
from detector.graph.no_telemetry import import_onnxruntime
from detector.runtime.base import PointPredictions, predict_one_by_one, summarize_error
from detector.weights_info import WeightsInfo, damaged

onnxruntime = import_onnxruntime()


class OnnxRuntime:
    """An ONNX graph of `to_onnx`, loaded into ONNX Runtime on the CPU.

    Args:
        graph: bytes of the ONNX file.
        source: name of the file, for error messages.
        input_size: long side of the network input, in pixels; None: the input size of the export.

    Attributes:
        info: information about the weights.
        graph_info: properties of the graph.

    Raises:
        WeightsError: the graph is damaged, another program wrote it, or it has another fixed input size.
        ConfigError: `input_size` is not a multiple of 32.
    """

    name = "onnxruntime"

    def __init__(self, graph: bytes, source: str, *, input_size: int | None = None) -> None:
        try:
            self._session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
        except Exception as error:  # the exceptions of ONNX Runtime have no common base class
            raise WeightsError(
                f"{source}: not a readable ONNX file ({summarize_error(error)}); export it again"
            ) from None
        self.info: WeightsInfo
        self.graph_info: GraphInfo
        try:
            metadata = self._session.get_modelmeta().custom_metadata_map
        except UnicodeDecodeError as error:
            raise damaged(source, error) from None
        self.info, self.graph_info = read_metadata(metadata, source)
        self.input_hw = graph_input_size(self.info, self.graph_info, input_size, source)

    def predict(self, inputs: Sequence[ImageArray]) -> PointPredictions:
        """Run the graph on B > 0 letterboxed images and return the predictions.

        Args:
            inputs: B letterboxed images, each [H, W, 3] uint8 RGB, with (H, W) equal to `input_hw`.
        """
        return predict_one_by_one(self._infer, inputs, self.graph_info, len(self.info.class_names))

    def _infer(self, image: ImageArray, names: Sequence[str]) -> list[npt.NDArray[Any]]:
        """Run the graph on one image [H, W, 3] and return the outputs with the given names, in this order."""
        outputs: list[npt.NDArray[Any]] = self._session.run(names, {"image": image[None]})
        return outputs
