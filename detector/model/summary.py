"""A summary of a network: output size, parameters, floating-point operations and receptive field of each layer."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from detector.model.blocks import ConvBlock
from detector.model.network import GridNetwork

_KINDS = {"Conv2d": "conv", "MaxPool2d": "max-pool", "AvgPool2d": "average-pool"}
"""Class name of a module → name of the operation in the summary. By default, this is the class name in lower case."""


@dataclass(frozen=True)
class LayerSummary:
    """Summary of one layer of a network that runs on one image.

    Attributes:
        name: path of the module in the network.
        kind: operation, kernel size and stride, for example "conv 3x3/2" for a 3x3 convolution with stride 2.
        channels: channels of the output.
        size_hw: height and width of the output, in cells.
        parameters: number of trained parameters of convolution, norm and activation.
        flops: floating-point operations of the convolution; a multiply-add counts as two operations.
        receptive_field: side of the square of input pixels that influence one output value.
    """

    name: str
    kind: str
    channels: int
    size_hw: tuple[int, int]
    parameters: int
    flops: int
    receptive_field: int


def summarize(network: GridNetwork, input_hw: tuple[int, int]) -> list[LayerSummary]:
    """Run a network on a black image, and return the summaries of its layers in the order in which the layers run.

    Args:
        network: the network; is not changed.
        input_hw: height and width of the network input, in pixels.
    """
    layers: list[LayerSummary] = []

    def make_hook(name: str) -> Callable[[nn.Module, object, "_TrackedTensor"], None]:
        return lambda module, _, output: layers.append(_summarize_layer(name, module, output))

    hooks = [module.register_forward_hook(make_hook(name)) for name, module in _find_layers(network)]
    was_training = network.training
    device = network.color_mean.device
    try:
        with torch.no_grad():
            network.eval()(torch.zeros(1, 3, *input_hw, dtype=torch.uint8, device=device).as_subclass(_TrackedTensor))
    finally:
        network.train(was_training)
        for hook in hooks:
            hook.remove()
    return layers


def _find_layers(network: nn.Module) -> list[tuple[str, nn.Module]]:
    """Return (name, module) of each layer: convolution blocks, and poolings and trained modules outside of blocks."""
    inside_blocks = {
        id(part) for block in network.modules() if isinstance(block, ConvBlock) for part in block.modules()
    }

    def is_layer(module: nn.Module) -> bool:
        if isinstance(module, ConvBlock):
            return True
        if list(module.children()) or id(module) in inside_blocks:
            return False
        return bool(list(module.parameters())) or isinstance(module, nn.MaxPool2d | nn.AvgPool2d)

    return [(name, module) for name, module in network.named_modules() if is_layer(module)]


def _summarize_layer(name: str, module: nn.Module, output: "_TrackedTensor") -> LayerSummary:
    """Return the summary of a layer.

    Args:
        name: path of the module in the network.
        module: the layer.
        output: [1, channels, height, width] output of the layer.
    """
    operation = module.conv if isinstance(module, ConvBlock) else module
    kernel_hw = _pair(getattr(operation, "kernel_size", 1))
    kind = _KINDS.get(type(operation).__name__, type(operation).__name__.lower())
    if hasattr(operation, "kernel_size"):
        stride = _side(cast(Any, operation.stride))
        kind += f" {kernel_hw[0]}x{kernel_hw[1]}" + (f"/{stride}" if stride > 1 else "")
    if isinstance(module, ConvBlock) and module.identity:
        kind += " + input"
    channels, height, width = output.shape[1:]
    multiply_adds = 0
    if isinstance(operation, nn.Conv2d):
        multiply_adds = channels * height * width * operation.in_channels * kernel_hw[0] * kernel_hw[1]
    return LayerSummary(
        name=name,
        kind=kind,
        channels=channels,
        size_hw=(height, width),
        parameters=sum(parameter.numel() for parameter in module.parameters()),
        flops=2 * multiply_adds,
        receptive_field=round(output.receptive_field),
    )


class _TrackedTensor(Tensor):
    """A feature map with two more attributes: the receptive field and the spacing of its cells, both in input pixels.

    Operations of PyTorch on such a feature map also compute the attributes of the result.

    Source: Araujo et al., Computing Receptive Fields of Convolutional Neural Networks, 2019, equations 1 and 2.
    """

    receptive_field: float = 1
    spacing: float = 1

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = super().__torch_function__(func, types, args, kwargs or {})  # type: ignore[no-untyped-call]
        if not isinstance(result, _TrackedTensor):
            return result
        flat = [item for argument in args for item in (argument if isinstance(argument, list | tuple) else [argument])]
        sources = [item for item in flat if isinstance(item, _TrackedTensor)]
        field, spacing = max(source.receptive_field for source in sources), max(source.spacing for source in sources)
        name = func.__name__
        if name == "conv2d":
            field, spacing = field + (args[1].shape[-1] - 1) * spacing, spacing * _side(args[3])
        elif name.endswith("pool2d"):
            stride = args[2] if len(args) > 2 else (kwargs or {}).get("stride")
            field, spacing = field + (_side(args[1]) - 1) * spacing, spacing * _side(stride or args[1])
        elif name == "interpolate":
            spacing = spacing * sources[0].shape[-1] / result.shape[-1]
        result.receptive_field, result.spacing = field, spacing
        return result


def _side(value: Any) -> int:
    """Return the side of a square as one number: `value` itself, or its first number if `value` is a pair."""
    return _pair(value)[0]


def _pair(value: Any) -> tuple[int, int]:
    """Return the height and width of a rectangle; a single number is both."""
    return (int(value[0]), int(value[1])) if isinstance(value, tuple | list) else (int(value), int(value))
