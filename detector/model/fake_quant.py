"""Fake quantization: round float tensors to the values that int8 can represent.

Quantization-aware training (QAT) uses it, so that the network adapts to the rounding of the int8 export. Gradients
pass through as if nothing was rounded (straight-through estimator).

Source: Jacob et al., Quantization and training of neural networks for efficient integer-arithmetic-only inference,
2018, section 3; per channel as in Krishnamoorthi, Quantizing deep convolutional networks, 2018, section 2.
"""

import torch
from torch import Tensor

_MIN_RANGE = 1e-12
"""Smallest range of values; prevents a scale of 0 for a tensor of zeros."""


def fake_quantize_weights(weight: Tensor) -> Tensor:
    """Round weights to 255 levels per output channel, symmetric around zero.

    Args:
        weight: [out, in, h, w].

    Returns:
        The rounded weights, same shape.
    """
    scale = weight.detach().abs().amax(dim=(1, 2, 3)).clamp(min=_MIN_RANGE) / 127
    return torch.fake_quantize_per_channel_affine(
        weight, scale, torch.zeros_like(scale, dtype=torch.int32), 0, -127, 127
    )


def fake_quantize_activations(x: Tensor) -> Tensor:
    """Round feature maps to 256 levels, one of which is zero, and clip values outside of the range.

    The range is the one that both int8 exports use: from the smallest to the largest value of an image, averaged over
    the images of the batch.

    Args:
        x: [B, ...].

    Returns:
        The rounded feature maps, same shape, float32.
    """
    x = x.float()
    low, high = (extremes.mean() for extremes in torch.aminmax(x.detach().flatten(1), dim=1))
    low, high = low.clamp(max=0), high.clamp(min=0)
    scale = (high - low).clamp(min=_MIN_RANGE) / 255
    return torch.fake_quantize_per_tensor_affine(x, scale, torch.round(-low / scale).to(torch.int32), 0, 255)
