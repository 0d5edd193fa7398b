"""OpenVINO as runtime: the fastest on the processors it knows, without torch."""

from collections.abc import Sequence

import numpy as np
import openvino

from detector.errors import InputError
from detector.images import Pixels
from detector.runtime.runtime import PointPredictions, first_line
from detector.weights_info import WeightsInfo, from_metadata


class OpenVinoRuntime:
    """Computes a graph written by `to_onnx` on the CPU.

    Args:
        graph: the ONNX file's bytes.
        source: its name, for messages.
        fast: compute in what OpenVINO finds fastest on this machine, bf16 on newer processors, instead of float32.

    Attributes:
        info: what the graph says about itself.

    Raises:
        InputError: the file is damaged, or of another program.
    """

    name = "openvino"

    def __init__(self, graph: bytes, source: str, fast: bool = False) -> None:
        core = openvino.Core()
        try:
            model = core.read_model(graph)
        except RuntimeError as error:
            raise InputError(f"{source}: not a readable ONNX file ({first_line(error)})") from None
        metadata = model.get_rt_info("framework").value if model.has_rt_info("framework") else {}
        self.info: WeightsInfo = from_metadata(metadata, source)
        self.canvas_hw = self.info.canvas_hw
        for constant in (node for node in model.get_ops() if node.get_type_name() == "Constant"):
            # A graph with a NaN may answer with numbers: OpenVINO's maximum prefers them.
            if constant.data.dtype.kind == "f" and np.isnan(constant.data).any():
                name = constant.get_friendly_name()
                raise InputError(f"{source}: {name} holds values that are not numbers: the weights are damaged")
        precision = {} if fast else {"INFERENCE_PRECISION_HINT": "f32"}
        try:
            compiled = core.compile_model(model, "CPU", {"PERFORMANCE_HINT": "LATENCY"} | precision)
        except RuntimeError as error:
            raise InputError(f"{source}: OpenVINO cannot run this graph ({first_line(error)})") from None
        self._request = compiled.create_infer_request()

    def predict(self, canvases: Sequence[Pixels]) -> PointPredictions:
        """Predict for B > 0 pictures [H, W, 3] uint8 RGB of the size of the canvas."""
        boxes, scores = [], []
        for canvas in canvases:
            answer = self._request.infer({"image": canvas[None]}, share_inputs=True)
            boxes.append(answer["boxes"])
            scores.append(answer["scores"])
        return PointPredictions(np.concatenate(boxes), np.concatenate(scores))
