"""`check`: looks for faults in the data, the network and the settings; takes about a minute."""

import itertools
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from detector.arrays import ImageArray
from detector.checking.cost import diagnose_cost
from detector.checking.learning_rate import diagnose_learning_rate, range_test
from detector.checking.overfitting import diagnose_overfitting, overfit_test
from detector.checking.progress import report_progress
from detector.config import ArchitectureConfig, Config
from detector.data.data_set import DataSet
from detector.data.ledger import Ledger
from detector.data.open_data import open_data
from detector.data.split import Split, evenly_spaced
from detector.data.training_splits import choose_training_split, read_training_splits
from detector.diagnose.augmentation import diagnose_augmentation
from detector.diagnose.data import diagnose_data
from detector.diagnose.examples import augmentation_examples, class_examples, example_sheets
from detector.diagnose.finding import Finding, Verdict, worst
from detector.diagnose.network import diagnose_first_loss, diagnose_gradients
from detector.diagnose.preprocessing import diagnose_preprocessing
from detector.diagnose.signal import LayerSignal, diagnose_signal, measure_signal
from detector.files import local_path
from detector.html_table import html_table
from detector.images import write_image
from detector.letterbox import input_hw_for_aspect
from detector.loader.dataset import DetectionDataset
from detector.loader.input_size import choose_input_size, input_stages, without_resizing
from detector.loader.loader import training_batch
from detector.model.make_network import make_network
from detector.model.network import GridNetwork, check_padding
from detector.output_folder import OutputFolder, claim_folder
from detector.plots.chart import bar_chart, line_chart, sparkline
from detector.runtime.hardware import choose_precision, training_process
from detector.training.initial_weights import default_start
from detector.training.optimizer import clip_gradients, make_optimizers
from detector.training.preparation import check_loss
from detector.training.time_budget import choose_batch_size
from detector.training.trainer import Trainer
from detector.wording import plural

log = logging.getLogger(__name__)

_MAX_IMAGES = 160
"""Largest number of training images that are decoded at full size."""

_IMAGE_NAMES = (
    "classes.jpg", "background.jpg", "smallest-boxes.jpg", "largest-boxes.jpg", "overlapping-boxes.jpg",
    "augmentation.jpg", "signal.png", "learning-rate.png",
)  # fmt: skip
"""Names of all images that a check may write."""

_GRADIENT_SIDE = 64
"""Longer side of the network input in the gradient check, in pixels. The check runs many forward passes in float64."""

_OVERFIT_SIDE = 192
"""Longest side of the network input in the overfit test, in pixels. Parts of images with tiny objects are enlarged."""

_RANGE_TEST_SIDE = 224
"""Longest side of the network input in the range test, in pixels: the learning rate hardly depends on it."""

_RANGE_TEST_BATCH, _RANGE_TEST_IMAGES = 8, 48
"""Largest batch size and number of images of the range test: more steps are more useful than more images per step."""


@dataclass(frozen=True)
class CheckReport:
    """Result of `check`: the findings, and images for visual inspection.

    Attributes:
        findings: one finding per check, in the order in which the checks ran.
        images: file name → image for visual inspection, [H, W, 3] uint8 RGB.
        seconds: duration of all checks.
    """

    findings: tuple[Finding, ...]
    images: Mapping[str, ImageArray]
    seconds: float

    @property
    def verdict(self) -> Verdict:
        """The worst verdict of all findings."""
        return worst(self.findings)

    def _repr_html_(self) -> str:
        """Return the findings as an HTML table, which notebooks show."""
        rows = [(f.verdict, f.check, f.measured, f.expected, f.advice) for f in self.findings]
        return html_table(("verdict", "check", "measured", "expected", "advice"), rows)

    def to_json(self) -> dict[str, object]:
        """Return the verdict, the duration and the findings as a dictionary that can be written as JSON."""
        return {
            "verdict": self.verdict,
            "seconds": round(self.seconds, 1),
            "findings": [finding.to_json() for finding in self.findings],
        }


class _ResultCollector:
    """Collects findings and images; reports each new finding and writes each new image at once.

    Args:
        out: folder for the images. None: no images are written.
        report: function that is called with each line of text.
    """

    def __init__(self, out: OutputFolder | None, report: Callable[[str], None]) -> None:
        self.findings: list[Finding] = []
        self.images: dict[str, ImageArray] = {}
        self.report = report
        self._out = out

    def add(self, *findings: Finding) -> None:
        """Add findings, and report them."""
        for finding in findings:
            self.findings.append(finding)
            self.report(str(finding))

    def add_image(self, name: str, image: ImageArray) -> None:
        """Add an image [H, W, 3], and write it to the folder under this file name, one of `_IMAGE_NAMES`."""
        assert name in _IMAGE_NAMES
        self.images[name] = image
        if self._out is not None:
            self._out.remove_earlier()
            with self._out.writing(name, Path(name).suffix) as part:
                write_image(part, image)

    def report_images(self) -> None:
        """Report the paths of all images that were written."""
        if self._out is not None:
            self.report(f"Inspect these images: {', '.join(str(self._out.path / name) for name in self.images)}")


@training_process()
def check(
    data: str | Path,
    config: Config | None = None,
    *,
    out: str | Path | None = None,
    split: str | None = None,
    report: Callable[[str], None] = log.info,
    overwrite: bool = False,
) -> CheckReport:
    """Run all checks of a dataset and of a planned training run on the CPU, and return a report.

    The checks are about the data, the untrained network, whether the network can learn, and the cost of the run.

    Args:
        data: the dataset; see `open_data`.
        config: settings of the planned training run. None: the default settings.
        out: folder for images to inspect. None: no images are written. The images of an earlier check are replaced.
        split: name of the training split; None: "train", or the only split of the dataset.
        report: function that is called with each line of the report, as soon as the line is known.
        overwrite: whether to replace files in the folder that this package did not write, or that were changed since.

    Raises:
        InputError: the data cannot be read, the folder cannot be written, or the network input is too small for "valid"
            padding.
    """
    with ExitStack() as stack:
        folder = None
        if out is not None:
            claimed = claim_folder(local_path(out), "checking", names=_IMAGE_NAMES, overwrite=overwrite)
            folder = stack.enter_context(claimed)
        return _check(data, config or Config(), _ResultCollector(folder, report), split)


def _check(data: str | Path, config: Config, results: _ResultCollector, split: str | None) -> CheckReport:
    """Run all checks, and return a report; the arguments and errors are those of `check`."""
    start, report = time.monotonic(), results.report
    config = without_resizing(config)
    if default_start(config) is not None:
        config = replace(config, spp=False)  # as in the weights from which training starts by default
    source = open_data(data, allow_outside=config.allow_outside, max_pixels=config.max_pixels)
    report(source.description)
    splits = _read_splits(source, split, config.val_fraction, report)
    for line in sum((read.ledger for read in splits), Ledger()).note_lines():
        report(line)
    check_loss(config, splits[0])
    input_hw = choose_input_size(config, splits[0].annotations)
    report(f"      checking the labels and {plural(sum(len(read.annotations) for read in splits), 'image')}")
    results.add(*diagnose_data(splits, input_hw, config))
    results.add_image("classes.jpg", class_examples(splits[0]))
    for name, sheet in example_sheets(splits[0]).items():
        results.add_image(name, sheet)

    image_count = len(splits[0].annotations)
    batch_size = choose_batch_size(config, image_count)
    sampled = _subset(splits[0], _MAX_IMAGES)
    dataset = DetectionDataset(sampled, input_hw, config)
    _run_sample_checks(sampled, dataset, results)
    for stage in input_stages(input_hw, config):
        for size in stage.sizes:
            check_padding(size, config)
    dtype = choose_precision(config.precision, torch.device("cpu"))
    report("      checking the network, and whether it learns: about a minute, more on a slow or busy machine")
    network = _run_network_checks(sampled, dataset, batch_size, results)
    _run_range_test(network, sampled, dataset, batch_size, dtype, results)
    results.add(_run_overfit_test(sampled, dataset, dtype, report))
    trainer = Trainer(network, config, torch.device("cpu"), dtype, image_count / batch_size)
    results.add(diagnose_cost(trainer, dataset, batch_size, config, image_count))
    results.report_images()
    return CheckReport(tuple(results.findings), results.images, time.monotonic() - start)


def _read_splits(
    source: DataSet, split_name: str | None, val_fraction: float, report: Callable[[str], None]
) -> list[Split]:
    """Read and return the training split, followed by the splits val and test, as `train` would use them.

    Without a val split, val is held back from the training images.

    Args:
        source: the dataset.
        split_name: name of the training split; None: "train", or the only split.
        val_fraction: fraction of the training images that is held back.
        report: function that is called with each line about the choice of the splits.
    """
    splits = read_training_splits(source, split_name, val_fraction)
    for line in (*splits.notes, *splits.warnings):
        report(line)
    name = choose_training_split(source, split_name)
    test = [source.read("test")] if "test" in source.split_names and name != "test" else []
    return [splits.train, *([splits.val] if splits.val else []), *test]


def _subset(split: Split, count: int) -> Split:
    """Return a copy of `split` with at most `count` images, which are evenly spaced in `split`."""
    if len(split.annotations) <= count:
        return split
    return replace(split, annotations=tuple(evenly_spaced(split.annotations, count)), ground_truth=None)


def _run_sample_checks(split: Split, dataset: DetectionDataset, results: _ResultCollector) -> None:
    """Run the checks of augmentation and preprocessing, and add their findings and an image to `results`."""
    results.add_image("augmentation.jpg", augmentation_examples(dataset, split.class_names))
    results.add(
        diagnose_augmentation(split.annotations, dataset.input_hw, dataset.config),
        diagnose_preprocessing(dataset, split),
    )


def _run_network_checks(
    split: Split, dataset: DetectionDataset, batch_size: int, results: _ResultCollector
) -> GridNetwork:
    """Create an untrained network, add the findings of its checks to `results`, and return the network."""
    config, input_hw = dataset.config, dataset.input_hw
    torch.manual_seed(config.seed)
    network = make_network(config, len(split.class_names), *dataset.color_statistics(), input_hw=input_hw)
    batch = training_batch(dataset, 0, batch_size, 1)
    results.add(diagnose_first_loss(network, batch, config))

    small = replace(config, first_input_size=1.0)
    small_dataset = DetectionDataset(_subset(split, 2), _with_long_side(input_hw, _GRADIENT_SIDE, config), small)
    results.add(diagnose_gradients(_for_input(network, small_dataset), training_batch(small_dataset, 0, 2, 1), config))

    def optimizer_step(trained: GridNetwork) -> None:
        clip_gradients(trained, config.clip_norm, config.clip_value)
        for optimizer in make_optimizers(trained, config):
            optimizer.step()

    layers = measure_signal(network, batch, config, optimizer_step)
    _report_signal(layers, results)
    results.add(*diagnose_signal(layers))
    return network


def _report_signal(layers: Sequence[LayerSignal], results: _ResultCollector) -> None:
    """Report the statistics of each layer as text, and add a chart of them to `results`."""
    activations, gradients = [layer.std for layer in layers], [layer.gradient for layer in layers]
    results.report(f"      activations per layer  {sparkline(activations)}")
    results.report(f"      gradients per layer    {sparkline(gradients)}")
    series = {
        "standard deviation of the activations": activations,
        "norm of the gradient": gradients,
        "relative change in one step": [layer.update for layer in layers],
    }
    chart = bar_chart("signal in each layer, before training", [layer.name for layer in layers], series)
    results.add_image("signal.png", chart)


def _run_range_test(
    network: GridNetwork,
    split: Split,
    dataset: DetectionDataset,
    batch_size: int,
    dtype: torch.dtype,
    results: _ResultCollector,
) -> None:
    """Run the learning rate range test on a copy of the network, and add a finding and a chart to `results`."""
    batch_size, config = min(batch_size, _RANGE_TEST_BATCH), dataset.config
    input_hw = _with_long_side(dataset.input_hw, min(max(dataset.input_hw), _RANGE_TEST_SIDE), config)
    small = DetectionDataset(_subset(split, _RANGE_TEST_IMAGES), input_hw, replace(config, first_input_size=1.0))
    batches = (training_batch(small, step, batch_size, 10**6) for step in itertools.count(0))
    progress = report_progress("learning rate range test", results.report)
    test = range_test(_for_input(network, small), batches, config, dtype, progress)
    marks = {"peak": test.peak, "suggested": test.suggested, "diverges": test.diverges}
    chart = line_chart("loss while the learning rate increases", test.rates, test.losses, marks)
    results.add_image("learning-rate.png", chart)
    results.add(diagnose_learning_rate(test))


def _run_overfit_test(
    split: Split, dataset: DetectionDataset, dtype: torch.dtype, report: Callable[[str], None]
) -> Finding:
    """Run the overfit test with a small network input, and return a finding."""
    input_hw = _with_long_side(dataset.input_hw, min(max(dataset.input_hw), _OVERFIT_SIDE), dataset.config)
    progress = report_progress("overfit test", report)
    return diagnose_overfitting(overfit_test(split, dataset.config, input_hw, dtype, progress=progress))


def _for_input(network: GridNetwork, dataset: DetectionDataset) -> GridNetwork:
    """Return `network`, or if it does not accept the input size of `dataset`, a new network for this size."""
    if not dataset.config.has_fixed_input:
        return network
    statistics = dataset.color_statistics()
    return make_network(dataset.config, network.class_count, *statistics, input_hw=dataset.input_hw)


def _with_long_side(input_hw: tuple[int, int], long_side: int, config: ArchitectureConfig) -> tuple[int, int]:
    """Return an input size whose longer side is `long_side`, with the aspect of `input_hw`.

    With "valid" padding, which needs a large input, `input_hw` is returned unchanged; see `check_padding`.
    """
    return input_hw_for_aspect(long_side, input_hw[1] / input_hw[0]) if config.padding == "same" else input_hw
