"""Whether anything can be learned: the same images both ways, a few by heart, the learning rate, the cost."""

import copy
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import median

import numpy as np
import torch

from detector.annotation import Annotation
from detector.arrays import ImageArray
from detector.augment.pipeline import augment
from detector.config import PLANNING_STEPS, Config, turned_off
from detector.data.split import Split, evenly_spaced
from detector.diagnose.finding import Finding, Verdict
from detector.evaluating.evaluate import detect_letterboxed, score_split
from detector.images import read_image
from detector.letterbox import Letterbox, letterbox_image
from detector.loader.batch import Batch, collate
from detector.loader.dataset import DetectionDataset
from detector.loader.input_size import input_size_at
from detector.loader.loader import training_batches
from detector.loss.criterion import detection_loss
from detector.memory import available_memory
from detector.model.network import GridNetwork
from detector.predict.detector import Detector
from detector.runtime.pytorch import TorchRuntime
from detector.training.optimizer import clip_gradients, make_optimizers
from detector.training.time_budget import mean_step_seconds
from detector.training.trainer import NonFiniteLossError, Trainer
from detector.weights_info import WeightsInfo

_SAME_WITHIN = 8.0
"""Gray levels by which two ways of shrinking an image may differ on the average."""

_LEARNED = 0.9
_OVERFIT_STEPS = 400
_OVERFIT_EVERY = 50
_FALLING = 0.8
"""Share of its first value below which the loss has begun to fall, on a machine too slow for more."""

_LOWEST_RATE, _HIGHEST_RATE = 1e-3, 30.0
"""Range of the learning-rate test, as multiples of the peak of the settings."""

_RATE_STEPS = 60
_DIVERGED = 3.0
_FALLS = 0.1
"""Share by which the loss must fall somewhere for a rate to be suggested."""


def diagnose_preprocessing(dataset: DetectionDataset, split: Split) -> Finding:
    """Compare what training sees, augmentation aside, with what detection makes of the same files."""
    differences, swapped = [], []
    plain = turned_off(dataset.config)
    for index in evenly_spaced(range(len(dataset)), 12):
        annotation = dataset.annotations[index]
        seen = augment(dataset.sample(index), dataset.input_hw, plain, np.random.default_rng(0)).image
        _, letterboxed = letterbox_image(_as_detect_reads(annotation, split), dataset.input_hw)
        differences.append(float(np.abs(seen.astype(np.int16) - letterboxed).mean()))
        swapped.append(float(np.abs(seen[..., ::-1].astype(np.int16) - letterboxed).mean()))
    difference, turned = median(differences), median(swapped)
    measured = f"{difference:.1f} gray levels apart"
    expected = f"at most {_SAME_WITHIN:g}"
    name = "images: training against detection"
    if difference > 2 * turned + 1:
        measured += f", {turned:.1f} with red and blue swapped"
        return Finding(name, "stop", measured, expected, "One of the two reads BGR for RGB.")
    if difference > _SAME_WITHIN:
        advice = "Training and detection do not see the same image: look at how each reads and scales it."
        return Finding(name, "stop", measured, expected, advice)
    return Finding(name, "ok", measured, expected)


def _as_detect_reads(annotation: Annotation, split: Split) -> ImageArray:
    """Read an image as `detect` does; the built-in set has no files."""
    return read_image(annotation.image_path) if annotation.image_path.is_file() else split.read_image(annotation)


def overfit_test(
    split: Split, config: Config, input_hw: tuple[int, int], dtype: torch.dtype, seconds: float
) -> Finding:
    """Learn a few images by heart, without augmentation and regularization, and find their objects by `Detector`.

    Args:
        split: the images with the largest objects are taken from it.
        config: network, loss and optimizer.
        input_hw: to learn on.
        dtype: arithmetic of the network.
        seconds: time limit.
    """
    few = _images_with_large_objects(split, input_hw)
    expected = f"AP50 above {_LEARNED} within {seconds:.0f} s"
    if not few:
        return Finding("learning: by heart", "look", "no image with objects to learn", expected)
    plain = turned_off(
        replace(config, minutes=None, epochs=None, steps=_OVERFIT_STEPS, lr_schedule="linear", patience=0)
    )
    own = replace(split, annotations=tuple(few), ground_truth=None)
    dataset = DetectionDataset(own, input_hw, plain)
    network = GridNetwork(plain, len(split.class_names), *dataset.color_statistics())
    trainer = Trainer(network, plain, torch.device("cpu"), dtype)
    info = WeightsInfo(plain.model, split.class_names, split.category_ids, input_hw, asdict(plain), {})
    read = [(annotation, *letterbox_image(_as_detect_reads(annotation, own), input_hw)) for annotation in few]
    rng = np.random.default_rng(0)
    batch = collate([augment(dataset.sample(index), input_hw, plain, rng) for index in range(len(dataset))])
    first = last = math.nan
    started, best = time.monotonic(), -1.0
    step = 0
    try:
        for step in range(_OVERFIT_STEPS):
            last = float(trainer.step(step, _OVERFIT_STEPS, batch).total)
            first = last if step == 0 else first
            out_of_time = time.monotonic() - started > seconds
            if (step + 1) % _OVERFIT_EVERY == 0 or out_of_time:
                detector = Detector(TorchRuntime(trainer.average.network, input_hw, torch.device("cpu")), info)
                best = max(best, score_split(own, detect_letterboxed(detector, read)).AP50)
            if best > _LEARNED or out_of_time:
                break
    except NonFiniteLossError:
        advice = "The loss became infinite on a handful of images: a much lower lr, or norm=batch."
        return Finding("learning: by heart", "stop", f"not finite at step {step}", expected, advice)
    measured = (
        f"AP50 {best:.2f} on {len(few)} images after {step + 1} steps, {time.monotonic() - started:.0f} s; "
        f"loss {first:.2f} to {last:.2f}"
    )
    if best > _LEARNED:
        return Finding("learning: by heart", "ok", measured, expected)
    advice = "What cannot be learned by heart cannot be learned: "
    falls = last < _FALLING * first
    if falls:
        advice += (
            "the loss falls, but what is found is not what the files say: boxes or classes are altered on the way."
        )
    else:
        advice += "the loss does not fall: a wrong sign, a frozen layer, a learning rate far off, or labels at random."
    too_short = step < _OVERFIT_STEPS / 2 and falls
    if too_short:
        advice = f"Only {step + 1} steps were possible in the time: too few to tell."
    # With tiny objects there may just not have been the time.
    verdict: Verdict = "look" if best > _LEARNED / 2 or too_short else "stop"
    return Finding("learning: by heart", verdict, measured, expected, advice)


def _images_with_large_objects(split: Split, input_hw: tuple[int, int], count: int = 4) -> list[Annotation]:
    """Return the images whose smallest object is largest on the canvas, at most a dozen objects in each."""

    def smallest(annotation: Annotation) -> float:
        boxes = Letterbox.fit(annotation.image_hw, input_hw).to_input(annotation.boxes)
        return float((boxes[:, 2:] - boxes[:, :2]).min())

    usable = [a for a in split.annotations if len(a.boxes) and not a.is_crowd.any()]
    sparse = [a for a in usable if len(a.boxes) <= 12] or usable
    return sorted(sparse, key=smallest, reverse=True)[:count]


@dataclass(frozen=True)
class RangeTest:
    """Losses while the learning rate grows from step to step.

    Attributes:
        rates: of the steps.
        losses: smoothed, as many.
        peak: of the settings.
        suggested: a tenth of the rate at which the loss was lowest.
        diverges: rate at which the loss had grown to three times its lowest; infinite if it never did.
    """

    rates: Sequence[float]
    losses: Sequence[float]
    peak: float
    suggested: float
    diverges: float


def range_test(
    network: GridNetwork, batches: Iterator[Batch], config: Config, dtype: torch.dtype, seconds: float
) -> RangeTest:
    """Train a copy with a learning rate that grows tenfold every dozen steps, until the loss explodes.

    Source: Smith, Cyclical Learning Rates for Training Neural Networks, 2017, section 3.3.
    """
    network = copy.deepcopy(network).train()
    optimizers = make_optimizers(network, config)
    peak = float(optimizers[0].param_groups[0]["peak_lr"])
    factors = np.geomspace(_LOWEST_RATE, _HIGHEST_RATE, _RATE_STEPS)
    rates, losses, smooth = [], [], 0.0
    started = time.monotonic()
    diverges = math.inf
    for index, factor in enumerate(factors):
        for optimizer in optimizers:
            optimizer.zero_grad()
            for group in optimizer.param_groups:
                group["lr"] = group["peak_lr"] * factor
        batch = next(batches)
        with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
            predictions = network(batch.images)
        loss = detection_loss(predictions, batch, config, min_quality=0.1).total
        smooth = 0.8 * smooth + 0.2 * float(loss.detach())
        rates.append(peak * float(factor))
        losses.append(smooth / (1 - 0.8 ** (index + 1)))
        if not math.isfinite(losses[-1]) or losses[-1] > _DIVERGED * min(losses):
            diverges = rates[-1]
            break
        if time.monotonic() - started > seconds:
            break
        loss.backward()  # type: ignore[no-untyped-call]
        clip_gradients(network, config.clip_norm, config.clip_value)
        for optimizer in optimizers:
            optimizer.step()
    finite = [value if math.isfinite(value) else math.inf for value in losses]
    return RangeTest(rates, finite, peak, rates[int(np.argmin(finite))] / 10, diverges)


def check_rate(test: RangeTest) -> Finding:
    """Judge the learning rate of the settings by the range test."""
    measured = f"peak {test.peak:g}; suggested about {test.suggested:.2g}"
    measured += f", diverges from {test.diverges:.2g}" if math.isfinite(test.diverges) else ", no divergence seen"
    expected = "a peak below divergence and within a factor of 10 of what is suggested"
    verdict: Verdict = "ok"
    advice = ""
    if test.losses[0] - min(test.losses) < _FALLS * test.losses[0]:
        # What is lowest by chance suggests nothing.
        reached = f"up to {test.rates[-1]:.2g} in {len(test.rates)} steps"
        if test.peak < test.diverges:
            advice = "Too few steps, or batches too unlike, to suggest a rate."
            return Finding("learning: learning rate", "look", f"the loss hardly fell, {reached}", expected, advice)
        return Finding("learning: learning rate", "stop", measured, expected, "The loss explodes at this rate.")
    if test.peak >= test.diverges or test.peak > 100 * test.suggested:
        verdict, advice = "stop", f"The loss explodes at this rate: --set lr={test.suggested:.2g}."
    elif not test.suggested / 10 <= test.peak <= test.suggested * 10:
        verdict, advice = "look", f"Try --set lr={test.suggested:.2g}."
    return Finding("learning: learning rate", verdict, measured, expected, advice)


def check_cost(
    trainer: Trainer, dataset: DetectionDataset, batch_size: int, config: Config, image_count: int
) -> Finding:
    """Time a few steps on the first and the full canvas and say what the whole run will take.

    Args:
        trainer: is trained a little.
        dataset: of some of the images.
        batch_size: images per step.
        config: length of the run.
        image_count: images of the whole split.
    """
    times: dict[tuple[int, int], list[float]] = {}
    tick = time.monotonic()
    for step, batch in training_batches(dataset, batch_size, PLANNING_STEPS, 0, PLANNING_STEPS):
        trainer.step(step, PLANNING_STEPS, batch)
        input_hw = input_size_at(dataset.input_hw, step, PLANNING_STEPS, config)
        times.setdefault(input_hw, []).append(time.monotonic() - tick)
        tick = time.monotonic()
    small, large = (median(times[input_size_at(dataset.input_hw, step, PLANNING_STEPS, config)][2:])
                    for step in (0, PLANNING_STEPS - 1))  # fmt: skip
    seconds = mean_step_seconds(small, large, dataset.input_hw, config)
    per_epoch = image_count / batch_size
    steps = config.steps or (config.epochs and config.epochs * per_epoch)
    minutes = config.minutes or (steps * seconds / 60 if steps else 10.0)
    steps = steps or minutes * 60 / seconds
    held = dataset.image_bytes * image_count / max(1, len(dataset))
    free = available_memory()
    measured = (
        f"{minutes:.1f} minutes for {steps:.0f} steps, {steps / per_epoch:.1f} epochs; {batch_size / seconds:.0f} "
        f"images a second; {held / 1e9:.2f} GB of decoded images, {free / 1e9:.1f} GB of memory free"
    )
    expected = "at least 3 epochs, and images that fit into half of the free memory"
    if steps / per_epoch < 3:
        advice = "Too short to see every image three times: more minutes, a smaller model, or a smaller --imgsz."
        return Finding("cost: the whole run", "look", measured, expected, advice)
    if held > free / 2:
        advice = "The images will be read anew each time, which is slower: more memory, or a smaller --imgsz."
        return Finding("cost: the whole run", "look", measured, expected, advice)
    return Finding("cost: the whole run", "ok", measured, expected)
