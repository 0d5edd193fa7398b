"""OpenVINO as runtime: the fastest on the processors it knows, without torch."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from detector.arrays import ImageArray
from detector.errors import InputError
from detector.graph.metadata import GraphInfo, choose_input_size, read_metadata
from detector.graph.no_telemetry import openvino_core
from detector.graph.openvino_ir import Ir, metadata_of
from detector.runtime.base import PointPredictions, first_line, predict_each
from detector.weights_info import WeightsInfo

if TYPE_CHECKING:
    import openvino


class OpenVinoRuntime:
    """Computes a graph written by `to_onnx` or `to_ir` on the CPU.

    Args:
        graph: the ONNX file's bytes, or an IR.
        source: its name, for messages.
        fast: compute in what OpenVINO finds fastest on this machine, bf16 on newer processors, instead of float32.
        long_side: of the canvas in pixels; None: the graph's own.

    Attributes:
        info: what the graph says about its weights.
        form: what it says about itself.

    Raises:
        InputError: the file is damaged, or of another program, or cannot take this canvas.
    """

    name = "openvino"

    def __init__(self, graph: bytes | Ir, source: str, fast: bool = False, long_side: int | None = None) -> None:
        core = openvino_core()
        try:
            model = core.read_model(graph.xml, graph.numbers) if isinstance(graph, Ir) else core.read_model(graph)
        except RuntimeError as error:
            kind = "OpenVINO IR" if isinstance(graph, Ir) else "ONNX file"
            raise InputError(f"{source}: not a readable {kind} ({first_line(error)})") from None
        self.info: WeightsInfo
        self.form: GraphInfo
        self.info, self.form = read_metadata(metadata_of(model), source)
        self.input_hw = choose_input_size(self.info, self.form, long_side, source)
        _check_constants(model, source)
        precision = {} if fast else {"INFERENCE_PRECISION_HINT": "f32"}
        try:
            if self.form.dynamic:  # sizes that are known beforehand are faster
                model.reshape([1, *self.input_hw, 3])
            compiled = core.compile_model(model, "CPU", {"PERFORMANCE_HINT": "LATENCY"} | precision)
        except RuntimeError as error:
            raise InputError(f"{source}: OpenVINO cannot run this graph ({first_line(error)})") from None
        self._request = compiled.create_infer_request()

    def predict(self, inputs: Sequence[ImageArray]) -> PointPredictions:
        """Predict for B > 0 images [H, W, 3] uint8 RGB of the size of the canvas."""
        return predict_each(self._infer, inputs, self.form, len(self.info.class_names))

    def _infer(self, letterboxed: ImageArray, names: Sequence[str]) -> tuple[npt.NDArray[Any], ...]:
        answer = self._request.infer({"image": letterboxed[None]}, share_inputs=True)
        # Copied: the next answer is written to the same place.
        return tuple(np.array(answer[name]) for name in names)


def _check_constants(model: "openvino.Model", source: str) -> None:
    """Refuse weights that are no numbers: a graph with a NaN may answer with numbers, since maxima prefer them."""
    for constant in (node for node in model.get_ops() if node.get_type_name() == "Constant"):
        if constant.data.dtype.kind == "f" and np.isnan(constant.data).any():
            name = constant.get_friendly_name()
            raise InputError(f"{source}: {name} holds values that are not numbers: the weights are damaged")
