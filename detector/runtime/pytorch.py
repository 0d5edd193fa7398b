"""Run networks with PyTorch, the inference backend that can use a GPU and needs no additional package."""

import logging
from collections.abc import Sequence

import numpy as np
import torch

from detector.arrays import Floats, ImageArray
from detector.graph.metadata import GraphInfo
from detector.loader.batch import images_to_tensor
from detector.model.fuse import fuse
from detector.model.network import GridNetwork
from detector.runtime.base import PointPredictions
from detector.runtime.hardware import device_memory_errors, limit_threads

log = logging.getLogger(__name__)


class TorchRuntime:
    """A network, fused and loaded into PyTorch, that runs in float32. Threads can use it at the same time.

    In a process that was forked from one that has used PyTorch, it computes with one thread; see `detector.forks`.

    Args:
        network: trained network, not fused. The runtime uses a fused copy and leaves `network` unchanged.
        input_hw: height and width of the network input in pixels, multiples of 32.
        device: the device on which the network runs.
        threads: number of threads that compute on the CPU; None: as set in torch. PyTorch has one
            limit per process, which also applies to all other code of the process that uses torch.
    """

    name = "torch"

    def __init__(
        self, network: GridNetwork, input_hw: tuple[int, int], device: torch.device, *, threads: int | None = None
    ) -> None:
        self._threads = threads
        limit_threads(threads)
        self.input_hw = input_hw
        self.graph_info = GraphInfo()
        self._device = device
        self._network = fuse(network).to(device)

    @torch.inference_mode()
    def predict(self, inputs: Sequence[ImageArray]) -> PointPredictions:
        """Run the network on B > 0 letterboxed images and return the predictions.

        If the memory of the GPU is too small for a batch, its halves are processed one after the other.

        Args:
            inputs: B letterboxed images, each [H, W, 3] uint8 RGB, with (H, W) equal to `input_hw`.

        Raises:
            ConfigError: the memory of the GPU is too small for a single image.
        """
        if len(inputs) == 1:
            with device_memory_errors("use a smaller input size (--imgsz), another GPU, or --device cpu"):
                return self._predict(inputs)
        try:
            return self._predict(inputs)
        except torch.OutOfMemoryError:
            log.warning("the GPU does not have enough memory for a batch of %d images; using half of it", len(inputs))
        # Outside of the `except` block, because the exception keeps the memory of the failed batch.
        torch.cuda.empty_cache()
        middle = len(inputs) // 2
        parts = [self.predict(inputs[:middle]), self.predict(inputs[middle:])]
        boxes, scores = (np.concatenate([getattr(part, name) for part in parts]) for name in ("boxes", "scores"))
        return PointPredictions(boxes, scores)

    @torch.inference_mode()
    def features(self, inputs: Sequence[ImageArray]) -> list[Floats]:
        """Return the feature maps [B, channels, h, w] of the backbone, finest first, for B > 0 letterboxed images.

        Args:
            inputs: as for `predict`.
        """
        limit_threads(self._threads)
        with device_memory_errors("use fewer images at a time, another GPU, or --device cpu"):
            maps = self._network.features(images_to_tensor(inputs).to(self._device))
        return [level.float().cpu().numpy() for level in maps]

    def _predict(self, inputs: Sequence[ImageArray]) -> PointPredictions:
        """Run the network on one batch."""
        limit_threads(self._threads)  # at each prediction, because each thread has a copy of the limit
        predictions = self._network(images_to_tensor(inputs).to(self._device))
        return PointPredictions(predictions.boxes().cpu().numpy(), predictions.scores().cpu().numpy())
