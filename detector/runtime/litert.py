"""Run exports with LiteRT (formerly TensorFlow Lite), the inference backend of Android. It does not need torch."""

import os
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from detector.arrays import ImageArray
from detector.errors import WeightsError
from detector.forks import keep_after_fork
from detector.graph.metadata import GraphInfo, graph_input_size, read_metadata
from detector.graph.tflite_file import read_tflite
from detector.runtime.base import PointPredictions, predict_one_by_one, summarize_error
from detector.threads import available_cpus, default_limit
from detector.weights_info import WeightsInfo

if TYPE_CHECKING:
    from ai_edge_litert.interpreter import Interpreter


class LiteRtRuntime:
    """A .tflite file of `to_litert`, loaded into LiteRT on the CPU. Threads can use it at the same time.

    Args:
        path: path of the file.
        input_size: long side of the network input, in pixels; None: the input size of the export.
        threads: largest number of threads that compute; None: `default_limit`, or one per CPU core.

    Attributes:
        info: information about the weights.
        graph_info: properties of the graph.

    Raises:
        FileError: the file cannot be read.
        WeightsError: the file is damaged, another program wrote it, or it has another fixed input size.
        ConfigError: `input_size` is not a multiple of 32.
    """

    name = "litert"

    def __init__(self, path: Path, *, input_size: int | None = None, threads: int | None = None) -> None:
        self._model, metadata = read_tflite(path)
        self.info: WeightsInfo
        self.graph_info: GraphInfo
        self.info, self.graph_info = read_metadata(metadata, str(path))
        self.input_hw = graph_input_size(self.info, self.graph_info, input_size, str(path))
        self._threads = threads or default_limit() or available_cpus()
        self._source = str(path)
        # An interpreter holds the tensors of one inference, so threads must not share one. Free interpreters wait here:
        # there are never more than threads that have inferred at the same time. The operations of a deque are atomic.
        self._free = deque([self._new_interpreter()])
        self._process = os.getpid()

    def predict(self, inputs: Sequence[ImageArray]) -> PointPredictions:
        """Run the graph on B > 0 letterboxed images and return the predictions.

        Args:
            inputs: B letterboxed images, each [H, W, 3] uint8 RGB, with (H, W) equal to `input_hw`.
        """
        if self._process != os.getpid():
            # This process was forked: the threads of the interpreters do not exist here, and they would be waited for.
            self._free, self._process = deque(), os.getpid()
        return predict_one_by_one(self._infer, inputs, self.graph_info, len(self.info.class_names))

    def _new_interpreter(self) -> "Interpreter":
        """Return a new interpreter for the model.

        Raises:
            WeightsError: the model cannot be read.
        """
        from ai_edge_litert.interpreter import Interpreter

        try:
            interpreter = Interpreter(model_content=self._model, num_threads=self._threads)
            interpreter.allocate_tensors()
        except (RuntimeError, ValueError) as error:
            raise WeightsError(
                f"{self._source}: not a readable LiteRT file ({summarize_error(error)}); export it again"
            ) from None
        keep_after_fork(interpreter)
        return interpreter

    def _infer(self, image: ImageArray, names: Sequence[str]) -> list[npt.NDArray[Any]]:
        """Run the graph on one image [H, W, 3] and return the outputs with the given names, in this order."""
        try:
            interpreter = self._free.pop()
        except IndexError:  # other threads use all interpreters
            interpreter = self._new_interpreter()
        try:
            outputs = interpreter.get_signature_runner()(image=image[None])
            return [np.array(outputs[name]) for name in names]
        finally:
            self._free.append(interpreter)
