"""Fake quantization: round float tensors to the values that int8 can represent.

In quantization-aware training (QAT), the network adapts to this rounding, which the int8 export needs. Gradients pass
through as if no value was rounded (straight-through estimator).

Source: Jacob et al., Quantization and training of neural networks for efficient integer-arithmetic-only inference,
2018, section 3; per channel as in Krishnamoorthi, Quantizing deep convolutional networks, 2018, section 2.
"""

from collections.abc import Callable

import torch
from torch import Tensor

_MIN_RANGE = 1e-12
"""Smallest range of values: without this limit, the scale of a tensor of zeros would be 0."""


LARGEST_LEVEL = {7: 64, 8: 127}
"""Number of bits of the int8 weights → largest level. The int8 export to ONNX uses the same levels: -64..64 for every
CPU, -127..127 for CPUs with exact int8 sums."""


def fake_quantize_weights(weight: Tensor, bits: int) -> Tensor:
    """Return `weight`, rounded to the levels of int8 weights per output channel; they are symmetric around zero.

    Args:
        weight: [out, in, h, w].
        bits: 7: 129 levels; 8: 255 levels.

    Returns:
        [out, in, h, w], the rounded weights.
    """
    largest = LARGEST_LEVEL[bits]
    scale = weight.detach().abs().amax(dim=(1, 2, 3)).clamp(min=_MIN_RANGE) / largest
    return torch.fake_quantize_per_channel_affine(
        weight, scale, torch.zeros_like(scale, dtype=torch.int32), 0, -largest, largest
    )


def fake_quantize_activations(x: Tensor, batch_mean: Callable[[Tensor], Tensor] = torch.mean) -> Tensor:
    """Return `x`, clipped to a range of values and rounded to 256 levels; zero is a level.

    The range goes from the smallest to the largest value of an image, averaged over the images of the batch, and
    always includes zero. Both int8 exports use the same range.

    Args:
        x: [B, ...] feature maps of B images.
        batch_mean: returns the mean of B values, one per image; with several processes, of all images of the
            batch.

    Returns:
        [B, ...] float32, the rounded feature maps.
    """
    x = x.float()
    low, high = (batch_mean(extremes) for extremes in torch.aminmax(x.detach().flatten(1), dim=1))
    low, high = low.clamp(max=0), high.clamp(min=0)
    scale = (high - low).clamp(min=_MIN_RANGE) / 255
    return torch.fake_quantize_per_tensor_affine(x, scale, torch.round(-low / scale).to(torch.int32), 0, 255)
