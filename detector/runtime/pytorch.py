"""PyTorch as runtime: needs nothing but the package itself, and runs on a GPU too."""

from collections.abc import Sequence

import torch

from detector.arrays import ImageArray
from detector.graph.metadata import GraphInfo
from detector.loader.batch import images_to_tensor
from detector.model.fuse import fuse
from detector.model.network import GridNetwork
from detector.runtime.base import PointPredictions


class TorchRuntime:
    """Computes the folded network in float32.

    Args:
        network: trained, not fused; it is copied and folded.
        input_hw: height and width of the images; both divide by 32.
        device: where to run.
    """

    name = "torch"

    def __init__(self, network: GridNetwork, input_hw: tuple[int, int], device: torch.device) -> None:
        self.input_hw = input_hw
        self.form = GraphInfo()
        self._device = device
        self._network = fuse(network).to(device)

    @torch.inference_mode()
    def predict(self, inputs: Sequence[ImageArray]) -> PointPredictions:
        """Predict for B > 0 images [H, W, 3] uint8 RGB of the size of the canvas."""
        predictions = self._network(images_to_tensor(inputs).to(self._device))
        return PointPredictions(predictions.boxes().cpu().numpy(), predictions.scores().cpu().numpy())
