"""The network: uint8 pictures in, a score per class and a box at every point of three grids out."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detector.model.backbone import Backbone
from detector.model.grid import STRIDES, GridPredictions, make_grid
from detector.model.head import Head
from detector.model.initialise import initialise, initialise_output
from detector.model.neck import Neck


@dataclass(frozen=True)
class NetworkSize:
    """Channels and depths; widths are multiples of 16 wherever it matters, which vector units like."""

    stem: tuple[int, int]
    stages: tuple[int, int, int]
    depths: tuple[int, int, int]
    neck: int
    head: int


SIZES = {
    "pico": NetworkSize((8, 24), (32, 64, 96), (1, 2, 1), 48, 64),
    "nano": NetworkSize((16, 32), (64, 96, 160), (2, 4, 2), 64, 96),
    "small": NetworkSize((24, 48), (96, 160, 256), (2, 5, 3), 96, 128),
    "medium": NetworkSize((32, 64), (128, 256, 384), (3, 6, 3), 128, 192),
}


def wants_pooling(canvas_hw: tuple[int, int]) -> bool:
    """Say whether a network trained on this canvas has `ContextPool`: from 416 pixels on, 13 cells of stride 32."""
    return max(canvas_hw) >= 416


class GridNetwork(nn.Module):
    """Backbone, neck and a head per stride.

    The normalisation of the input is a part of the network, so that no caller can get it wrong.

    Args:
        size: channels and depths.
        class_count: C.
        colour_mean: [3] mean of the training pictures' RGB levels, 0..255.
        colour_deviation: [3] their deviation.
        pooled: give the coarsest map a wider view; see `wants_pooling`.
    """

    colour_mean: Tensor
    colour_deviation: Tensor

    def __init__(
        self,
        size: NetworkSize,
        class_count: int,
        colour_mean: npt.NDArray[np.float32],
        colour_deviation: npt.NDArray[np.float32],
        pooled: bool = False,
    ) -> None:
        super().__init__()
        self.class_count = class_count
        self.register_buffer("colour_mean", torch.from_numpy(colour_mean).clone())
        self.register_buffer("colour_deviation", torch.from_numpy(colour_deviation).clone())
        self.backbone = Backbone(size.stem, size.stages, size.depths, pooled)
        self.neck = Neck(size.stages, size.neck)
        heads = [Head(size.neck, size.head, class_count) for _ in STRIDES]
        self.heads = nn.ModuleList(heads)
        initialise(self)
        for head in heads:
            initialise_output(head.output, class_count)
        for parameter in self.parameters():
            if parameter.ndim == 4:
                # The layout every fast convolution wants; stays with copies and across devices.
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> GridPredictions:
        """Predict.

        Args:
            images: [B, 3, H, W] uint8 RGB, H and W divisible by 32.
        """
        height, width = images.shape[-2:]
        assert images.dtype == torch.uint8, images.dtype
        assert height % 32 == width % 32 == 0, (height, width)
        maps = self.neck(self.backbone(self._normalise(images)))
        answers = torch.cat([head(level) for head, level in zip(self.heads, maps, strict=True)], dim=1).float()
        return GridPredictions(
            class_logits=answers[..., : self.class_count],
            distances=F.softplus(answers[..., self.class_count :]),
            grid=make_grid((height, width), images.device),
        )

    def _normalise(self, images: Tensor) -> Tensor:
        """Return (levels - mean) / deviation as float32 [B, 3, H, W], channels_last."""
        batch, _, height, width = images.shape
        # One row of a channels_last picture is R G B R G B ...: with the three factors repeated along it the
        # arithmetic runs over whole rows instead of three numbers at a time, ten times as fast.
        rows = images.permute(0, 2, 3, 1).reshape(batch, height, width * 3).float()
        gain = 1 / self.colour_deviation
        rows = torch.addcmul((-self.colour_mean * gain).repeat(width), rows, gain.repeat(width))
        return rows.view(batch, height, width, 3).permute(0, 3, 1, 2)
