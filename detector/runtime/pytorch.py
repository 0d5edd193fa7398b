"""PyTorch: the inference backend that needs no further package and can use a GPU."""

from collections.abc import Sequence

import torch

from detector.arrays import ImageArray
from detector.graph.metadata import GraphInfo
from detector.loader.batch import images_to_tensor
from detector.model.fuse import fuse
from detector.model.network import GridNetwork
from detector.runtime.base import PointPredictions


class TorchRuntime:
    """Runs the fused network in float32.

    Args:
        network: trained, not fused; it is copied, then fused.
        input_hw: height and width of the network input, multiples of 32.
        device: the device to run on.
    """

    name = "torch"

    def __init__(self, network: GridNetwork, input_hw: tuple[int, int], device: torch.device) -> None:
        self.input_hw = input_hw
        self.graph_info = GraphInfo()
        self._device = device
        self._network = fuse(network).to(device)

    @torch.inference_mode()
    def predict(self, inputs: Sequence[ImageArray]) -> PointPredictions:
        """Run the network on B > 0 letterboxed images [H, W, 3] uint8 RGB of the size `input_hw`."""
        predictions = self._network(images_to_tensor(inputs).to(self._device))
        return PointPredictions(predictions.boxes().cpu().numpy(), predictions.scores().cpu().numpy())
