"""Checking: is something wrong with data, network or settings, before a long run; about a minute."""

import itertools
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from detector.arrays import ImageArray
from detector.checking.learning import (
    check_cost,
    check_rate,
    diagnose_preprocessing,
    overfit_test,
    range_test,
)
from detector.config import Config
from detector.data.open_data import open_data
from detector.data.split import Split, evenly_spaced
from detector.diagnose.data import check_data
from detector.diagnose.examples import augmentation_examples, check_augmentation, class_examples
from detector.diagnose.finding import Finding, Verdict, worst
from detector.diagnose.network import check_first_loss, check_gradients, check_signal, measure_signal
from detector.files import make_folder
from detector.images import write_image
from detector.letterbox import input_hw_for_aspect
from detector.loader.dataset import DetectionDataset
from detector.loader.input_size import choose_input_size, input_size_at
from detector.loader.loader import training_batch
from detector.model.network import GridNetwork, check_canvas, uses_spp
from detector.plots.chart import bar_chart, line_chart, sparkline
from detector.runtime.hardware import choose_precision, prepare_for_training
from detector.training.optimizer import clip_gradients, make_optimizers
from detector.training.time_budget import choose_batch
from detector.training.trainer import Trainer

log = logging.getLogger(__name__)

_IMAGES = 160
"""Images decoded for the checks that need them at full size."""

_GRADIENT_SIDE = 64
_OVERFIT_SIDE = 320
_OVERFIT_SECONDS = 25.0
_RANGE_SECONDS = 15.0


@dataclass(frozen=True)
class CheckReport:
    """What a check found.

    Attributes:
        findings: in order.
        images: to look at, by file name; written where a folder was given.
        seconds: it took.
    """

    findings: tuple[Finding, ...]
    images: Mapping[str, ImageArray]
    seconds: float

    @property
    def verdict(self) -> Verdict:
        """The worst of all."""
        return worst(self.findings)

    def to_json(self) -> dict[str, object]:
        """Return JSON-ready values."""
        return {"verdict": self.verdict, "seconds": round(self.seconds, 1),
                "findings": [finding.to_json() for finding in self.findings]}  # fmt: skip


def check(
    data: str | Path,
    config: Config | None = None,
    out: Path | None = None,
    split: str = "train",
    said: Callable[[str], None] = log.info,
) -> CheckReport:
    """Check a data set, the network that would be trained on it, and whether it learns; on the CPU.

    Args:
        data: anything `open_data` takes.
        config: settings of the run that is planned.
        out: folder for images to look at; None writes none.
        split: to learn from.
        said: gets every line as soon as it is known.

    Raises:
        InputError: the data cannot be read at all, or the folder not be written.
    """
    started = time.monotonic()
    config = config or Config()
    prepare_for_training()
    source = open_data(data, allow_outside=config.allow_outside)
    said(source.description)
    splits = [source.read(name) for name in (split, *(n for n in ("val", "test") if n in source.split_names))
              if not (split == "trainval" and name == "val")]  # fmt: skip
    if out is not None:
        make_folder(out)
    findings: list[Finding] = []
    images: dict[str, ImageArray] = {}

    def found(new: Iterable[Finding]) -> None:
        for finding in new:
            findings.append(finding)
            said(str(finding))

    def shown(name: str, image: ImageArray) -> None:
        images[name] = image
        if out is not None:
            write_image(out / name, image)

    input_hw = choose_input_size(config, splits[0].annotations)
    found(check_data(splits, input_hw, config))
    shown("classes.jpg", class_examples(splits[0]))
    few = _even_part(splits[0], _IMAGES)
    dataset = DetectionDataset(few, input_hw, config)
    shown("augmentation.jpg", augmentation_examples(dataset, few.class_names))
    found([check_augmentation(few.annotations, input_hw, config), diagnose_preprocessing(dataset, few)])
    for each in _check_network(few, dataset, config, len(splits[0].annotations), shown, said):
        found(each)
    if out is not None:
        said(f"images to look at: {', '.join(str(out / name) for name in images)}")
    return CheckReport(tuple(findings), images, time.monotonic() - started)


def _check_network(
    split: Split,
    dataset: DetectionDataset,
    config: Config,
    image_count: int,
    shown: Callable[[str, ImageArray], None],
    said: Callable[[str], None],
) -> Iterator[list[Finding]]:
    """Yield the findings about network and learning, the quick ones first."""
    input_hw, device = dataset.input_hw, torch.device("cpu")
    check_canvas(input_size_at(input_hw, 0, 1, config), config)
    dtype = choose_precision(config.precision, device)
    batch_size = choose_batch(config, image_count)
    torch.manual_seed(config.seed)
    spp = uses_spp(input_hw)
    network = GridNetwork(config, len(split.class_names), *dataset.color_statistics(), spp=spp)
    batch = training_batch(dataset, 0, batch_size, 1)
    yield [check_first_loss(network, batch, config)]

    aspect = input_hw[1] / input_hw[0]
    small_hw = input_hw_for_aspect(_GRADIENT_SIDE if config.padding == "same" else max(input_hw), aspect)
    tiny = DetectionDataset(_even_part(split, 2), small_hw, replace(config, first_input_size=1.0))
    yield [check_gradients(network, training_batch(tiny, 0, 2, 1), config)]

    def full_step(trained: GridNetwork) -> None:
        clip_gradients(trained, config.clip_norm, config.clip_value)
        for optimizer in make_optimizers(trained, config):
            optimizer.step()

    signals = measure_signal(network, batch, config, full_step)
    said(f"      answers per layer    {sparkline([layer.std for layer in signals])}")
    said(f"      gradients per layer  {sparkline([layer.gradient for layer in signals])}")
    series = {
        "std of the answers": [layer.std for layer in signals],
        "norm of the gradient": [layer.gradient for layer in signals],
        "change by a full step, share of the weights": [layer.update for layer in signals],
    }
    shown("signal.png", bar_chart("signal in each layer, before training", [layer.name for layer in signals], series))
    yield check_signal(signals)

    # Small batches, since a step more says more than an image more.
    batches = (training_batch(dataset, step, min(batch_size, 8), 10**6) for step in itertools.count(0))
    test = range_test(network, batches, config, dtype, _RANGE_SECONDS)
    marks = {"peak": test.peak, "suggested": test.suggested, "diverges": test.diverges}
    shown("learning-rate.png", line_chart("loss while the learning rate grows", test.rates, test.losses, marks))
    yield [check_rate(test)]

    overfit_hw = (
        input_hw_for_aspect(min(max(input_hw), _OVERFIT_SIDE), aspect) if config.padding == "same" else input_hw
    )
    yield [overfit_test(split, config, overfit_hw, dtype, _OVERFIT_SECONDS)]
    trainer = Trainer(network, config, device, dtype, image_count / batch_size)
    yield [check_cost(trainer, dataset, batch_size, config, image_count)]


def _even_part(split: Split, count: int) -> Split:
    """Return a split of up to `count` of its images, evenly spaced."""
    if len(split.annotations) <= count:
        return split
    return replace(split, annotations=tuple(evenly_spaced(split.annotations, count)), ground_truth=None)
