"""Average the weights of several networks of one architecture (model soup)."""

import logging
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import nn

from detector.config import ArchitectureConfig, Config, config_of
from detector.data.class_mapping import fit_classes
from detector.data.data_set import DataSet
from detector.data.joined_data import open_all
from detector.data.split import evenly_spaced
from detector.data.training_splits import choose_training_split
from detector.errors import ConfigError, WeightsError
from detector.evaluating.evaluate import detect_split, log_images, score_split
from detector.evaluating.evaluation_data import join_for, read_split_for
from detector.files import file_sha256
from detector.image_hashes import hashes_of_all
from detector.loader.batch import collate
from detector.loader.dataset import DetectionDataset
from detector.metrics.average_precision import AveragePrecision
from detector.model.checkpoint import load_weights, tensors_to_save
from detector.model.network import GridNetwork, uses_spp
from detector.options import MAX_PIXELS
from detector.outputs import SIGNATURE_KEY, UNSIGNED, claim_file, sign, write_file
from detector.predict.detector import Detector
from detector.runtime.origin import weights_files
from detector.runtime.pytorch import TorchRuntime
from detector.trained_classes import common_classes
from detector.weights_info import ATTRIBUTION, WeightsInfo, to_metadata
from detector.wording import metric, plural

log = logging.getLogger(__name__)

_BATCH_NORM_IMAGES, _BATCH = 256, 8
"""Number of training images from which the statistics of batch norm are computed, and of images per batch."""


@dataclass(frozen=True)
class AverageResult:
    """The result of averaging weights.

    Attributes:
        path: the file with the averaged weights.
        ap: AP of the averaged weights on val; None without a dataset.
        sources_ap: AP of each of the averaged weights on val; empty without a dataset.
    """

    path: Path
    ap: AveragePrecision | None
    sources_ap: tuple[AveragePrecision, ...] = ()

    @property
    def is_better(self) -> bool:
        """Whether the average has at least the AP of the best of its sources; False if it was not measured."""
        return self.ap is not None and max(own.AP for own in self.sources_ap) <= self.ap.AP


def average(
    weights: Sequence[str | Path],
    out: str | Path,
    *,
    data: str | Path | Sequence[str | Path] | None = None,
    allow_outside: bool = False,
    max_pixels: int = MAX_PIXELS,
    overwrite: bool = False,
) -> AverageResult:
    """Average the weights of several networks, and write a weights file.

    That only makes sense for networks that were trained from the same weights: for others, the average usually detects
    little or nothing. So give `data`: then the average and its sources are evaluated on val, and of two averages the
    better one is written: the statistics of batch norm are averaged too, or computed from training images.

    Thresholds and calibration that are stored with the sources are not valid for the average, and are left out.

    Args:
        weights: at least two .safetensors files or names of shipped weights, with the same architecture, classes and
            input size.
        out: the new file, which ends in .safetensors.
        data: the dataset of the training, or several of them, as for `train`; None: the statistics of batch norm are
            averaged, and nothing is evaluated.
        allow_outside: as for `open_data`.
        max_pixels: as for `open_data`.
        overwrite: whether to replace a file that this package did not write.

    Raises:
        ConfigError: there are fewer than two weights, or the name of the new file is wrong.
        WeightsError: the weights are damaged, exported or equal, or differ in architecture, classes or input size.
        InputError: a file or the dataset cannot be read or written.

    Source: Wortsman et al., Model soups, 2022 (uniform soup).
    """
    out = Path(out)
    if out.suffix != ".safetensors":
        raise ConfigError(f"out: {out}: expected a file name that ends in .safetensors")
    if isinstance(weights, str | Path) or len(weights) < 2:
        raise ConfigError("average: expected at least two weights files")
    files = [file for source in weights for file in weights_files(source)]
    claim_file(out, overwrite=overwrite, inputs=files)
    loaded = [load_weights(source) for source in weights]
    names = [str(source) for source in weights]
    infos = [info for _, info in loaded]
    _check_same(names, infos)
    _check_different(names, [network for network, _ in loaded])
    network, kind = _mean([network for network, _ in loaded]), "averaged"
    ap: AveragePrecision | None = None
    sources_ap: tuple[AveragePrecision, ...] = ()
    info = _info_of(names, infos)
    if data is None:
        log.warning(
            "the average is not evaluated: that of networks that were not trained from the same weights usually "
            "detects nothing; add --data (in Python, data) to compare it with its sources"
        )
    else:
        source = join_for(info, open_all(data, allow_outside=allow_outside, max_pixels=max_pixels))
        log.info("%s", source.description)
        candidates = {kind: network}
        if any(isinstance(module, nn.BatchNorm2d) for module in network.modules()):
            candidates["recomputed"] = _with_batch_norm_of(network, info, source)
        measured = _evaluate(
            [*(f"average, batch norm {name}" for name in candidates), *names],
            [*((candidate, info) for candidate in candidates.values()), *loaded],
            source,
            info,
        )
        sources_ap = tuple(measured[len(candidates) :])
        ap, kind = max(zip(measured, candidates, strict=False), key=lambda pair: pair[0].AP)  # the first of equal ones
        network = candidates[kind]
        _warn_if_worse(ap, sources_ap)
        info = replace(info, facts=dict(info.facts) | {"val": {"AP": ap.AP, "AP50": ap.AP50}})
    info = replace(info, facts=dict(info.facts) | {"batch_norm": kind})
    write_file(out, sign(save(tensors_to_save(network), to_metadata(info) | {SIGNATURE_KEY: UNSIGNED})))
    return AverageResult(out, ap, sources_ap)


def _check_same(names: Sequence[str], infos: Sequence[WeightsInfo]) -> None:
    """Raise WeightsError if two weights have another architecture, other classes or another input size."""
    first = _compared(infos[0])
    for name, info in zip(names[1:], infos[1:], strict=True):
        for key, value in _compared(info).items():
            if value == first[key]:
                continue
            hint = "weights of one architecture with the same classes and input size can be averaged"
            if key == "classes" and set(info.class_names) == set(infos[0].class_names):
                hint = "the classes are the same, but in another order"
            raise WeightsError(
                f"{name}: {key}: {value}, but {names[0]} has {first[key]}; {hint}; an ensemble (detector detect "
                "--weights A B) can use both"
            )


def _compared(info: WeightsInfo) -> dict[str, object]:
    """Return everything that must be the same in all weights."""
    config: Config = config_of(dict(info.config) | {"model": info.model})
    architecture = {setting.name: getattr(config, setting.name) for setting in fields(ArchitectureConfig)}
    return {
        **architecture,
        "spp": uses_spp(config, info.input_hw),
        "classes": list(info.class_names),
        "classes of the data that each class consists of": _groups(info),
        "category ids": list(info.category_ids),
        "input size (height, width)": list(info.input_hw),
    }


def _groups(info: WeightsInfo) -> list[list[str]]:
    """Return for each class the classes of the training data that it consists of, in alphabetical order."""
    learned = info.trained_classes
    return [[name] for name in info.class_names] if learned is None else [sorted(group) for group in learned.groups]


def _check_different(names: Sequence[str], networks: Sequence[GridNetwork]) -> None:
    """Raise WeightsError if two networks are equal: then one of them was given twice."""
    states = [network.state_dict() for network in networks]
    for index, state in enumerate(states):
        for other in range(index):
            if all(torch.equal(tensor, states[other][key]) for key, tensor in state.items()):
                raise WeightsError(
                    f"{names[index]}: has the same weights as {names[other]}, which would count twice; give each once"
                )


@torch.no_grad()
def _mean(networks: Sequence[GridNetwork]) -> GridNetwork:
    """Return the first network with the mean of all weights; the others are not changed."""
    states = [network.state_dict() for network in networks]
    means = {
        key: torch.stack([state[key].double() for state in states]).mean(dim=0).to(tensor.dtype)
        for key, tensor in states[0].items()
        if tensor.is_floating_point()
    }
    network = deepcopy(networks[0])
    network.load_state_dict(means, strict=False)
    return network


@torch.no_grad()
def _with_batch_norm_of(network: GridNetwork, info: WeightsInfo, source: DataSet) -> GridNetwork:
    """Return a copy of a network with batch norm statistics that are those of augmented training images."""
    network = deepcopy(network)
    split = fit_classes(source.read(choose_training_split(source, None)), info.class_names, info.trained_classes)
    indices = evenly_spaced(range(len(split.annotations)), _BATCH_NORM_IMAGES)
    split = replace(split, annotations=tuple(split.annotations[index] for index in indices))
    dataset = DetectionDataset(split, info.input_hw, config_of(dict(info.config) | {"model": info.model}))
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    before = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean over all batches
    network.train()
    for start in range(0, len(dataset), _BATCH):
        positions = range(start, min(start + _BATCH, len(dataset)))
        batch = collate([dataset.training_sample(position, 0.0) for position in positions])
        network(batch.images)
    network.eval()
    for norm, momentum in zip(norms, before, strict=True):
        norm.momentum = momentum
    log.info("batch norm: statistics of %s of the split '%s'", plural(len(dataset), "image"), split.name)
    return network


def _evaluate(
    names: Sequence[str], networks: Sequence[tuple[GridNetwork, WeightsInfo]], source: DataSet, average: WeightsInfo
) -> list[AveragePrecision]:
    """Return the AP on val of several networks, and log it.

    The images and objects are those of val for the average: without a val split, the images that all held back.
    """
    split = read_split_for(average, source, "val")
    log_images(split)
    results = []
    for name, (network, info) in zip(names, networks, strict=True):
        runtime = TorchRuntime(network, info.input_hw, torch.device("cpu"))
        # Not `evaluate_split`: it logs the images each time, and an AP would look like that of the line before.
        usable, found = detect_split(Detector(runtime, info), split)
        results.append(score_split(usable, found))
        log.info("%s: val AP %s AP50 %s", name, metric(results[-1].AP), metric(results[-1].AP50))
    return results


def _warn_if_worse(ap: AveragePrecision, sources_ap: Sequence[AveragePrecision]) -> None:
    """Log a warning if an average has a lower AP than the best of its sources."""
    best = max(own.AP for own in sources_ap)
    if best > ap.AP:
        log.warning(
            "the average has a lower AP on val (%s) than the best of its sources (%s); use that one, or average "
            "weights that were trained from the same weights, with a low learning rate",
            metric(ap.AP), metric(best),
        )  # fmt: skip


def _info_of(names: Sequence[str], infos: Sequence[WeightsInfo]) -> WeightsInfo:
    """Return the description of the average: its sources, and everybody who must be named.

    Args:
        names: names of the sources.
        infos: descriptions of the sources.
    """
    first = infos[0]
    sources: list[Mapping[str, Any]] = [
        {
            "name": Path(name).name,
            "sha256": file_sha256(*weights_files(name))[:16],
            **{key: info.facts[key] for key in ("steps", "val", "data") if key in info.facts},
        }
        for name, info in zip(names, infos, strict=True)
    ]
    facts: dict[str, Any] = {"averaged": sources}
    # What all sources have in common, such as the dataset, is true of the average too.
    facts |= {
        key: value
        for key, value in first.facts.items()
        if key not in ("steps", "seconds", "val", ATTRIBUTION)
        and all(key in info.facts and info.facts[key] == value for info in infos)
    }
    attributions = dict.fromkeys(info.facts[ATTRIBUTION] for info in infos if info.facts.get(ATTRIBUTION))
    if attributions:
        facts[ATTRIBUTION] = "; ".join(attributions)
    if any(info.thresholds is not None or info.score_map is not None for info in infos):
        log.info("thresholds and calibration stored with the sources are not valid for the average, and are left out")
    same_classes = all(info.default_classes == first.default_classes for info in infos)
    return replace(
        first,
        facts=facts,
        image_hashes=hashes_of_all([info.image_hashes for info in infos]),
        thresholds=None,
        score_map=None,
        default_classes=first.default_classes if same_classes else None,
        trained_classes=common_classes([(info.class_names, info.trained_classes) for info in infos]),
    )
