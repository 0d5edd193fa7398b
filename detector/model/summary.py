"""What a network is made of: for each layer its output, parameters, operations and receptive field."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from detector.model.blocks import ConvBlock
from detector.model.network import GridNetwork


@dataclass(frozen=True)
class LayerSummary:
    """One layer, for one image.

    Attributes:
        name: path of the module in the network.
        kind: what it is, as "conv 3x3/2" (kernel and stride).
        channels: of its output.
        size_hw: height and width of its output.
        parameters: trained numbers, those of its norm and activation included.
        flops: operations of its convolution, a multiplication and an addition counting as two.
        receptive_field: side of the square of canvas pixels that one of its outputs can see.
    """

    name: str
    kind: str
    channels: int
    size_hw: tuple[int, int]
    parameters: int
    flops: int
    receptive_field: int


def summarize(network: GridNetwork, input_hw: tuple[int, int]) -> list[LayerSummary]:
    """Run an empty image through a network and describe its layers in the order in which they work."""
    layers: list[LayerSummary] = []
    inside = {id(part) for block in network.modules() if isinstance(block, ConvBlock) for part in block.modules()}

    def describe(name: str, module: nn.Module) -> Any:
        def hook(_: nn.Module, __: object, output: "_Tracked") -> None:
            conv = module.conv if isinstance(module, ConvBlock) else module
            kernel = _side(getattr(conv, "kernel_size", 1))
            kind = {"Conv2d": "conv", "MaxPool2d": "max-pool", "AvgPool2d": "average-pool"}.get(
                type(conv).__name__, type(conv).__name__.lower()
            )
            if hasattr(conv, "kernel_size"):
                stride = _side(cast(Any, conv.stride))
                kind += f" {kernel}x{kernel}" + (f"/{stride}" if stride > 1 else "")
            if isinstance(module, ConvBlock) and module.identity:
                kind += " + input"
            channels, height, width = output.shape[1:]
            macs = channels * height * width * conv.in_channels * kernel**2 if isinstance(conv, nn.Conv2d) else 0
            parameters = sum(parameter.numel() for parameter in module.parameters())
            layers.append(
                LayerSummary(name, kind, channels, (height, width), parameters, 2 * macs, round(output.field))
            )

        return hook

    hooks = []
    for name, module in network.named_modules():
        is_block = isinstance(module, ConvBlock)
        is_leaf = not list(module.children()) and id(module) not in inside
        if is_block or (is_leaf and (list(module.parameters()) or isinstance(module, nn.MaxPool2d | nn.AvgPool2d))):
            hooks.append(module.register_forward_hook(describe(name, module)))
    was_training = network.training
    device = network.color_mean.device
    try:
        with torch.no_grad():
            network.eval()(torch.zeros(1, 3, *input_hw, dtype=torch.uint8, device=device).as_subclass(_Tracked))
    finally:
        network.train(was_training)
        for handle in hooks:
            handle.remove()
    return layers


class _Tracked(Tensor):
    """A map that knows what its cells can see: their receptive field and their distance, in canvas pixels.

    Source: Araujo et al., Computing Receptive Fields of Convolutional Neural Networks, 2019, equations 1 and 2.
    """

    field: float = 1
    jump: float = 1

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = super().__torch_function__(func, types, args, kwargs or {})  # type: ignore[no-untyped-call]
        if not isinstance(result, _Tracked):
            return result
        flat = [item for argument in args for item in (argument if isinstance(argument, list | tuple) else [argument])]
        sources = [item for item in flat if isinstance(item, _Tracked)]
        field, jump = max(source.field for source in sources), max(source.jump for source in sources)
        name = func.__name__
        if name == "conv2d":
            field, jump = field + (args[1].shape[-1] - 1) * jump, jump * _side(args[3])
        elif name.endswith("pool2d"):
            stride = args[2] if len(args) > 2 else (kwargs or {}).get("stride")
            field, jump = field + (_side(args[1]) - 1) * jump, jump * _side(stride or args[1])
        elif name == "interpolate":
            jump = jump * sources[0].shape[-1] / result.shape[-1]
        result.field, result.jump = field, jump
        return result


def _side(value: Any) -> int:
    return int(value[0] if isinstance(value, tuple | list) else value)
