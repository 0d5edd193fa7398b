"""Findings about the signal in each layer of an untrained network: activations, gradients and weight updates."""

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
"""Activation functions with a lower and an upper bound → the bounds."""

_DEAD_LOOK, _DEAD_STOP = 0.3, 0.8
"""Fraction of dead channels in a layer above which the verdict is "look" or "stop"."""

_SATURATED = 0.5
"""Fraction of saturated activations in a layer above which the verdict is "look"."""

_MIN_STD, _MAX_STD = 1e-3, 1e3
"""Range of the standard deviation of a healthy layer's activations."""

_MIN_UPDATE, _MAX_UPDATE = 1e-6, 0.3
"""Range of the relative change of a layer's weights in one step. Typical: 0.001; with Muon a few times 0.01."""


@dataclass(frozen=True)
class LayerSignal:
    """Statistics of one layer for one batch.

    Attributes:
        name: path of the module in the network.
        mean, std: of its activations.
        dead: fraction of channels with the same value everywhere in the batch.
        saturated: fraction of activations within 1 % of a bound; 0 for activation functions that are not bounded.
        gradient: norm of the gradient of its kernel.
        update: norm of the change of its kernel in a step at the peak learning rate, divided by the kernel's norm.
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
    """Run one forward and backward pass and one optimizer step, and measure every layer.

    Args:
        network: is not changed.
        batch: images and objects.
        config: activation function and loss.
        optimizer_step: updates the weights of the network it is given from their gradients, at the peak learning rate.
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
    return 0.0 if tensor is None else float(tensor.norm())


def _dead_fraction(activations: Tensor) -> float:
    """Return the fraction of channels of [B, C, H, W] that are constant."""
    by_channel = activations.transpose(0, 1).flatten(1)
    return float((by_channel.amax(1) == by_channel.amin(1)).float().mean())


def _saturated_fraction(activations: Tensor, activation: str) -> float:
    """Return the fraction of activations within 1 % of a bound of their activation function."""
    if activation not in _BOUNDED_ACTIVATIONS:
        return 0.0
    low, high = _BOUNDED_ACTIVATIONS[activation]
    fraction = (activations - low) / (high - low)
    return float(((fraction < 0.01) | (fraction > 0.99)).float().mean())


def diagnose_signal(layers: Sequence[LayerSignal]) -> list[Finding]:
    """Return the findings about what `measure_signal` measured."""
    saturation = [diagnose_saturation(layers)] if any(layer.saturated > 0 for layer in layers) else []
    return [
        diagnose_activations(layers),
        diagnose_dead_units(layers),
        *saturation,
        diagnose_gradient_norms(layers),
        diagnose_weight_updates(layers),
    ]


def diagnose_activations(layers: Sequence[LayerSignal]) -> Finding:
    """Check that activations neither vanish nor explode."""
    weakest, strongest = (choose(layers, key=lambda layer: layer.std) for choose in (min, max))
    not_finite = any(not math.isfinite(layer.std) for layer in layers)
    verdict: Verdict = "ok"
    if not_finite or weakest.std < _MIN_STD / 1e3 or strongest.std > _MAX_STD * 1e3:
        verdict = "stop"
    elif weakest.std < _MIN_STD or strongest.std > _MAX_STD:
        verdict = "look"
    advice = (
        "The signal vanishes or explodes from layer to layer: use norm=batch, or init=he with relu-like activations."
    )
    return Finding(
        "signal: activations of the layers",
        verdict,
        f"standard deviation {weakest.std:.2g} ({weakest.name}) to {strongest.std:.2g} ({strongest.name})",
        f"{_MIN_STD:g} to {_MAX_STD:g}",
        "" if verdict == "ok" else advice,
    )


def diagnose_dead_units(layers: Sequence[LayerSignal]) -> Finding:
    """Check that few channels are constant."""
    worst = max(layers, key=lambda layer: layer.dead)
    verdict: Verdict = "stop" if worst.dead > _DEAD_STOP else "look" if worst.dead > _DEAD_LOOK else "ok"
    return Finding(
        "signal: dead units",
        verdict,
        f"{worst.dead:.0%} of the channels of {worst.name} have a constant output",
        f"at most {_DEAD_LOOK:.0%} in any layer",
        "" if verdict == "ok" else "Dead ReLUs: use a lower lr, another init, or leaky_relu; norm=batch helps most.",
    )


def diagnose_saturation(layers: Sequence[LayerSignal]) -> Finding:
    """Check that few activations are at a bound of their activation function."""
    worst = max(layers, key=lambda layer: layer.saturated)
    verdict: Verdict = "look" if worst.saturated > _SATURATED else "ok"
    return Finding(
        "signal: saturation",
        verdict,
        f"{worst.saturated:.0%} of the activations of {worst.name} are at a bound",
        f"at most {_SATURATED:.0%}",
        "" if verdict == "ok" else "Saturated units have no gradient: use a smaller init, or relu.",
    )


def diagnose_gradient_norms(layers: Sequence[LayerSignal]) -> Finding:
    """Check that gradients neither vanish nor explode."""
    weakest, strongest = (choose(layers, key=lambda layer: layer.gradient) for choose in (min, max))
    ratio = strongest.gradient / max(weakest.gradient, 1e-30)
    verdict: Verdict = "stop" if weakest.gradient == 0 or ratio > 1e8 else "look" if ratio > 1e5 else "ok"
    return Finding(
        "signal: gradients",
        verdict,
        f"norm {weakest.gradient:.2g} ({weakest.name}) to {strongest.gradient:.2g} ({strongest.name})",
        "all above 0, the largest less than 1e5 times the smallest",
        "" if verdict == "ok" else "Gradients vanish or explode: this depends on norm, init and activation.",
    )


def diagnose_weight_updates(layers: Sequence[LayerSignal]) -> Finding:
    """Check that a step at the peak learning rate changes the weights by a reasonable fraction."""
    smallest, largest = (choose(layers, key=lambda layer: layer.update) for choose in (min, max))
    verdict: Verdict = "ok"
    advice = ""
    if smallest.update == 0:
        verdict, advice = "stop", "A layer does not change: it is frozen, or the learning rate is 0."
    elif largest.update > _MAX_UPDATE:
        verdict = "stop" if largest.update > 10 * _MAX_UPDATE else "look"
        advice = "Such large steps undo what was learned: use a lower lr."
    elif smallest.update < _MIN_UPDATE:
        verdict, advice = "look", "Such small steps learn nothing in a run: use a higher lr."
    return Finding(
        "signal: weight updates",
        verdict,
        f"relative change {smallest.update:.1e} ({smallest.name}) to {largest.update:.1e} ({largest.name})",
        f"{_MIN_UPDATE:g} to {_MAX_UPDATE:g} in a step at the peak learning rate",
        advice,
    )
