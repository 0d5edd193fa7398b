"""Style transfer: changes an image until the features of a network have the statistics of the features of other images.

First, the colors are mapped linearly. Then the texture, which is added to the brightness of the pixels, is found by
back-propagation: at stride 8, the features stay close to those of the image, and at several strides, the Gram matrices
of the features become those of the style. Only the brightness changes in this step: free colors become colored noise.

Source: Gatys, Ecker, Bethge, Image Style Transfer Using Convolutional Neural Networks, CVPR 2016, with VGG-19. Gatys et
al., Controlling Perceptual Factors in Neural Style Transfer, CVPR 2017: only the brightness, and coarse to fine. Pitié
and Kokaram, The Linear Monge-Kantorovitch Linear Color Mapping for Example-Based Color Transfer, 2007: the colors.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import cv2
import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from detector.arrays import Doubles, Floats, ImageArray
from detector.errors import WeightsError
from detector.model.fuse import fuse
from detector.model.network import GridNetwork
from detector.options import StyleOptions

_STRIDES = (2, 4, 8, 16, 32)
"""Strides of the feature maps of the backbone: those of the stem, and those of the stages."""

STYLE_STRIDES = (2, 4, 8, 16)
"""Strides of the features whose Gram matrices are those of the style. At stride 32, nothing more was visible."""

CONTENT_STRIDE = 8
"""Stride of the features that stay close to those of the image."""

_SCALES = (0.25, 0.5, 1.0)
"""Sizes at which the texture is found, one after the other, relative to the last. The first finds coarse texture, which
the pixels at full size would not find: the image at the start already has fine texture that fits."""

_SMALLEST_SIDE = 32
"""Smallest side of an image in pixels, except at full size: a feature map at stride 16 then has at least two cells."""

_COLOR_GAIN = (1 / 3, 3.0)
"""Range of the factors on the colors: a gray style image must not erase all colors, and noise must not become color."""

_TOLERANCE = 1e-9
"""Largest derivative of the loss by one pixel at which the image is not changed further."""

_MOST_COLORS = 2**18
"""About the largest number of pixels from which the mean and the covariance of the colors are computed."""


@dataclass(frozen=True)
class StyleTarget:
    """What the features of an image should become.

    Attributes:
        content: [1, C, h, w] features of the content image at `CONTENT_STRIDE`.
        grams: stride → [C, C] Gram matrix of the style.
    """

    content: Tensor
    grams: Mapping[int, Tensor]

    def content_loss(self, features: Mapping[int, Tensor]) -> Tensor:
        """Return the squared error of the features, relative to the square of the features of the content image."""
        return _relative_error(features[CONTENT_STRIDE], self.content)

    def style_loss(self, features: Mapping[int, Tensor]) -> Tensor:
        """Return the squared error of the Gram matrices, relative to their squares; the mean of all layers.

        The original has fixed weights for the layers of VGG-19. Relative errors give each layer of any network a
        similar influence.
        """
        errors = [_relative_error(gram_matrix(features[stride]), gram) for stride, gram in self.grams.items()]
        return torch.stack(errors).mean()


def gram_matrix(features: Tensor) -> Tensor:
    """Return the Gram matrix [C, C] of features [1, C, h, w]: mean over all places of the products of two channels.

    Source: Gatys et al. 2016, equation 3, here divided by the number of places, so that images of different sizes can
    be compared.
    """
    rows = features[0].flatten(1)
    return rows @ rows.T / rows.shape[1]


def match_colors(image: npt.NDArray[Any], styles: Sequence[npt.NDArray[Any]]) -> Floats:
    """Map the colors of an image linearly, so that their mean and covariance become those of the style images.

    Of all such maps, this one changes the colors least; the gain is limited.

    Args:
        image: [H, W, 3] RGB, 0..255.
        styles: one or more images [H, W, 3] RGB.

    Returns:
        [H, W, 3] RGB, 0..255.

    Source: Pitié and Kokaram, 2007.
    """
    own, wanted = _colors([image]), _colors(styles)
    root, inverse = _matrix_power(own.covariance, 0.5), _matrix_power(own.covariance, -0.5)
    gain = inverse @ _matrix_power(root @ wanted.covariance @ root, 0.5) @ inverse
    values, axes = np.linalg.eigh(gain)
    gain = (axes * np.clip(values, *_COLOR_GAIN)) @ axes.T
    offset = wanted.mean - own.mean @ gain
    mapped = image @ gain.astype(np.float32) + offset.astype(np.float32)
    return np.asarray(np.clip(mapped, 0, 255), dtype=np.float32)


@dataclass(frozen=True)
class _Colors:
    """Mean [3] and covariance [3, 3] of the RGB levels of images."""

    mean: Doubles
    covariance: Doubles


def _colors(images: Sequence[npt.NDArray[Any]]) -> _Colors:
    """Return the statistics of the colors of images [H, W, 3]; each image counts equally."""
    parts = [image.reshape(-1, 3) for image in images]
    parts = [part[:: max(1, len(part) // _MOST_COLORS)].astype(np.float64) for part in parts]
    mean = np.mean([part.mean(axis=0) for part in parts], axis=0)
    squares = [(part - mean).T @ (part - mean) / len(part) for part in parts]
    return _Colors(mean, np.mean(squares, axis=0) + np.eye(3))  # one level of noise, so that it can be inverted


def _matrix_power(matrix: Doubles, exponent: float) -> Doubles:
    """Return a power of a symmetric positive definite matrix."""
    values, axes = np.linalg.eigh(matrix)
    return np.asarray((axes * np.maximum(values, 1e-12) ** exponent) @ axes.T)


class StyleTransfer:
    """Changes images with the features of one network.

    Args:
        network: the network; with "same" padding, so that images of any size can be used.
        options: size, number of steps, and weight of the style.
    """

    def __init__(self, network: GridNetwork, options: StyleOptions) -> None:
        self._network, self._options = fuse(network), options
        self._color_weight, self._color_bias = self._network.color_convolution()

    def apply(self, image: ImageArray, styles: Sequence[ImageArray]) -> ImageArray:
        """Return an image with the content of `image` and the style of other images.

        Args:
            image: [H, W, 3] RGB.
            styles: one or more images [H, W, 3] RGB of any size. Of several, the mean of the statistics is used.

        Returns:
            [H, W, 3] RGB.

        Raises:
            WeightsError: the features of the network are not finite.
        """
        side = min(self._options.max_side, max(image.shape[:2]))
        small_styles: Sequence[npt.NDArray[Any]] = [_shrink(style, side) for style in styles]
        if self._options.keep_colors:
            colored = image.astype(np.float32)
            small_styles = [match_colors(style, [image]) for style in small_styles]
        else:
            colored = match_colors(image, small_styles)
        texture = self._find_texture(_shrink(colored, side), small_styles)
        # The texture of a smaller image is enlarged, so that the details of a large image remain.
        texture = np.asarray(cv2.resize(texture, image.shape[1::-1], interpolation=cv2.INTER_LINEAR))
        return np.asarray(np.clip(np.rint(colored + texture[..., None]), 0, 255), dtype=np.uint8)

    def features(self, pixels: Tensor) -> dict[int, Tensor]:
        """Return stride → feature map [1, C, h, w] of the backbone, for pixels [1, 3, H, W], 0..255."""
        x = F.conv2d(pixels, self._color_weight, self._color_bias)
        backbone, maps = self._network.backbone, {}
        for stride, layers in zip(_STRIDES, [*backbone.stem, *backbone.stages], strict=True):
            if stride <= max(STYLE_STRIDES):
                maps[stride] = x = layers(x)
        return maps

    @torch.no_grad()
    def target(self, pixels: Tensor, styles: Sequence[Tensor]) -> StyleTarget:
        """Return the target for an image [1, 3, H, W] and one or more style images [1, 3, h, w], 0..255."""
        all_features = [self.features(style) for style in styles]
        return StyleTarget(
            self.features(pixels)[CONTENT_STRIDE],
            {
                stride: torch.stack([gram_matrix(features[stride]) for features in all_features]).mean(dim=0)
                for stride in STYLE_STRIDES
            },
        )

    def loss(self, pixels: Tensor, target: StyleTarget) -> Tensor:
        """Return the loss of an image [1, 3, H, W], 0..255: a scalar. Source: Gatys et al. 2016, equation 7."""
        features = self.features(pixels)
        return target.content_loss(features) + self._options.style_weight * target.style_loss(features)

    def _find_texture(self, image: Floats, styles: Sequence[npt.NDArray[Any]]) -> Floats:
        """Return the texture [H, W], in levels, that gives an image [H, W, 3] the style."""
        texture = torch.zeros(1, 1, 1, 1)
        for scale in _SCALES:
            side = round(scale * max(image.shape[:2]))
            if scale < 1 and min(image.shape[:2]) * scale < _SMALLEST_SIDE:
                continue
            pixels = _to_pixels(_shrink(image, side))
            texture = F.interpolate(texture, pixels.shape[-2:], mode="bilinear", align_corners=False)
            target = self.target(pixels, [_to_pixels(_shrink(style, side)) for style in styles])
            texture = self._fit(texture, pixels, target)
        if not texture.isfinite().all():
            raise WeightsError("the features of these weights are not finite numbers; use other --weights")
        return cast(Floats, texture[0, 0].numpy())

    def _fit(self, texture: Tensor, pixels: Tensor, target: StyleTarget) -> Tensor:
        """Return the texture [1, 1, H, W] after the steps of L-BFGS, which is added to all channels of the pixels."""
        # The first step of L-BFGS has a length (sum of absolute values) of 1: in this unit, a level in each pixel.
        unit = texture.numel()
        variable = (texture / unit).requires_grad_()
        optimizer = torch.optim.LBFGS(
            [variable],
            max_iter=self._options.steps,
            history_size=10,
            tolerance_grad=_TOLERANCE * unit,
            tolerance_change=0,
            line_search_fn="strong_wolfe",
        )

        def closure() -> float:
            optimizer.zero_grad()
            loss = self.loss(pixels + variable * unit, target)
            loss.backward()  # type: ignore[no-untyped-call]
            return loss.item()

        optimizer.step(closure)  # type: ignore[no-untyped-call]
        return variable.detach() * unit


def _relative_error(found: Tensor, target: Tensor) -> Tensor:
    """Return the squared error relative to the square of the target."""
    return (found - target).square().sum() / target.square().sum().clamp_min(1e-12)


def _to_pixels(image: npt.NDArray[Any]) -> Tensor:
    """Return an image [H, W, 3] as a float32 tensor [1, 3, H, W]."""
    return torch.from_numpy(image).permute(2, 0, 1)[None].float()


def _shrink(image: npt.NDArray[Any], side: int) -> npt.NDArray[Any]:
    """Return an image [H, W, 3] with a long side of at most `side` pixels."""
    height, width = image.shape[:2]
    scale = side / max(height, width)
    if scale >= 1:
        return image
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA))
