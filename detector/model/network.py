"""The network: uint8 images in, a score per class and a box at every point of three grids out."""

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
from detector.model.initialize import initialize, initialize_cells, initialize_output
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


def uses_spp(input_hw: tuple[int, int]) -> bool:
    """Return whether a network for this input size has `SpatialPyramidPooling`: from 416 pixels on."""
    return max(input_hw) >= 416


class GridNetwork(nn.Module):
    """Backbone, then neck and a head per stride, or one grid of cells as in the first YOLO.

    The normalization of the input is a part of the network, so that no caller can get it wrong.

    Args:
        config: size, blocks, first weights, heads.
        class_count: C.
        color_mean: [3] mean of the training images' RGB levels, 0..255.
        color_covariance: [3, 3] their covariance.
        spp: give the coarsest map a wider view; see `uses_spp`.
    """

    color_mean: Tensor
    color_std: Tensor
    color_mixing: Tensor

    def __init__(
        self,
        config: Config,
        class_count: int,
        color_mean: Floats,
        color_covariance: Floats,
        spp: bool = False,
    ) -> None:
        super().__init__()
        size = SIZES[config.model]
        self.class_count = class_count
        self.boxes_per_cell = config.boxes_per_cell
        self.exclusive = config.class_loss == "softmax"
        self.register_buffer("color_mean", torch.from_numpy(color_mean).clone())
        self.is_mixed = config.input != "standard"
        if self.is_mixed:
            mixing = decorrelation(color_covariance, rotated_back=config.input == "zca")
            self.register_buffer("color_mixing", torch.from_numpy(mixing))
        else:
            std = np.sqrt(np.diagonal(color_covariance))
            self.register_buffer("color_std", torch.from_numpy(std))
        self.backbone = Backbone(size.stem, size.stages, size.depths, config, spp)
        if config.head == "points":
            self.neck = Neck(size.stages, size.neck, config)
            self.heads = nn.ModuleList(Head(size.neck, size.head, class_count, config) for _ in STRIDES)
        else:
            self.cells = CellHead(size.stages[2], size.stages[2], class_count, config)
        initialize(self, config)
        for module in self.modules():
            if isinstance(module, Head):
                initialize_output(module.output, class_count, config)
            elif isinstance(module, CellHead):
                initialize_cells(module.output, class_count, config)
        for parameter in self.parameters():
            if parameter.ndim == 4:
                # The layout every fast convolution wants; stays with copies and across devices.
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)

    @property
    def outputs(self) -> list[nn.Conv2d]:
        """The last layers, which nothing normalizes."""
        return [module.output for module in self.modules() if isinstance(module, Head | CellHead)]

    def forward(self, images: Tensor) -> Predictions:
        """Predict.

        Args:
            images: [B, 3, H, W] uint8 RGB, H and W divisible by 32.
        """
        height, width = images.shape[-2:]
        assert images.dtype == torch.uint8, images.dtype
        assert height % 32 == width % 32 == 0, (height, width)
        return self.from_normalized(self._normalize(images))

    def from_normalized(self, images: Tensor) -> Predictions:
        """Predict from images [B, 3, H, W] that are normalized already, as by `color_convolution`."""
        maps = self.backbone(images)
        return self._in_cells(maps[-1], images) if hasattr(self, "cells") else self._at_points(maps, images)

    def set_fake_quant(self, rounded: bool) -> None:
        """Let the blocks compute, in training, as in eight bits, or as they are; see `ConvBlock`."""
        for module in self.modules():
            if isinstance(module, ConvBlock):
                module.rounded = rounded

    def color_convolution(self) -> tuple[Tensor, Tensor]:
        """Return weights [3, 3, 1, 1] and bias [3] of a convolution that normalizes levels of RGB [B, 3, H, W]."""
        mixing = self.color_mixing if self.is_mixed else torch.diag(1 / self.color_std)
        return mixing[:, :, None, None].clone(), -mixing @ self.color_mean

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
            input_hw=_hw(images),
        )

    def _normalize(self, images: Tensor) -> Tensor:
        """Return (levels - mean) / std, or decorrelated, as float32 [B, 3, H, W], channels_last."""
        batch, _, height, width = images.shape
        rows = images.permute(0, 2, 3, 1).to(self.color_mean.dtype)
        if self.is_mixed:
            return ((rows - self.color_mean) @ self.color_mixing.t()).permute(0, 3, 1, 2)
        # One row of a channels_last image is R G B R G B ...: with the three factors repeated along it the
        # arithmetic runs over whole rows instead of three numbers at a time, ten times as fast.
        rows = rows.reshape(batch, height, width * 3)
        gain = 1 / self.color_std
        rows = torch.addcmul((-self.color_mean * gain).repeat(width), rows, gain.repeat(width))
        return rows.view(batch, height, width, 3).permute(0, 3, 1, 2)


def decorrelation(covariance: Floats, rotated_back: bool) -> Floats:
    """Return the matrix [3, 3] that turns centered colors into uncorrelated ones of std 1.

    Args:
        covariance: [3, 3] of the RGB levels.
        rotated_back: to the axes of red, green and blue again (ZCA), so that the image still looks like itself;
            else the channels are the principal colors (PCA), the strongest first.

    Source: Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009, appendix A.
    """
    variances, axes = np.linalg.eigh(covariance.astype(np.float64))
    # A color that hardly varies is noise of less than a level; at std 1 it would drown the image.
    whiten = axes[:, ::-1].T / np.sqrt(np.maximum(variances[::-1], 1.0))[:, None]
    return np.asarray(axes[:, ::-1] @ whiten if rotated_back else whiten, dtype=np.float32)


def check_canvas(input_hw: tuple[int, int], config: Config) -> None:
    """Refuse an input of which "valid" padding would leave nothing.

    Raises:
        InputError: it would; names the layer.
    """
    if config.padding == "same":
        return
    lost, depths = config.kernel - 1, SIZES[config.model].depths
    for axis, side in enumerate(input_hw):
        left = side
        for stride, blocks in ((2, 0), (4, 0), *zip(STRIDES, depths, strict=True)):
            left = (left - lost - 1) // 2 + 1 if config.downsample == "conv" else (left - lost) // 2
            left -= blocks * lost
            if left < 1:
                raise InputError(
                    f"padding: valid leaves nothing of a {('height', 'width')[axis]} of {side} pixels at stride "
                    f"{stride}: every kernel of {config.kernel} takes {lost} cells; take a larger canvas (and "
                    "first_input_size=1), a smaller kernel, or padding same"
                )


def _exact(x: Tensor) -> Tensor:
    """Return answers in float32, whatever the arithmetic of the layers; float64 stays, which gradient checks need."""
    return x if x.dtype == torch.float64 else x.float()


def _hw(x: Tensor) -> tuple[int, int]:
    return x.shape[-2], x.shape[-1]
