"""Whether anything can be learned: the same pictures both ways, a few by heart, the learning rate, the cost."""

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
from detector.config import PLANNING_STEPS, Config
from detector.data.split import Split, evenly
from detector.diagnose.finding import Finding, Verdict
from detector.evaluating.evaluate import detect_canvases, score_split
from detector.images import read_image
from detector.letterbox import Letterbox, lay_on_canvas
from detector.loader.batch import Batch, collate
from detector.loader.dataset import DetectionDataset
from detector.loader.input_size import canvas_at
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
"""Grey levels by which two ways of shrinking a picture may differ on the average."""

_LEARNED = 0.9
_BY_HEART_STEPS = 400
_BY_HEART_EVERY = 50
_FALLING = 0.8
"""Share of its first value below which the loss has begun to fall, on a machine too slow for more."""

_LOWEST_RATE, _HIGHEST_RATE = 1e-3, 30.0
"""Range of the learning-rate test, as multiples of the peak of the settings."""

_RATE_STEPS = 60
_DIVERGED = 3.0
_FALLS = 0.1
"""Share by which the loss must fall somewhere for a rate to be suggested."""


def still(config: Config) -> Config:
    """Return the settings without chance, regularisation and growth of the canvas."""
    return replace(
        config, first_canvas=1.0, ema=0.0, weight_decay=0.0, l1=0.0, l2=0.0, max_norm=0.0, dropout=0.0,
        mirror=0.0, mirror_vertical=0.0, scale=(1.0, 1.0), shift=0.0, rotate=0.0, crop=0.0, colour_gain=0.0,
        brightness=0.0, hue=0.0, saturation=0.0, value=0.0, pca_colour=0.0, style_shift=0.0, copy_paste=0.0,
        mixup=0.0, mosaic=0.0,
    )  # fmt: skip


def check_same_pictures(dataset: DetectionDataset, split: Split) -> Finding:
    """Compare what training sees, augmentation aside, with what detection makes of the same files."""
    differences, swapped = [], []
    plain = still(dataset.config)
    for index in evenly(range(len(dataset)), 12):
        annotation = dataset.annotations[index]
        seen = augment(dataset.sample(index), dataset.canvas_hw, plain, np.random.default_rng(0)).image
        _, canvas = lay_on_canvas(_as_detect_reads(annotation, split), dataset.canvas_hw)
        differences.append(float(np.abs(seen.astype(np.int16) - canvas).mean()))
        swapped.append(float(np.abs(seen[..., ::-1].astype(np.int16) - canvas).mean()))
    difference, turned = median(differences), median(swapped)
    measured = f"{difference:.1f} grey levels apart"
    expected = f"at most {_SAME_WITHIN:g}"
    name = "pictures: training against detection"
    if difference > 2 * turned + 1:
        measured += f", {turned:.1f} with red and blue swapped"
        return Finding(name, "stop", measured, expected, "One of the two reads BGR for RGB.")
    if difference > _SAME_WITHIN:
        advice = "Training and detection do not see the same picture: look at how each reads and scales it."
        return Finding(name, "stop", measured, expected, advice)
    return Finding(name, "ok", measured, expected)


def _as_detect_reads(annotation: Annotation, split: Split) -> ImageArray:
    """Read a picture as `detect` does; the built-in set has no files."""
    return read_image(annotation.image_path) if annotation.image_path.is_file() else split.read_image(annotation)


def check_by_heart(
    split: Split, config: Config, canvas_hw: tuple[int, int], dtype: torch.dtype, seconds: float
) -> Finding:
    """Learn a few pictures by heart, without augmentation and regularisation, and find their objects by `Detector`.

    Args:
        split: the pictures with the largest objects are taken from it.
        config: network, loss and optimizer.
        canvas_hw: to learn on.
        dtype: arithmetic of the network.
        seconds: time limit.
    """
    few = _pictures_with_large_objects(split, canvas_hw)
    expected = f"AP50 above {_LEARNED} within {seconds:.0f} s"
    if not few:
        return Finding("learning: by heart", "look", "no picture with objects to learn", expected)
    plain = still(replace(config, minutes=None, epochs=None, steps=_BY_HEART_STEPS, lr_schedule="linear", patience=0))
    own = replace(split, annotations=tuple(few), ground_truth=None)
    dataset = DetectionDataset(own, canvas_hw, plain)
    network = GridNetwork(plain, len(split.class_names), *dataset.colour_statistics())
    trainer = Trainer(network, plain, torch.device("cpu"), dtype)
    info = WeightsInfo(plain.model, split.class_names, split.category_ids, canvas_hw, asdict(plain), {})
    read = [(annotation, *lay_on_canvas(_as_detect_reads(annotation, own), canvas_hw)) for annotation in few]
    rng = np.random.default_rng(0)
    batch = collate([augment(dataset.sample(index), canvas_hw, plain, rng) for index in range(len(dataset))])
    first = last = math.nan
    started, best = time.monotonic(), -1.0
    step = 0
    try:
        for step in range(_BY_HEART_STEPS):
            last = float(trainer.step(step, _BY_HEART_STEPS, batch).total)
            first = last if step == 0 else first
            out_of_time = time.monotonic() - started > seconds
            if (step + 1) % _BY_HEART_EVERY == 0 or out_of_time:
                detector = Detector(TorchRuntime(trainer.average.network, canvas_hw, torch.device("cpu")), info)
                best = max(best, score_split(own, detect_canvases(detector, read)).AP50)
            if best > _LEARNED or out_of_time:
                break
    except NonFiniteLossError:
        advice = "The loss became infinite on a handful of pictures: a much lower lr, or norm=batch."
        return Finding("learning: by heart", "stop", f"not finite at step {step}", expected, advice)
    measured = (
        f"AP50 {best:.2f} on {len(few)} pictures after {step + 1} steps, {time.monotonic() - started:.0f} s; "
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
    too_short = step < _BY_HEART_STEPS / 2 and falls
    if too_short:
        advice = f"Only {step + 1} steps were possible in the time: too few to tell."
    # With tiny objects there may just not have been the time.
    verdict: Verdict = "look" if best > _LEARNED / 2 or too_short else "stop"
    return Finding("learning: by heart", verdict, measured, expected, advice)


def _pictures_with_large_objects(split: Split, canvas_hw: tuple[int, int], count: int = 4) -> list[Annotation]:
    """Return the pictures whose smallest object is largest on the canvas, at most a dozen objects in each."""

    def smallest(annotation: Annotation) -> float:
        boxes = Letterbox.fit(annotation.image_hw, canvas_hw).to_canvas(annotation.boxes)
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
        loss = detection_loss(predictions, batch, config, least_quality=0.1).total
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
    trainer: Trainer, dataset: DetectionDataset, batch_size: int, config: Config, picture_count: int
) -> Finding:
    """Time a few steps on the first and the full canvas and say what the whole run will take.

    Args:
        trainer: is trained a little.
        dataset: of some of the pictures.
        batch_size: pictures per step.
        config: length of the run.
        picture_count: pictures of the whole split.
    """
    times: dict[tuple[int, int], list[float]] = {}
    tick = time.monotonic()
    for step, batch in training_batches(dataset, batch_size, PLANNING_STEPS, 0, PLANNING_STEPS):
        trainer.step(step, PLANNING_STEPS, batch)
        canvas_hw = canvas_at(dataset.canvas_hw, step, PLANNING_STEPS, config)
        times.setdefault(canvas_hw, []).append(time.monotonic() - tick)
        tick = time.monotonic()
    small, large = (median(times[canvas_at(dataset.canvas_hw, step, PLANNING_STEPS, config)][2:])
                    for step in (0, PLANNING_STEPS - 1))  # fmt: skip
    seconds = mean_step_seconds(small, large, dataset.canvas_hw, config)
    per_epoch = picture_count / batch_size
    steps = config.steps or (config.epochs and config.epochs * per_epoch)
    minutes = config.minutes or (steps * seconds / 60 if steps else 10.0)
    steps = steps or minutes * 60 / seconds
    held = dataset.picture_bytes * picture_count / max(1, len(dataset))
    free = available_memory()
    measured = (
        f"{minutes:.1f} minutes for {steps:.0f} steps, {steps / per_epoch:.1f} epochs; {batch_size / seconds:.0f} "
        f"pictures a second; {held / 1e9:.2f} GB of decoded pictures, {free / 1e9:.1f} GB of memory free"
    )
    expected = "at least 3 epochs, and pictures that fit into half of the free memory"
    if steps / per_epoch < 3:
        advice = "Too short to see every picture three times: more minutes, a smaller model, or a smaller --imgsz."
        return Finding("cost: the whole run", "look", measured, expected, advice)
    if held > free / 2:
        advice = "The pictures will be read anew each time, which is slower: more memory, or a smaller --imgsz."
        return Finding("cost: the whole run", "look", measured, expected, advice)
    return Finding("cost: the whole run", "ok", measured, expected)
