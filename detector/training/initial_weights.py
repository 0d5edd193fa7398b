"""The initial weights of a run: given weights, random weights, or by default shipped weights that fit the settings."""

from dataclasses import fields
from pathlib import Path

from detector.config import ArchitectureConfig, Config
from detector.shipped_weights import shipped_weights
from detector.weights_info import ATTRIBUTION, WeightsInfo

RANDOM = "none"
"""Initial weights with this name: random ones."""

AUTO = "auto"
"""Initial weights with this name: shipped weights if some fit the settings, else random ones."""

_START_OF = {"nano": "everyday"}
"""Size of the network → name of the shipped weights from which a run starts by default."""

_INITIAL = "initial_weights"
"""Fact in the metadata of weights: the initial weights of the run."""


def default_start(config: Config) -> str | None:
    """Return the name of the shipped weights from which a run starts by default; None: from random weights.

    The shipped weights have the default architecture. A run with another one, such as another activation function,
    starts from random weights.

    Args:
        config: settings of the run.
    """
    name = _START_OF.get(config.model)
    others = [setting.name for setting in fields(ArchitectureConfig) if setting.name not in ("model", "spp")]
    others += ["init", "init_std"]  # with shipped weights, they would have no effect
    is_default = all(getattr(config, name) == getattr(Config, name) for name in others) and config.spp is not True
    return name if is_default and name in shipped_weights() else None


def describe_start(weights: str | None, is_default: bool) -> str:
    """Return the first log line of a run: with which weights it starts.

    Args:
        weights: name of shipped weights, or absolute path of the initial weights; None: random weights.
        is_default: whether the user has not chosen the initial weights.
    """
    if weights is None:
        return "initial weights: random" + (" (no shipped weights fit these settings)" if is_default else "")
    if not is_default:
        return f"initial weights: {weights}"
    return (
        f"initial weights: {weights}, shipped weights that were trained on photographs; if you distribute the result, "
        "name their sources (docs/weights.md); for random weights: --weights none"
    )


def start_facts(weights: str | None, info: WeightsInfo | None) -> dict[str, object]:
    """Return what the metadata of trained weights say about the initial weights: their name, and who must be named.

    Args:
        weights: name of shipped weights, or path of the initial weights; None: random weights.
        info: description of the initial weights; None: random weights.
    """
    if weights is None or info is None:
        return {}
    inherited = {ATTRIBUTION: info.facts[ATTRIBUTION]} if ATTRIBUTION in info.facts else {}
    return {_INITIAL: Path(weights).name, **inherited}
