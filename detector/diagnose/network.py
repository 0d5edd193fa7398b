"""What one batch tells about a network: its first loss, its gradients against numbers, and the signal in its layers.

Every function leaves the network it is given as it was, or works on a copy.
"""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import median

import numpy as np
import torch
from torch import Tensor, nn

from detector.config import Config
from detector.diagnose.finding import Finding, Verdict
from detector.loader.batch import Batch
from detector.loss.criterion import detection_loss, find_targets, loss_for
from detector.model.blocks import ConvBlock
from detector.model.grid import CellPredictions, Predictions
from detector.model.initialize import first_logit
from detector.model.network import GridNetwork

_FIRST_LOSS_WITHIN = 0.35
"""Share by which the first loss may miss the theory: the logits of a new network scatter a little around their bias."""

_LARGEST_GRADIENT_ERROR = 1e-3
"""Correct code in float64 comes to less than 1e-5 with one of the steps."""

_STEPS = (1e-5, 1e-7, 1e-6, 1e-4)
"""Tried in turn: a small gradient drowns in rounding with a short step, and a long one may cross the kink of a ReLU."""

_ENTRIES = 3
"""Numbers looked at in each tensor."""

_DEAD_LOOK, _DEAD_STOP = 0.3, 0.8
_SATURATED = 0.5
_QUIET, _LOUD = 1e-3, 1e3
"""Deviations of a healthy layer's answers lie between."""

_SLOW, _FAST = 1e-6, 0.3
"""A step changes the weights of a layer by a share between: usually one in a thousand, with Muon a few in a hundred."""


@dataclass(frozen=True)
class LayerSignal:
    """What goes through one layer.

    Attributes:
        name: path of the module in the network.
        mean, std: of its answers.
        dead: share of channels that answer the same everywhere in the batch.
        saturated: share of answers where a bounded activation is within 1 % of a bound; 0 for others.
        gradient: norm of the gradient of its kernel.
        update: norm of the change of its kernel in a step at full learning rate, as a share of the kernel's norm.
    """

    name: str
    mean: float
    std: float
    dead: float
    saturated: float
    gradient: float
    update: float


def check_first_loss(network: GridNetwork, batch: Batch, config: Config) -> Finding:
    """Compare the loss of the scores before training with what theory gives for scores at the first bias."""
    network = copy.deepcopy(network).train()
    with torch.no_grad():
        predictions = network(batch.images)
        targets = find_targets(predictions, batch, config)
        terms = loss_for(predictions, batch, targets, config)
        expected = float(loss_for(_at_first_bias(predictions, config), batch, targets, config).parts["classes"])
    measured = {name: float(part) for name, part in terms.parts.items()}
    off = abs(measured["classes"] / max(expected, 1e-9) - 1)
    text = ", ".join(f"{name} {value:.2f}" for name, value in measured.items())
    theory = f"classes {expected:.2f}, {_theory(network.class_count, config)}; nothing below 0"
    if min(measured.values()) < 0 or not all(map(math.isfinite, measured.values())):
        advice = "A loss below zero or without a value: a sign or a target is wrong."
        return Finding("network: first loss", "stop", text, theory, advice)
    if off > _FIRST_LOSS_WITHIN:
        advice = "The network does not start where it should: look at init, norm and the bias of the last layers."
        return Finding("network: first loss", "stop" if off > 3 else "look", text, theory, advice)
    return Finding("network: first loss", "ok", text, theory)


def _at_first_bias(predictions: Predictions, config: Config) -> Predictions:
    """Return predictions whose scores all stand exactly at their first bias."""
    if isinstance(predictions, CellPredictions):
        return replace(predictions, class_scores=torch.zeros_like(predictions.class_scores))
    logit = first_logit(predictions.class_logits.shape[-1], config)
    return replace(predictions, class_logits=torch.full_like(predictions.class_logits, logit))


def _theory(class_count: int, config: Config) -> str:
    if config.head == "yolo_v1":
        return "1 for each cell with an object"
    if config.class_loss == "softmax":
        rest = 1 / (1 + class_count * math.exp(first_logit(class_count, config)))
        return f"-log {rest:.2f} at each empty point (it would be log {class_count + 1} without the bias)"
    return "cross-entropy at a score of 0.01 (it would be log 2 per score without the bias)"


def check_gradients(network: GridNetwork, batch: Batch, config: Config) -> Finding:
    """Compare back-propagation with two-sided differences in float64, at a few numbers of each trained tensor.

    The targets are held, as they are for back-propagation.

    Source: Goodfellow, Bengio and Courville, Deep Learning, 2016, section 11.5.
    """
    network = copy.deepcopy(network).double().train()
    for module in network.modules():
        if isinstance(module, nn.Dropout2d):
            module.p = 0.0
    with torch.no_grad():
        targets = find_targets(network(batch.images), batch, config)

    def loss() -> Tensor:
        return loss_for(network(batch.images), batch, targets, config).total

    loss().backward()  # type: ignore[no-untyped-call]
    errors: dict[str, float] = {}
    unmoved: list[str] = []
    rng = np.random.default_rng(0)
    for name, parameter in network.named_parameters():
        if parameter.grad is None or not parameter.grad.any():
            unmoved.append(name)
            continue
        # Where the gradient is largest the difference has most correct digits; one more is drawn by chance.
        flat = parameter.grad.flatten()
        chosen = {*flat.abs().topk(min(_ENTRIES - 1, len(flat))).indices.tolist(), int(rng.integers(len(flat)))}
        errors[name] = median(_gradient_error(parameter, index, flat[index], loss) for index in chosen)
    worst = max(errors, key=errors.__getitem__, default="nothing")
    measured = f"relative error at most {errors.get(worst, 0):.1e} ({worst}), {len(errors)} tensors"
    expected = f"below {_LARGEST_GRADIENT_ERROR:g}, and every tensor reached"
    if unmoved:
        measured += f"; without a gradient: {', '.join(unmoved[:3])}" + (" ..." if len(unmoved) > 3 else "")
        advice = (
            "These are not trained: frozen (requires_grad), cut off from the loss, or behind units that are all dead "
            "or zero."
        )
        return Finding("network: gradients", "stop", measured, expected, advice)
    if errors.get(worst, 0) > _LARGEST_GRADIENT_ERROR:
        advice = "The gradient of this layer is not that of its function: look at what was changed in it."
        return Finding("network: gradients", "stop", measured, expected, advice)
    return Finding("network: gradients", "ok", measured, expected)


@torch.no_grad()
def _gradient_error(parameter: Tensor, index: int, gradient: Tensor, loss: Callable[[], Tensor]) -> float:
    """Return |numerical - given| / (|numerical| + |given|) for one number of a parameter."""
    place = np.unravel_index(index, parameter.shape)
    before = parameter[place].item()
    error = math.inf
    for step in _STEPS:
        parameter[place] = before + step
        above = loss()
        parameter[place] = before - step
        numerical = (above - loss()) / (2 * step)
        error = min(error, float((numerical - gradient).abs() / (numerical.abs() + gradient.abs()).clamp(min=1e-8)))
        if error < _LARGEST_GRADIENT_ERROR:
            break
    parameter[place] = before
    return error


def measure_signal(
    network: GridNetwork, batch: Batch, config: Config, full_step: Callable[[GridNetwork], None]
) -> list[LayerSignal]:
    """Send a batch forward and back and look at every layer.

    Args:
        network: is copied.
        batch: to send through.
        config: of the loss.
        full_step: changes a network, with its gradients there, as the optimizers do at full learning rate.
    """
    network = copy.deepcopy(network).train()
    answers: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[nn.Module, object, Tensor], None]:
        def hook(_: nn.Module, __: object, output: Tensor) -> None:
            answers[name] = output.detach().float().clone()

        return hook

    blocks = {name: module for name, module in network.named_modules() if isinstance(module, ConvBlock)}
    for name, block in blocks.items():
        block.register_forward_hook(keep(name))
    detection_loss(network(batch.images), batch, config, min_quality=0.1).total.backward()  # type: ignore[no-untyped-call]
    gradients = {
        name: 0.0 if block.conv.weight.grad is None else float(block.conv.weight.grad.norm())
        for name, block in blocks.items()
    }
    before = {name: block.conv.weight.detach().clone() for name, block in blocks.items()}
    full_step(network)
    signals = []
    for name, block in blocks.items():
        answer = answers[name]
        by_channel = answer.transpose(0, 1).flatten(1)
        saturated = 0.0
        if block.act is not None and config.activation in ("sigmoid", "hard_sigmoid", "tanh"):
            low = -1.0 if config.activation == "tanh" else 0.0
            fraction = (answer - low) / (1 - low)
            saturated = float(((fraction < 0.01) | (fraction > 0.99)).float().mean())
        change = float((block.conv.weight.detach() - before[name]).norm())
        signals.append(
            LayerSignal(
                name=name,
                mean=float(answer.mean()),
                std=float(answer.std()),
                dead=float((by_channel.amax(1) == by_channel.amin(1)).float().mean()),
                saturated=saturated,
                gradient=gradients[name],
                update=change / max(float(before[name].norm()), 1e-12),
            )
        )
    return signals


def check_signal(signals: list[LayerSignal]) -> list[Finding]:
    """Judge what `measure_signal` saw: answers, dead and saturated units, gradients, size of the steps."""
    quietest = min(signals, key=lambda layer: layer.std)
    loudest = max(signals, key=lambda layer: layer.std)
    broken = [layer.name for layer in signals if not math.isfinite(layer.std)]
    verdict: Verdict = "ok"
    advice = ""
    if broken or quietest.std < _QUIET or loudest.std > _LOUD:
        verdict = "stop" if broken or quietest.std < _QUIET / 1e3 or loudest.std > _LOUD * 1e3 else "look"
        advice = (
            "The signal fades or grows from layer to layer: take norm=batch, or init=he with relu-like activations."
        )
    findings = [
        Finding(
            "signal: answers of the layers",
            verdict,
            f"std {quietest.std:.2g} ({quietest.name}) to {loudest.std:.2g} ({loudest.name})",
            f"{_QUIET:g} to {_LOUD:g}",
            advice,
        )
    ]
    dead = max(signals, key=lambda layer: layer.dead)
    verdict = "stop" if dead.dead > _DEAD_STOP else "look" if dead.dead > _DEAD_LOOK else "ok"
    findings.append(
        Finding(
            "signal: dead units",
            verdict,
            f"{dead.dead:.0%} of the channels of {dead.name} answer the same to everything",
            f"at most {_DEAD_LOOK:.0%} in any layer",
            "" if verdict == "ok" else "Dead ReLUs: a lower lr, another init, or leaky_relu; norm=batch helps most.",
        )
    )
    full = max(signals, key=lambda layer: layer.saturated)
    if full.saturated > 0:
        verdict = "look" if full.saturated > _SATURATED else "ok"
        findings.append(
            Finding(
                "signal: saturation",
                verdict,
                f"{full.saturated:.0%} of the answers of {full.name} are at a bound",
                f"at most {_SATURATED:.0%}",
                "" if verdict == "ok" else "No gradient gets through there: a smaller init, or relu.",
            )
        )
    weakest, strongest = (choose(signals, key=lambda layer: layer.gradient) for choose in (min, max))
    ratio = strongest.gradient / max(weakest.gradient, 1e-30)
    verdict = "stop" if weakest.gradient == 0 or ratio > 1e8 else "look" if ratio > 1e5 else "ok"
    findings.append(
        Finding(
            "signal: gradients",
            verdict,
            f"norm {weakest.gradient:.2g} ({weakest.name}) to {strongest.gradient:.2g} ({strongest.name})",
            "all above 0, the largest less than 1e5 times the smallest",
            ""
            if verdict == "ok"
            else "Gradients vanish or explode on the way back: norm, init and activation decide this.",
        )
    )
    slowest, fastest = (choose(signals, key=lambda layer: layer.update) for choose in (min, max))
    verdict, advice = "ok", ""
    if slowest.update == 0:
        verdict, advice = "stop", "A layer does not move: it is frozen, or the learning rate is 0."
    elif fastest.update > _FAST:
        verdict = "stop" if fastest.update > 10 * _FAST else "look"
        advice = "Steps so large undo what was learned: a lower lr."
    elif slowest.update < _SLOW:
        verdict, advice = "look", "Steps so small learn nothing in a run: a higher lr."
    findings.append(
        Finding(
            "signal: size of a step",
            verdict,
            f"weights change by {slowest.update:.1e} ({slowest.name}) to {fastest.update:.1e} ({fastest.name}) of "
            "their size",
            f"{_SLOW:g} to {_FAST:g} at the peak learning rate",
            advice,
        )
    )
    return findings
