"""Run exports with ncnn, a small inference backend for phones and other ARM devices. It does not need torch."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from detector.arrays import ImageArray
from detector.errors import WeightsError
from detector.forks import keep_after_fork, note_openmp, openmp_is_unusable
from detector.graph.export_format import NCNN_FILES
from detector.graph.metadata import GraphInfo, graph_input_size, read_metadata
from detector.graph.ncnn_model import NcnnModel, read_ncnn
from detector.runtime.base import PointPredictions, predict_one_by_one
from detector.threads import available_cpus, default_limit
from detector.weights_info import WeightsInfo

if TYPE_CHECKING:
    import ncnn


class NcnnRuntime:
    """The folder of an ncnn export, loaded into ncnn on the CPU. Threads can use it at the same time.

    A float32 export computes in float32 on every device. A float16 export lets ncnn store and compute in float16, which
    ARM devices can do.

    Args:
        folder: folder of the export.
        input_size: long side of the network input, in pixels; None: the input size of the export.
        threads: largest number of threads that compute; None: `default_limit`, or one per CPU core.

    Attributes:
        info: information about the weights.
        graph_info: properties of the graph.

    Raises:
        FileError: a file is missing or cannot be read.
        WeightsError: the export is damaged, another program wrote it, or it has another fixed input size.
        ConfigError: `input_size` is not a multiple of 32.
    """

    name = "ncnn"

    def __init__(self, folder: Path, *, input_size: int | None = None, threads: int | None = None) -> None:
        model = read_ncnn(folder)  # checks the hashes: ncnn would crash on a damaged file
        self.info: WeightsInfo
        self.graph_info: GraphInfo
        self.info, self.graph_info = read_metadata(model.metadata, str(folder / NCNN_FILES[2]))
        self.input_hw = graph_input_size(self.info, self.graph_info, input_size, str(folder))
        note_openmp()
        self._folder, self._metadata = folder.absolute(), model.metadata
        self._threads = 1 if openmp_is_unusable() else threads or default_limit() or available_cpus()
        self._net = self._load_net(model)

    def predict(self, inputs: Sequence[ImageArray]) -> PointPredictions:
        """Run the graph on B > 0 letterboxed images and return the predictions.

        Args:
            inputs: B letterboxed images, each [H, W, 3] uint8 RGB, with (H, W) equal to `input_hw`.
        """
        if openmp_is_unusable() and self._threads > 1:
            # This process was forked: OpenMP would wait forever for its threads. The layers keep the number of threads
            # with which they were loaded, so the network is loaded again.
            model = read_ncnn(self._folder)
            if model.metadata != self._metadata:  # which contain the hashes of the other files
                raise WeightsError(f"{self._folder}: the export has changed since it was loaded; load it again")
            self._threads = 1
            self._net = self._load_net(model)
        return predict_one_by_one(self._infer, inputs, self.graph_info, len(self.info.class_names))

    def _load_net(self, model: NcnnModel) -> "ncnn.Net":
        """Return the network of a model that was read from the folder.

        Raises:
            WeightsError: ncnn cannot load it.
        """
        import ncnn

        net = ncnn.Net()
        options = net.opt
        options.use_vulkan_compute = False
        options.use_bf16_storage = False
        options.use_fp16_packed = options.use_fp16_storage = options.use_fp16_arithmetic = self.graph_info.fp16
        options.num_threads = self._threads
        try:
            failed = net.load_param_mem(model.param.decode()) or net.load_model(str(self._folder / NCNN_FILES[1]))
        except (UnicodeDecodeError, ValueError, RuntimeError):
            failed = True
        if failed:
            raise WeightsError(f"{self._folder}: not a readable ncnn model; export it again")
        keep_after_fork(net)
        return net

    def _infer(self, image: ImageArray, names: Sequence[str]) -> list[npt.NDArray[Any]]:
        """Run the graph on one image [H, W, 3] and return the outputs with the given names, in this order."""
        import ncnn

        levels = np.ascontiguousarray(image.transpose(2, 0, 1), dtype=np.float32)
        # An extractor belongs to one inference, so threads share only the weights.
        extractor = self._net.create_extractor()
        # The matrix uses the memory of the array, which stays alive until the end of this function.
        if extractor.input("image", ncnn.Mat(levels)):
            raise WeightsError("the graph has no input `image`; export it again")
        outputs = []
        for name in names:
            failed, matrix = extractor.extract(name)
            if failed:
                raise WeightsError(f"the graph has no output `{name}`; export it again")
            outputs.append(np.array(matrix, dtype=np.float32)[None])  # a copy: ncnn frees the memory of the matrix
        return outputs
