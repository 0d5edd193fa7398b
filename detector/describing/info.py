"""What a bug report needs: versions, machine, runtimes, and the weights. It contains no path and no name of a user."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from detector.describing.machine import machine_facts, package_versions, runtime_facts
from detector.files import file_sha256
from detector.graph.metadata import GraphInfo
from detector.runtime.load import load_runtime
from detector.runtime.origin import weights_files
from detector.version import VERSION
from detector.weights_info import ATTRIBUTION

_PATH = re.compile(r"\S*[/\\](?=\S)")
"""The folders of a path in text. The last name of the path, such as that of a dataset, remains."""

_FACTS = ("images", "boxes", "step", "steps", "batch", "seconds", "torch", "threads", "machine")
"""Facts about the training run that are shown, besides data and AP."""

_MAX_CLASSES = 40
"""Largest number of class names that are printed; the JSON object has all."""


@dataclass(frozen=True)
class WeightsFacts:
    """Facts about a weights file or an export, for a bug report.

    Attributes:
        file: the name of the file or folder, without its folder.
        sha256: hash of the file, or of the files of an OpenVINO export one after the other.
        megabytes: size.
        model: name of the network size.
        input_hw: height and width of the network input, in pixels.
        classes: class names.
        export: properties of an exported graph, such as int8; empty for weights as they were trained.
        runtime: the runtime that `--runtime auto` selects.
        data: name and format of the training data.
        ap: AP and AP50 on val in training, 0..1; None if the run was not evaluated.
        facts: further facts about the training run.
        default_classes: class names that are detected if the user names none; None: all.
        initial_weights: name of the initial weights; None: random weights.
        attribution: who must be named when the weights are distributed; None: nobody.
        thresholds: class name → score threshold, for `--conf auto`; None: none are stored.
        thresholds_goal: what the thresholds were chosen for.
        score_map: the map from scores to probabilities, for `--calibrated`; None: none is stored.
        learned_from: class name → names of the classes of the training data that it consists of; None: the same.
    """

    file: str
    sha256: str
    megabytes: float
    model: str
    input_hw: tuple[int, int]
    classes: tuple[str, ...]
    export: Mapping[str, object]
    runtime: str
    data: str
    ap: Mapping[str, float] | None
    facts: Mapping[str, object]
    default_classes: tuple[str, ...] | None
    initial_weights: str | None
    attribution: str | None
    thresholds: Mapping[str, float] | None
    thresholds_goal: str | None
    score_map: Mapping[str, float] | None
    learned_from: Mapping[str, tuple[str, ...]] | None


@dataclass(frozen=True)
class Info:
    """Versions, machine and runtimes: name → text; and the facts about weights, if any were given."""

    version: str
    machine: Mapping[str, str]
    packages: Mapping[str, str]
    runtimes: Mapping[str, str]
    weights: WeightsFacts | None

    def to_json(self) -> dict[str, Any]:
        """Return the facts as values that JSON can represent."""
        return asdict(self)

    def lines(self) -> Iterator[str]:
        """Yield the facts as lines of text."""
        yield f"detector {self.version}"
        for name, text in self.machine.items():
            yield f"{name}: {text}"
        yield "packages: " + ", ".join(f"{name} {text}" for name, text in self.packages.items())
        for name, text in self.runtimes.items():
            yield f"runtime {name}: {text}"
        if self.weights is not None:
            yield from _weights_lines(self.weights)


def collect_info(weights: str | None = None) -> Info:
    """Return the facts about this installation and machine, and about weights.

    Args:
        weights: path of weights or of an export, or name of shipped weights; None: none.

    Raises:
        InputError: the weights cannot be loaded.
    """
    return Info(
        VERSION,
        machine_facts(),
        package_versions(),
        runtime_facts(),
        None if weights is None else weights_facts(weights),
    )


def weights_facts(weights: str) -> WeightsFacts:
    """Load weights, and return the facts about them.

    Raises:
        InputError: the weights cannot be loaded.
    """
    runtime, info = load_runtime(weights, device="cpu")
    files = weights_files(weights)
    ap, chosen, shown = info.facts.get("val"), info.thresholds, info.default_classes
    learned = info.trained_classes
    return WeightsFacts(
        file=Path(weights).name,
        sha256=file_sha256(*files),
        megabytes=round(sum(file.stat().st_size for file in files) / 1e6, 2),
        model=info.model,
        input_hw=runtime.input_hw,
        classes=info.class_names,
        export=_export_facts(runtime.graph_info),
        runtime=runtime.name,
        data=_PATH.sub("", str(info.facts.get("data", "unknown"))),
        ap=ap if isinstance(ap, dict) else None,
        facts={name: info.facts[name] for name in _FACTS if name in info.facts},
        default_classes=None if shown is None else tuple(info.class_names[class_id] for class_id in shown),
        initial_weights=_text(info.facts.get("initial_weights")),
        attribution=_text(info.facts.get(ATTRIBUTION)),
        thresholds=None if chosen is None else dict(zip(info.class_names, chosen.values, strict=True)),
        thresholds_goal=None if chosen is None else chosen.goal,
        score_map=None if info.score_map is None else info.score_map.to_json(),
        learned_from=None if learned is None else dict(zip(info.class_names, learned.groups, strict=True)),
    )


def _text(fact: object) -> str | None:
    """Return a fact if it is a text, else None."""
    return fact if isinstance(fact, str) else None


def _export_facts(graph: GraphInfo) -> dict[str, object]:
    """Return the properties of a graph that differ from those of weights; the number of bits only if it is int8."""
    facts = {name: value for name, value in asdict(graph).items() if value}
    return facts if graph.int8 else {name: value for name, value in facts.items() if name != "int8_weight_bits"}


def _weights_lines(weights: WeightsFacts) -> Iterator[str]:
    """Yield the facts about weights as lines of text."""
    height, width = weights.input_hw
    yield f"weights {weights.file}: {weights.megabytes} MB, sha256 {weights.sha256}"
    yield f"  {weights.model} network, input {width}x{height} (width x height), runs with {weights.runtime}"
    if weights.export:
        yield "  exported graph: " + ", ".join(f"{name} {value}" for name, value in weights.export.items())
    more = f", ... ({len(weights.classes)} in total)" if len(weights.classes) > _MAX_CLASSES else ""
    yield f"  classes: {', '.join(weights.classes[:_MAX_CLASSES])}{more}"
    if weights.learned_from is not None:
        names = [name for group in weights.learned_from.values() for name in group]
        more = f", ... ({len(names)} in total)" if len(names) > _MAX_CLASSES else ""
        yield f"  learned from the classes of the data: {', '.join(names[:_MAX_CLASSES])}{more}"
    if weights.default_classes is not None:
        yield f"  detected by default: {', '.join(weights.default_classes)}"
    yield f"  data: {weights.data}"
    if weights.initial_weights is not None:
        yield f"  initial weights: {weights.initial_weights}"
    if weights.attribution is not None:
        yield f"  attribution: {weights.attribution}"
    yield "  training: " + ", ".join(f"{name} {value}" for name, value in weights.facts.items())
    ap = "not evaluated" if weights.ap is None else ", ".join(f"{name} {ap:.4f}" for name, ap in weights.ap.items())
    yield f"  AP on val: {ap}"
    if weights.thresholds is not None:
        shown = [f"{name} {value:.4g}" for name, value in weights.thresholds.items()]
        more = f", ... ({len(shown)} in total)" if len(shown) > _MAX_CLASSES else ""
        yield f"  thresholds (--conf auto): {', '.join(shown[:_MAX_CLASSES])}{more}; {weights.thresholds_goal}"
    if weights.score_map is not None:
        slope, intercept = weights.score_map["slope"], weights.score_map["intercept"]
        yield f"  probabilities (--calibrated): logistic function of {slope:.3f} x logit(score) {intercept:+.3f}"
