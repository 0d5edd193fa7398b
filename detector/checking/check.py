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
    check_by_heart,
    check_cost,
    check_rate,
    check_same_pictures,
    range_test,
)
from detector.config import Config
from detector.data.open_data import open_data
from detector.data.split import Split, evenly
from detector.diagnose.data import check_data
from detector.diagnose.examples import augmentation_examples, check_augmentation, class_examples
from detector.diagnose.finding import Finding, Verdict, worst
from detector.diagnose.network import check_first_loss, check_gradients, check_signal, measure_signal
from detector.files import make_folder
from detector.images import write_image
from detector.letterbox import canvas_of_aspect
from detector.loader.dataset import DetectionDataset
from detector.loader.input_size import canvas_at, choose_canvas
from detector.loader.loader import training_batch
from detector.model.network import GridNetwork, check_canvas, wants_pooling
from detector.plots.chart import bar_chart, line_chart, sparkline
from detector.runtime.hardware import choose_precision, prepare_for_training
from detector.training.optimizer import clip_gradients, make_optimizers
from detector.training.time_budget import choose_batch
from detector.training.trainer import Trainer

log = logging.getLogger(__name__)

_PICTURES = 160
"""Pictures decoded for the checks that need them at full size."""

_GRADIENT_SIDE = 64
_BY_HEART_SIDE = 320
_BY_HEART_SECONDS = 25.0
_RANGE_SECONDS = 15.0


@dataclass(frozen=True)
class CheckReport:
    """What a check found.

    Attributes:
        findings: in order.
        pictures: to look at, by file name; written where a folder was given.
        seconds: it took.
    """

    findings: tuple[Finding, ...]
    pictures: Mapping[str, ImageArray]
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
        out: folder for pictures to look at; None writes none.
        split: to learn from.
        said: gets every line as soon as it is known.

    Raises:
        InputError: the data cannot be read at all, or the folder not be written.
    """
    started = time.monotonic()
    config = config or Config()
    prepare_for_training()
    source = open_data(data, config.allow_outside)
    said(source.description)
    splits = [source.read(name) for name in (split, *(n for n in ("val", "test") if n in source.split_names))
              if not (split == "trainval" and name == "val")]  # fmt: skip
    if out is not None:
        make_folder(out)
    findings: list[Finding] = []
    pictures: dict[str, ImageArray] = {}

    def found(new: Iterable[Finding]) -> None:
        for finding in new:
            findings.append(finding)
            said(str(finding))

    def shown(name: str, picture: ImageArray) -> None:
        pictures[name] = picture
        if out is not None:
            write_image(out / name, picture)

    canvas_hw = choose_canvas(config, splits[0].annotations)
    found(check_data(splits, canvas_hw, config))
    shown("classes.jpg", class_examples(splits[0]))
    few = _even_part(splits[0], _PICTURES)
    dataset = DetectionDataset(few, canvas_hw, config)
    shown("augmentation.jpg", augmentation_examples(dataset, few.class_names))
    found([check_augmentation(few.annotations, canvas_hw, config), check_same_pictures(dataset, few)])
    for each in _check_network(few, dataset, config, len(splits[0].annotations), shown, said):
        found(each)
    if out is not None:
        said(f"pictures to look at: {', '.join(str(out / name) for name in pictures)}")
    return CheckReport(tuple(findings), pictures, time.monotonic() - started)


def _check_network(
    split: Split,
    dataset: DetectionDataset,
    config: Config,
    picture_count: int,
    shown: Callable[[str, ImageArray], None],
    said: Callable[[str], None],
) -> Iterator[list[Finding]]:
    """Yield the findings about network and learning, the quick ones first."""
    canvas_hw, device = dataset.canvas_hw, torch.device("cpu")
    check_canvas(canvas_at(canvas_hw, 0, 1, config), config)
    dtype = choose_precision(config.precision, device)
    batch_size = choose_batch(config, picture_count)
    torch.manual_seed(config.seed)
    pooled = wants_pooling(canvas_hw)
    network = GridNetwork(config, len(split.class_names), *dataset.colour_statistics(), pooled=pooled)
    batch = training_batch(dataset, 0, batch_size, 1)
    yield [check_first_loss(network, batch, config)]

    aspect = canvas_hw[1] / canvas_hw[0]
    small_hw = canvas_of_aspect(_GRADIENT_SIDE if config.padding == "same" else max(canvas_hw), aspect)
    tiny = DetectionDataset(_even_part(split, 2), small_hw, replace(config, first_canvas=1.0))
    yield [check_gradients(network, training_batch(tiny, 0, 2, 1), config)]

    def full_step(trained: GridNetwork) -> None:
        clip_gradients(trained, config.clip_norm, config.clip_value)
        for optimizer in make_optimizers(trained, config):
            optimizer.step()

    signals = measure_signal(network, batch, config, full_step)
    said(f"      answers per layer    {sparkline([layer.deviation for layer in signals])}")
    said(f"      gradients per layer  {sparkline([layer.gradient for layer in signals])}")
    series = {
        "deviation of the answers": [layer.deviation for layer in signals],
        "norm of the gradient": [layer.gradient for layer in signals],
        "change by a full step, share of the weights": [layer.update for layer in signals],
    }
    shown("signal.png", bar_chart("signal in each layer, before training", [layer.name for layer in signals], series))
    yield check_signal(signals)

    # Small batches, since a step more says more than a picture more.
    batches = (training_batch(dataset, step, min(batch_size, 8), 10**6) for step in itertools.count(0))
    test = range_test(network, batches, config, dtype, _RANGE_SECONDS)
    marks = {"peak": test.peak, "suggested": test.suggested, "diverges": test.diverges}
    shown("learning-rate.png", line_chart("loss while the learning rate grows", test.rates, test.losses, marks))
    yield [check_rate(test)]

    heart_hw = canvas_of_aspect(min(max(canvas_hw), _BY_HEART_SIDE), aspect) if config.padding == "same" else canvas_hw
    yield [check_by_heart(split, config, heart_hw, dtype, _BY_HEART_SECONDS)]
    trainer = Trainer(network, config, device, dtype, picture_count / batch_size)
    yield [check_cost(trainer, dataset, batch_size, config, picture_count)]


def _even_part(split: Split, count: int) -> Split:
    """Return a split of up to `count` of its pictures, evenly spaced."""
    if len(split.annotations) <= count:
        return split
    return replace(split, annotations=tuple(evenly(split.annotations, count)), ground_truth=None)
