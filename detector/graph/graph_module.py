"""The computation that an export contains, as PyTorch modules: from pixels to boxes and scores at each grid point."""

import io
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detector.forks import no_fork
from detector.model.fuse import fuse
from detector.model.network import GridNetwork

_LOCK = threading.Lock()
"""Held while an exporter runs: those of torch use global state, as does `warnings.catch_warnings`."""


class GraphModule(nn.Module):
    """The computation that is exported: normalization, the fused network, and the decoding of boxes and scores.

    Args:
        network: trained network, not fused. The module uses a fused copy on the CPU.
        input_hw: the fixed input size (height, width). None: the graph accepts any input size.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, network: GridNetwork, input_hw: tuple[int, int] | None) -> None:
        super().__init__()
        self.network = fuse(network).cpu()
        weight, bias = self.network.color_convolution()
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)
        # OpenCV's dnn module cannot fold constants before version 5. So the grid for a fixed input size is computed
        # here and stored as constants.
        self._grid = None
        if input_hw is not None:
            with torch.inference_mode():
                self._grid = self.network(torch.zeros(1, 3, *input_hw, dtype=torch.uint8)).grid
        self.eval()

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return boxes [B, P, 4] in input pixels and class scores [B, P, C] for images [B, H, W, 3] uint8 RGB."""
        return self.predict_levels(image.permute(0, 3, 1, 2).float())

    def predict_levels(self, levels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the same for images [B, 3, H, W] float32 RGB, with levels from 0 to 255."""
        predictions = self.network.from_normalized(F.conv2d(levels, self.weight, self.bias))
        if self._grid is not None:
            predictions = predictions.with_grid(self._grid)
        return predictions.boxes(), predictions.scores()


class LevelsModule(nn.Module):
    """`GraphModule` for runtimes whose input is float32 [1, 3, H, W] RGB, with levels from 0 to 255: ncnn, Core ML.

    Args:
        network: trained network, not fused.
        input_hw: the fixed input size (height, width).
    """

    def __init__(self, network: GridNetwork, input_hw: tuple[int, int]) -> None:
        super().__init__()
        self.computation = GraphModule(network, input_hw)

    def forward(self, levels: Tensor) -> tuple[Tensor, Tensor]:
        """Return boxes [1, P, 4] in input pixels and class scores [1, P, C]."""
        return self.computation.predict_levels(levels)


def trace(network: GridNetwork, input_hw: tuple[int, int]) -> torch.jit.ScriptModule:
    """Return the TorchScript of `LevelsModule` for one image of the size `input_hw` (height, width)."""
    module = LevelsModule(network, input_hw).eval()
    with quiet_export(), torch.inference_mode():
        traced: torch.jit.ScriptModule = torch.jit.trace(module, torch.zeros(1, 3, *input_hw), check_trace=False)  # type: ignore[no-untyped-call]
    return traced


@contextmanager
def quiet_export() -> Iterator[None]:
    """Context in which one exporter runs at a time, without warnings, and no other thread can fork.

    Exporters warn about sizes that become constants, which is intended.
    """
    with no_fork(), _LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def no_output() -> Iterator[None]:
    """Context in which what Python code prints, such as the progress of a converter, is discarded."""
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        yield
