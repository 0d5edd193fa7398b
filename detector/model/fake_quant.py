"""Fake quantization: round float tensors to the values that int8 can represent.

In quantization-aware training (QAT), the network adapts to this rounding, which the int8 export needs. Gradients pass
through as if no value was rounded (straight-through estimator).

Source: Jacob et al., Quantization and training of neural networks for efficient integer-arithmetic-only inference,
2018, section 3; per channel as in Krishnamoorthi, Quantizing deep convolutional networks, 2018, section 2.
"""

import torch
from torch import Tensor

_MIN_RANGE = 1e-12
"""Smallest range of values: without this limit, the scale of a tensor of zeros would be 0."""


def fake_quantize_weights(weight: Tensor) -> Tensor:
    """Return `weight`, rounded to 255 levels per output channel; the levels are symmetric around zero.

    Args:
        weight: [out, in, h, w].

    Returns:
        [out, in, h, w], the rounded weights.
    """
    scale = weight.detach().abs().amax(dim=(1, 2, 3)).clamp(min=_MIN_RANGE) / 127
    return torch.fake_quantize_per_channel_affine(
        weight, scale, torch.zeros_like(scale, dtype=torch.int32), 0, -127, 127
    )


def fake_quantize_activations(x: Tensor) -> Tensor:
    """Return `x`, clipped to a range of values and rounded to 256 levels; zero is a level.

    The range goes from the smallest to the largest value of an image, averaged over the images of the batch, and
    always includes zero. Both int8 exports use the same range.

    Args:
        x: [B, ...] feature maps of B images.

    Returns:
        [B, ...] float32, the rounded feature maps.
    """
    x = x.float()
    low, high = (extremes.mean() for extremes in torch.aminmax(x.detach().flatten(1), dim=1))
    low, high = low.clamp(max=0), high.clamp(min=0)
    scale = (high - low).clamp(min=_MIN_RANGE) / 255
    return torch.fake_quantize_per_tensor_affine(x, scale, torch.round(-low / scale).to(torch.int32), 0, 255)
