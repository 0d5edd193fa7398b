"""The network: uint8 pictures in, a score per class and a box at every point of three grids out."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detector.arrays import Floats
from detector.config import Config
from detector.errors import InputError
from detector.model.backbone import Backbone
from detector.model.blocks import ConvBlock
from detector.model.grid import STRIDES, CellPredictions, GridPredictions, Predictions, make_grid
from detector.model.head import CellHead, Head
from detector.model.initialize import initialise, initialise_cells, initialise_output
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


OF_THE_NETWORK = (
    "model",
    "head",
    "boxes_per_cell",
    "activation",
    "leaky_slope",
    "norm",
    "residual",
    "kernel",
    "padding",
    "downsample",
    "input",
    "class_loss",
)
"""Settings that weights were made for and cannot be used without."""


def wants_pooling(canvas_hw: tuple[int, int]) -> bool:
    """Say whether a network trained on this canvas has `ContextPool`: from 416 pixels on, 13 cells of stride 32."""
    return max(canvas_hw) >= 416


class GridNetwork(nn.Module):
    """Backbone, then neck and a head per stride, or one grid of cells as in the first YOLO.

    The normalisation of the input is a part of the network, so that no caller can get it wrong.

    Args:
        config: size, blocks, first weights, heads.
        class_count: C.
        colour_mean: [3] mean of the training pictures' RGB levels, 0..255.
        colour_covariance: [3, 3] their covariance.
        pooled: give the coarsest map a wider view; see `wants_pooling`.
    """

    colour_mean: Tensor
    colour_deviation: Tensor
    colour_mixing: Tensor

    def __init__(
        self,
        config: Config,
        class_count: int,
        colour_mean: Floats,
        colour_covariance: Floats,
        pooled: bool = False,
    ) -> None:
        super().__init__()
        size = SIZES[config.model]
        self.class_count = class_count
        self.boxes_per_cell = config.boxes_per_cell
        self.exclusive = config.class_loss == "softmax"
        self.register_buffer("colour_mean", torch.from_numpy(colour_mean).clone())
        self.is_mixed = config.input != "standard"
        if self.is_mixed:
            mixing = decorrelation(colour_covariance, rotated_back=config.input == "zca")
            self.register_buffer("colour_mixing", torch.from_numpy(mixing))
        else:
            deviation = np.sqrt(np.diagonal(colour_covariance))
            self.register_buffer("colour_deviation", torch.from_numpy(deviation))
        self.backbone = Backbone(size.stem, size.stages, size.depths, config, pooled)
        if config.head == "points":
            self.neck = Neck(size.stages, size.neck, config)
            self.heads = nn.ModuleList(Head(size.neck, size.head, class_count, config) for _ in STRIDES)
        else:
            self.cells = CellHead(size.stages[2], size.stages[2], class_count, config)
        initialise(self, config)
        for module in self.modules():
            if isinstance(module, Head):
                initialise_output(module.output, class_count, config)
            elif isinstance(module, CellHead):
                initialise_cells(module.output, class_count, config)
        for parameter in self.parameters():
            if parameter.ndim == 4:
                # The layout every fast convolution wants; stays with copies and across devices.
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)

    @property
    def outputs(self) -> list[nn.Conv2d]:
        """The last layers, which nothing normalises."""
        return [module.output for module in self.modules() if isinstance(module, Head | CellHead)]

    def forward(self, images: Tensor) -> Predictions:
        """Predict.

        Args:
            images: [B, 3, H, W] uint8 RGB, H and W divisible by 32.
        """
        height, width = images.shape[-2:]
        assert images.dtype == torch.uint8, images.dtype
        assert height % 32 == width % 32 == 0, (height, width)
        return self.from_normalised(self._normalise(images))

    def from_normalised(self, images: Tensor) -> Predictions:
        """Predict from pictures [B, 3, H, W] that are normalised already, as by `colour_convolution`."""
        maps = self.backbone(images)
        return self._in_cells(maps[-1], images) if hasattr(self, "cells") else self._at_points(maps, images)

    def set_rounded(self, rounded: bool) -> None:
        """Let the blocks compute, in training, as in eight bits, or as they are; see `ConvBlock`."""
        for module in self.modules():
            if isinstance(module, ConvBlock):
                module.rounded = rounded

    def colour_convolution(self) -> tuple[Tensor, Tensor]:
        """Return weights [3, 3, 1, 1] and bias [3] of a convolution that normalises levels of RGB [B, 3, H, W]."""
        mixing = self.colour_mixing if self.is_mixed else torch.diag(1 / self.colour_deviation)
        return mixing[:, :, None, None].clone(), -mixing @ self.colour_mean

    def _at_points(self, maps: list[Tensor], images: Tensor) -> GridPredictions:
        maps = self.neck(maps)
        answers = _exact(torch.cat([head(level) for head, level in zip(self.heads, maps, strict=True)], dim=1))
        return GridPredictions(
            class_logits=answers[..., : self.class_count],
            distances=F.softplus(answers[..., self.class_count :]),
            grid=make_grid(_hw(images), images.device, [_hw(level) for level in maps]),
            exclusive=self.exclusive,
        )

    def _in_cells(self, level: Tensor, images: Tensor) -> CellPredictions:
        parts = [self.class_count, self.boxes_per_cell, 4 * self.boxes_per_cell]
        class_scores, confidence, offsets = torch.split(_exact(self.cells(level)), parts, dim=-1)
        return CellPredictions(
            class_scores=class_scores,
            confidence=confidence,
            offsets=offsets.view(*offsets.shape[:2], self.boxes_per_cell, 4),
            grid=make_grid(_hw(images), images.device, [_hw(level)], STRIDES[-1:]),
            canvas_hw=_hw(images),
        )

    def _normalise(self, images: Tensor) -> Tensor:
        """Return (levels - mean) / deviation, or decorrelated, as float32 [B, 3, H, W], channels_last."""
        batch, _, height, width = images.shape
        rows = images.permute(0, 2, 3, 1).to(self.colour_mean.dtype)
        if self.is_mixed:
            return ((rows - self.colour_mean) @ self.colour_mixing.t()).permute(0, 3, 1, 2)
        # One row of a channels_last picture is R G B R G B ...: with the three factors repeated along it the
        # arithmetic runs over whole rows instead of three numbers at a time, ten times as fast.
        rows = rows.reshape(batch, height, width * 3)
        gain = 1 / self.colour_deviation
        rows = torch.addcmul((-self.colour_mean * gain).repeat(width), rows, gain.repeat(width))
        return rows.view(batch, height, width, 3).permute(0, 3, 1, 2)


def decorrelation(covariance: Floats, rotated_back: bool) -> Floats:
    """Return the matrix [3, 3] that turns centred colours into uncorrelated ones of deviation 1.

    Args:
        covariance: [3, 3] of the RGB levels.
        rotated_back: to the axes of red, green and blue again (ZCA), so that the picture still looks like itself;
            else the channels are the principal colours (PCA), the strongest first.

    Source: Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009, appendix A.
    """
    variances, axes = np.linalg.eigh(covariance.astype(np.float64))
    # A colour that hardly varies is noise of less than a level; at deviation 1 it would drown the picture.
    whiten = axes[:, ::-1].T / np.sqrt(np.maximum(variances[::-1], 1.0))[:, None]
    return np.asarray(axes[:, ::-1] @ whiten if rotated_back else whiten, dtype=np.float32)


def check_canvas(canvas_hw: tuple[int, int], config: Config) -> None:
    """Refuse a canvas of which "valid" padding would leave nothing.

    Raises:
        InputError: it would; names the layer.
    """
    if config.padding == "same":
        return
    lost, depths = config.kernel - 1, SIZES[config.model].depths
    for axis, side in enumerate(canvas_hw):
        left = side
        for stride, blocks in ((2, 0), (4, 0), *zip(STRIDES, depths, strict=True)):
            left = (left - lost - 1) // 2 + 1 if config.downsample == "conv" else (left - lost) // 2
            left -= blocks * lost
            if left < 1:
                raise InputError(
                    f"padding: valid leaves nothing of a {('height', 'width')[axis]} of {side} pixels at stride "
                    f"{stride}: every kernel of {config.kernel} takes {lost} cells; take a larger canvas (and "
                    "first_canvas=1), a smaller kernel, or padding same"
                )


def _exact(x: Tensor) -> Tensor:
    """Return answers in float32, whatever the arithmetic of the layers; float64 stays, which gradient checks need."""
    return x if x.dtype == torch.float64 else x.float()


def _hw(x: Tensor) -> tuple[int, int]:
    return x.shape[-2], x.shape[-1]
