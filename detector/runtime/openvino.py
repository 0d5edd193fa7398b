"""Run graphs with OpenVINO, the fastest inference backend on the CPUs that it supports. It does not need torch."""

from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from detector.arrays import ImageArray
from detector.errors import WeightsError
from detector.forks import check_pools, keep_after_fork
from detector.graph.metadata import GraphInfo, graph_input_size, read_metadata
from detector.graph.no_telemetry import openvino_core
from detector.graph.openvino_ir import Ir, model_metadata
from detector.runtime.base import PointPredictions, predict_one_by_one, summarize_error
from detector.threads import default_limit
from detector.weights_info import WeightsInfo

if TYPE_CHECKING:
    import openvino


class OpenVinoRuntime:
    """A graph of `to_onnx` or `to_ir`, loaded into OpenVINO on the CPU. Threads can use it at the same time.

    Args:
        graph: bytes of the ONNX file, or an OpenVINO IR.
        source: name of the file or folder, for error messages.
        fast: if True, use the precision that OpenVINO considers fastest on this CPU (bf16 on newer CPUs); if False, use
            float32.
        input_size: long side of the network input, in pixels; None: the input size of the export.
        threads: largest number of threads that compute; None: `default_limit`, or one per CPU core.

    Attributes:
        info: information about the weights.
        graph_info: properties of the graph.

    Raises:
        WeightsError: the graph is damaged, another program wrote it, or it has another fixed input size.
        ConfigError: `input_size` is not a multiple of 32.
        ProcessError: this process was forked from one that had deleted a detector.
    """

    name = "openvino"

    def __init__(
        self,
        graph: bytes | Ir,
        source: str,
        *,
        fast: bool = False,
        input_size: int | None = None,
        threads: int | None = None,
    ) -> None:
        check_pools("OpenVINO")
        core = openvino_core()
        try:
            model = core.read_model(graph.xml, graph.weights) if isinstance(graph, Ir) else core.read_model(graph)
        except RuntimeError as error:
            kind = "OpenVINO IR" if isinstance(graph, Ir) else "ONNX file"
            raise WeightsError(f"{source}: not a readable {kind} ({summarize_error(error)}); export it again") from None
        self.info: WeightsInfo
        self.graph_info: GraphInfo
        self.info, self.graph_info = read_metadata(model_metadata(model, source), source)
        self.input_hw = graph_input_size(self.info, self.graph_info, input_size, source)
        _check_constants(model, source)
        properties: dict[str, str | int] = {"PERFORMANCE_HINT": "LATENCY"}
        if not fast:
            properties["INFERENCE_PRECISION_HINT"] = "f32"
        if limit := threads or default_limit():
            properties["INFERENCE_NUM_THREADS"] = limit
        try:
            if self.graph_info.dynamic:  # a graph with a fixed input size runs faster
                model.reshape([1, *self.input_hw, 3])
            self._compiled = core.compile_model(model, "CPU", properties)
        except RuntimeError as error:
            raise WeightsError(f"{source}: OpenVINO cannot run this graph ({summarize_error(error)})") from None
        keep_after_fork(self._compiled, pool=f"OpenVINO with {limit} threads")
        # An infer request holds the input and the outputs of one inference, so threads must not share one. Free
        # requests wait here: there are never more than threads that have inferred at the same time. The operations of a
        # deque are atomic.
        self._free = deque([self._compiled.create_infer_request()])

    def predict(self, inputs: Sequence[ImageArray]) -> PointPredictions:
        """Run the graph on B > 0 letterboxed images and return the predictions.

        Args:
            inputs: B letterboxed images, each [H, W, 3] uint8 RGB, with (H, W) equal to `input_hw`.
        """
        return predict_one_by_one(self._infer, inputs, self.graph_info, len(self.info.class_names))

    def _infer(self, image: ImageArray, names: Sequence[str]) -> tuple[npt.NDArray[Any], ...]:
        """Run the graph on one image [H, W, 3] and return the outputs with the given names, in this order."""
        try:
            request = self._free.pop()
        except IndexError:  # other threads use all requests
            request = self._compiled.create_infer_request()
        try:
            outputs = request.infer({"image": image[None]}, share_inputs=True)
            # Copy the outputs, because the next inference overwrites their memory.
            return tuple(np.array(outputs[name]) for name in names)
        finally:
            self._free.append(request)


def _check_constants(model: "openvino.Model", source: str) -> None:
    """Raise WeightsError if a constant of the model, such as a weight tensor, contains NaN.

    A check of the outputs would not find every NaN: the maximum of NaN and a number can be the number.
    """
    for constant in (node for node in model.get_ops() if node.get_type_name() == "Constant"):
        if constant.data.dtype.kind == "f" and np.isnan(constant.data).any():
            name = constant.get_friendly_name()
            raise WeightsError(f"{source}: the constant {name} contains NaN; the weights are damaged: export again")
