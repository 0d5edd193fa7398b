"""The network: predicts class scores and one box at every point of three grids, from uint8 images."""

from dataclasses import dataclass
from typing import ClassVar, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detector.arrays import Floats
from detector.config import ArchitectureConfig, NetworkConfig
from detector.errors import ConfigError
from detector.model.backbone import Backbone
from detector.model.blocks import ConvBlock
from detector.model.grid import STRIDES, GridPredictions, make_grid
from detector.model.head import Head, to_float32
from detector.model.initialize import initialize, initialize_output
from detector.model.neck import Neck
from detector.model.predictions import Predictions


@dataclass(frozen=True)
class NetworkSize:
    """Numbers of channels and blocks of a network.

    Most channel counts are multiples of 16, which suits vector instructions.

    Attributes:
        stem: channels at strides 2 and 4.
        stages: channels at strides 8, 16 and 32.
        depths: blocks at strides 8, 16 and 32.
        neck: channels of the neck.
        head: channels of the heads.
    """

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
"""Value of the setting `model` → size of the network."""


def uses_spp(config: ArchitectureConfig, input_hw: tuple[int, int] | None) -> bool:
    """Return whether the network has `SpatialPyramidPooling`.

    Args:
        config: the setting `spp`; "auto": yes if the long side of the input has at least 416 pixels.
        input_hw: height and width of the network input in training, in pixels; None: unknown, which counts as small.
    """
    if config.spp == "auto":
        return input_hw is not None and max(input_hw) >= 416
    return config.spp


class GridNetwork(nn.Module):
    """The default network: backbone, neck (FPN + PAN) and one anchor-free head per stride.

    The network takes uint8 images and normalizes them itself, so that no caller can normalize images wrongly. Create
    networks with `make_network`, which also supports the other kinds of heads.

    Args:
        config: settings of the size, the blocks, the head and the initial weights.
        class_count: number of classes C.
        color_mean: [3] mean of the RGB levels of the training images, 0..255.
        color_covariance: [3, 3] covariance of the RGB levels of the training images.
        input_hw: height and width of the network input in pixels, on which it depends whether the backbone has spatial
            pyramid pooling (SPP); see `uses_spp`. The network also accepts other sizes, except if
            `config.has_fixed_input`. None: any size without SPP.
    """

    strides: ClassVar[tuple[int, ...]] = STRIDES
    """Strides of the levels at which the network predicts, in input pixels, finest first."""

    color_mean: Tensor
    color_std: Tensor
    color_mixing: Tensor

    def __init__(
        self,
        config: NetworkConfig,
        class_count: int,
        color_mean: Floats,
        color_covariance: Floats,
        input_hw: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        size = SIZES[config.model]
        self.input_hw = input_hw
        self.class_count = class_count
        self.register_buffer("color_mean", torch.from_numpy(color_mean).clone())
        self.is_mixed = config.input != "standard"
        if self.is_mixed:
            mixing = decorrelation(color_covariance, rotated_back=config.input == "zca")
            self.register_buffer("color_mixing", torch.from_numpy(mixing))
        else:
            std = np.sqrt(np.diagonal(color_covariance))
            self.register_buffer("color_std", torch.from_numpy(std))
        self.backbone = Backbone(size.stem, size.stages, size.depths, config, uses_spp(config, input_hw))
        self._add_heads(size, config)
        initialize(self, config)
        self._initialize_outputs(config)
        for parameter in self.parameters():
            if parameter.ndim == 4:
                # Fast convolutions need this memory layout. Copies and moves to another device keep the layout.
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)

    @property
    def outputs(self) -> list[nn.Conv2d]:
        """The last convolution of each head, which has no norm and whose outputs depend on the number of classes."""
        return [cast(Head, head).output for head in self.heads]

    @property
    def fixed_size_layers(self) -> list[nn.Module]:
        """The layers whose weights fit only the input size for which the network was created."""
        return []

    def forward(self, images: Tensor) -> Predictions:
        """Predict boxes and class scores for images, and return the raw predictions.

        Args:
            images: [B, 3, H, W] uint8 RGB, H and W divisible by 32.
        """
        height, width = images.shape[-2:]
        assert images.dtype == torch.uint8, images.dtype
        assert height % 32 == width % 32 == 0, (height, width)
        return self.from_normalized(self._normalize(images))

    def features(self, images: Tensor) -> list[Tensor]:
        """Return the feature maps [B, channels, h, w] of the backbone, finest first, for images [B, 3, H, W] uint8."""
        maps: list[Tensor] = self.backbone(self._normalize(images))
        return maps

    def from_normalized(self, images: Tensor) -> Predictions:
        """Return the raw predictions for normalized images [B, 3, H, W]; see `color_convolution`."""
        return self._predict(self.backbone(images), _hw(images))

    def set_fake_quant(self, weight_bits: int | None) -> None:
        """Turn quantization-aware training (QAT) on or off (None) in all blocks; see `ConvBlock.fake_quant_bits`."""
        for module in self.modules():
            if isinstance(module, ConvBlock):
                module.fake_quant_bits = weight_bits

    def color_convolution(self) -> tuple[Tensor, Tensor]:
        """Return the weight and bias of a 1x1 convolution that normalizes images.

        The convolution maps RGB levels [B, 3, H, W], 0..255, to normalized images [B, 3, H, W].

        Returns:
            weight: [3, 3, 1, 1].
            bias: [3].
        """
        mixing = self.color_mixing if self.is_mixed else torch.diag(1 / self.color_std)
        return mixing[:, :, None, None].clone(), -mixing @ self.color_mean

    def _add_heads(self, size: NetworkSize, config: NetworkConfig) -> None:
        """Create all modules after the backbone. Subclasses with another kind of head override this method."""
        self.neck = Neck(size.stages, size.neck, config)
        self.heads = nn.ModuleList(Head(size.neck, size.head, self.class_count, config) for _ in STRIDES)
        self.exclusive = config.class_loss == "softmax"

    def _initialize_outputs(self, config: NetworkConfig) -> None:
        """Initialize the last convolution of each head. Subclasses with another kind of head override this method."""
        for output in self.outputs:
            initialize_output(output, self.class_count, config)

    def _predict(self, maps: list[Tensor], input_hw: tuple[int, int]) -> Predictions:
        """Return the raw predictions for the feature maps of the backbone.

        Args:
            maps: three feature maps, finest first.
            input_hw: height and width of the network input, in pixels.
        """
        maps = self.neck(maps)
        outputs = to_float32(torch.cat([head(level) for head, level in zip(self.heads, maps, strict=True)], dim=1))
        return GridPredictions(
            class_logits=outputs[..., : self.class_count],
            distances=F.softplus(outputs[..., self.class_count :]),
            grid=make_grid(input_hw, outputs.device, [_hw(level) for level in maps]),
            exclusive=self.exclusive,
        )

    def _normalize(self, images: Tensor) -> Tensor:
        """Return normalized images [B, 3, H, W] as float32 in channels_last layout.

        Normalized values are (level - mean) / std, or decorrelated colors if `config.input` is "pca" or "zca".

        Args:
            images: [B, 3, H, W] uint8 RGB.
        """
        batch, _, height, width = images.shape
        rows = images.permute(0, 2, 3, 1).to(self.color_mean.dtype)
        if self.is_mixed:
            return ((rows - self.color_mean) @ self.color_mixing.t()).permute(0, 3, 1, 2)
        # A row of a channels_last image is R G B R G B ... The three factors are repeated along the row, so that the
        # arithmetic runs over complete rows instead of three numbers at a time: ten times as fast.
        rows = rows.reshape(batch, height, width * 3)
        gain = 1 / self.color_std
        rows = torch.addcmul((-self.color_mean * gain).repeat(width), rows, gain.repeat(width))
        return rows.view(batch, height, width, 3).permute(0, 3, 1, 2)


def decorrelation(covariance: Floats, rotated_back: bool) -> Floats:
    """Return a matrix [3, 3] that whitens colors: it makes the three channels uncorrelated, with standard deviation 1.

    Args:
        covariance: [3, 3] covariance of the RGB levels.
        rotated_back: True: the channels are rotated back to red, green and blue (ZCA), so that the image still looks
            natural. False: the channels are the principal components of the colors (PCA), the strongest first.

    Source: Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009, appendix A.
    """
    variances, axes = np.linalg.eigh(covariance.astype(np.float64))
    # A component with a variance below 1 is noise of less than one level. Scaled to a standard deviation of 1, this
    # noise would hide the image.
    whiten = axes[:, ::-1].T / np.sqrt(np.maximum(variances[::-1], 1.0))[:, None]
    return np.asarray(axes[:, ::-1] @ whiten if rotated_back else whiten, dtype=np.float32)


def check_padding(input_hw: tuple[int, int], config: ArchitectureConfig) -> None:
    """Raise ConfigError if a feature map would have no cell; see `coarsest_hw`."""
    coarsest_hw(input_hw, config)


def coarsest_hw(input_hw: tuple[int, int], config: ArchitectureConfig) -> tuple[int, int]:
    """Return the rows and columns of the feature map at stride 32, which depend on the padding.

    Raises:
        ConfigError: with "valid" padding, the input is too small; the message names the stride at which no cell is
            left.
    """
    if config.padding == "same":
        return input_hw[0] // STRIDES[-1], input_hw[1] // STRIDES[-1]
    lost, depths = config.kernel - 1, SIZES[config.model].depths
    cells = []
    for axis, side in enumerate(input_hw):
        left = side
        for stride, blocks in ((2, 0), (4, 0), *zip(STRIDES, depths, strict=True)):
            left = (left - lost - 1) // 2 + 1 if config.downsample == "conv" else (left - lost) // 2
            left -= blocks * lost
            if left < 1:
                raise ConfigError(
                    f"padding: the input {('height', 'width')[axis]} of {side} pixels is too small for valid padding: "
                    f"no cell is left at stride {stride}, since each {config.kernel}x{config.kernel} convolution "
                    f"removes {lost} cells; use a larger input_size with first_input_size=1, a smaller kernel, or "
                    "padding=same"
                )
        cells.append(left)
    return cells[0], cells[1]


def _hw(x: Tensor) -> tuple[int, int]:
    """Return the height and width of a tensor [..., H, W]."""
    return x.shape[-2], x.shape[-1]
