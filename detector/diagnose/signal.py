"""Findings about the signal in the layers of an untrained network: activations, gradients and weight updates."""

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from detector.config import Config
from detector.diagnose.finding import Finding, Verdict
from detector.loader.batch import Batch
from detector.loss.criterion import detection_loss
from detector.model.blocks import ConvBlock
from detector.model.network import GridNetwork

_BOUNDED_ACTIVATIONS: Mapping[str, tuple[float, float]] = {
    "sigmoid": (0.0, 1.0),
    "hard_sigmoid": (0.0, 1.0),
    "tanh": (-1.0, 1.0),
}
"""Name of an activation function with bounded output → lower and upper bound."""

_DEAD_LOOK, _DEAD_STOP = 0.3, 0.8
"""If a layer has more dead channels than these fractions, the verdict is "look" or "stop"."""

_MAX_SATURATED = 0.5
"""If a layer has more saturated activations than this fraction, the verdict is "look"."""

_MIN_STD, _MAX_STD = 1e-3, 1e3
"""Range of the standard deviation of the activations in a healthy layer."""

_MIN_UPDATE, _MAX_UPDATE = 1e-6, 0.3
"""Acceptable range of the relative weight change of a layer in one step. Typical: 0.001; with Muon a few times 0.01."""


@dataclass(frozen=True)
class LayerSignal:
    """Statistics of one layer, measured in one training step.

    Attributes:
        name: path of the module in the network.
        mean: mean of the activations.
        std: standard deviation of the activations.
        dead: fraction of channels with the same value at all positions of all images.
        saturated: fraction of activations within 1 % of a bound of the activation function; 0 if it has no bounds.
        gradient: norm of the gradient of the kernel.
        update: norm of the kernel change in one step at the peak learning rate, divided by the norm of the kernel.
    """

    name: str
    mean: float
    std: float
    dead: float
    saturated: float
    gradient: float
    update: float


def measure_signal(
    network: GridNetwork, batch: Batch, config: Config, optimizer_step: Callable[[GridNetwork], None]
) -> list[LayerSignal]:
    """Run one training step with a copy of the network, and return the statistics of each layer.

    Args:
        network: the network; is not changed.
        batch: images and objects.
        config: settings of the activation function and of the loss.
        optimizer_step: function that updates the weights of a network from their gradients, at the peak learning rate.
    """
    network = copy.deepcopy(network).train()
    activations: dict[str, Tensor] = {}

    def record(name: str) -> Callable[[nn.Module, object, Tensor], None]:
        def hook(_: nn.Module, __: object, output: Tensor) -> None:
            activations[name] = output.detach().float().clone()

        return hook

    blocks = {name: module for name, module in network.named_modules() if isinstance(module, ConvBlock)}
    for name, block in blocks.items():
        block.register_forward_hook(record(name))
    detection_loss(network(batch.images), batch, config, min_quality=0.1).total.backward()  # type: ignore[no-untyped-call]
    gradients = {name: _norm(block.conv.weight.grad) for name, block in blocks.items()}
    before = {name: block.conv.weight.detach().clone() for name, block in blocks.items()}
    optimizer_step(network)
    return [
        LayerSignal(
            name=name,
            mean=float(activations[name].mean()),
            std=float(activations[name].std()),
            dead=_dead_fraction(activations[name]),
            saturated=0.0 if block.act is None else _saturated_fraction(activations[name], config.activation),
            gradient=gradients[name],
            update=_norm(block.conv.weight.detach() - before[name]) / max(_norm(before[name]), 1e-12),
        )
        for name, block in blocks.items()
    ]


def _norm(tensor: Tensor | None) -> float:
    """Return the L2 norm of a tensor, or 0 for None."""
    return 0.0 if tensor is None else float(tensor.norm())


def _dead_fraction(activations: Tensor) -> float:
    """Return the fraction of the C channels in `activations` [B, C, H, W] that have the same value everywhere."""
    by_channel = activations.transpose(0, 1).flatten(1)
    return float((by_channel.amax(1) == by_channel.amin(1)).float().mean())


def _saturated_fraction(activations: Tensor, activation: str) -> float:
    """Return the fraction of activations within 1 % of a bound of the function `activation`; 0 if it has no bounds."""
    if activation not in _BOUNDED_ACTIVATIONS:
        return 0.0
    low, high = _BOUNDED_ACTIVATIONS[activation]
    fraction = (activations - low) / (high - low)
    return float(((fraction < 0.01) | (fraction > 0.99)).float().mean())


def diagnose_signal(layers: Sequence[LayerSignal]) -> list[Finding]:
    """Return the findings about the statistics of layers that `measure_signal` returned."""
    saturation = [diagnose_saturation(layers)] if any(layer.saturated > 0 for layer in layers) else []
    return [
        diagnose_activations(layers),
        diagnose_dead_units(layers),
        *saturation,
        diagnose_gradient_norms(layers),
        diagnose_weight_updates(layers),
    ]


def diagnose_activations(layers: Sequence[LayerSignal]) -> Finding:
    """Check that the standard deviation of the activations is 0.001 to 1000 in every layer, and return a finding."""
    weakest, strongest = (choose(layers, key=lambda layer: layer.std) for choose in (min, max))
    not_finite = any(not math.isfinite(layer.std) for layer in layers)
    verdict: Verdict = "ok"
    if not_finite or weakest.std < _MIN_STD / 1e3 or strongest.std > _MAX_STD * 1e3:
        verdict = "stop"
    elif weakest.std < _MIN_STD or strongest.std > _MAX_STD:
        verdict = "look"
    advice = (
        "The signal vanishes or explodes from layer to layer: use --set norm=batch, or --set init=he with an "
        "activation function like relu."
    )
    return Finding(
        "signal: activations of the layers",
        verdict,
        f"standard deviation {weakest.std:.2g} ({weakest.name}) to {strongest.std:.2g} ({strongest.name})",
        f"{_MIN_STD:g} to {_MAX_STD:g}",
        "" if verdict == "ok" else advice,
    )


def diagnose_dead_units(layers: Sequence[LayerSignal]) -> Finding:
    """Check that at most 30% of the channels of each layer have a constant output, and return a finding."""
    worst = max(layers, key=lambda layer: layer.dead)
    verdict: Verdict = "stop" if worst.dead > _DEAD_STOP else "look" if worst.dead > _DEAD_LOOK else "ok"
    return Finding(
        "signal: dead units",
        verdict,
        f"{worst.dead:.0%} of the channels of {worst.name} have a constant output",
        f"at most {_DEAD_LOOK:.0%} in any layer",
        ""
        if verdict == "ok"
        else "Units with constant output do not learn: use --set norm=batch, which helps most, or a lower lr, another "
        "init, or activation=leaky_relu.",
    )


def diagnose_saturation(layers: Sequence[LayerSignal]) -> Finding:
    """Check that at most 50% of the activations of each layer are at a bound of their function; return a finding."""
    worst = max(layers, key=lambda layer: layer.saturated)
    verdict: Verdict = "look" if worst.saturated > _MAX_SATURATED else "ok"
    return Finding(
        "signal: saturation",
        verdict,
        f"{worst.saturated:.0%} of the activations of {worst.name} are at a bound",
        f"at most {_MAX_SATURATED:.0%} in any layer",
        ""
        if verdict == "ok"
        else "Saturated units have no gradient: use smaller initial weights (init, init_std), or activation=relu.",
    )


def diagnose_gradient_norms(layers: Sequence[LayerSignal]) -> Finding:
    """Check that no gradient is zero and that gradient norms differ by at most a factor of 1e5; return a finding."""
    weakest, strongest = (choose(layers, key=lambda layer: layer.gradient) for choose in (min, max))
    ratio = strongest.gradient / max(weakest.gradient, 1e-30)
    verdict: Verdict = "stop" if weakest.gradient == 0 or ratio > 1e8 else "look" if ratio > 1e5 else "ok"
    return Finding(
        "signal: gradients",
        verdict,
        f"norm {weakest.gradient:.2g} ({weakest.name}) to {strongest.gradient:.2g} ({strongest.name})",
        "all norms above 0, the largest at most 1e5 times the smallest",
        "" if verdict == "ok" else "Gradients vanish or explode: use other values of norm, init or activation.",
    )


def diagnose_weight_updates(layers: Sequence[LayerSignal]) -> Finding:
    """Check that one step at the peak learning rate changes each layer by 1e-6 to 0.3; return a finding.

    The change of a layer is relative to the norm of its kernel.
    """
    smallest, largest = (choose(layers, key=lambda layer: layer.update) for choose in (min, max))
    verdict: Verdict = "ok"
    advice = ""
    if smallest.update == 0:
        verdict, advice = (
            "stop",
            "A layer does not change: check whether the layer is frozen, or the learning rate is 0.",
        )
    elif largest.update > _MAX_UPDATE:
        verdict = "stop" if largest.update > 10 * _MAX_UPDATE else "look"
        advice = "Such large steps destroy what the network has learned: use a lower lr."
    elif smallest.update < _MIN_UPDATE:
        verdict, advice = "look", "With such small steps, the network learns nothing: use a higher lr."
    return Finding(
        "signal: weight updates",
        verdict,
        f"relative change {smallest.update:.1e} ({smallest.name}) to {largest.update:.1e} ({largest.name})",
        f"{_MIN_UPDATE:g} to {_MAX_UPDATE:g} in a step at the peak learning rate",
        advice,
    )
