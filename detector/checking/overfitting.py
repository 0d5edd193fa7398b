"""The overfit test: a network that cannot overfit a few images cannot learn the data set."""

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch

from detector.annotation import Annotation
from detector.augment.pipeline import augment
from detector.config import Config, turned_off
from detector.data.split import Split
from detector.diagnose.finding import Finding, Verdict
from detector.diagnose.preprocessing import read_as_detection
from detector.evaluating.evaluate import LetterboxedImage, detect_letterboxed_split, score_split
from detector.letterbox import Letterbox, letterbox_image
from detector.loader.batch import Batch, collate
from detector.loader.dataset import DetectionDataset
from detector.model.make_network import make_network
from detector.predict.detector import Detector
from detector.runtime.pytorch import TorchRuntime
from detector.training.trainer import NonFiniteLossError, Trainer
from detector.weights_info import WeightsInfo

_STEPS = 400
_STEPS_PER_EVALUATION = 50
_IMAGES = 4
_FEW_OBJECTS = 12
"""Images with at most so many objects are preferred."""

_OVERFITTED = 0.9
"""AP50 above which the images count as learned."""

_DECREASED = 0.8
"""The loss counts as decreasing below this fraction of its first value, on a machine too slow to learn the images."""


@dataclass(frozen=True)
class OverfitTest:
    """Result of the overfit test.

    Attributes:
        image_count: number of images; 0 if none has objects.
        losses: loss of each step; the last one is infinite if the loss was not finite, which ends the test.
        AP50: best AP50 on the same images, 0..1; -1 if never evaluated.
        seconds: duration.
        time_limit: seconds after which the test ends.
    """

    image_count: int
    losses: Sequence[float]
    AP50: float
    seconds: float
    time_limit: float


def overfit_test(
    split: Split, config: Config, input_hw: tuple[int, int], dtype: torch.dtype, seconds: float, steps: int = _STEPS
) -> OverfitTest:
    """Train a new network on a few images until it finds their objects, without augmentation and regularization.

    The network is trained on the images that the data loader gives, and evaluated by a `Detector` on the files.

    Args:
        split: the images with the largest objects are used.
        config: network, loss and optimizer.
        input_hw: height and width of the network input.
        dtype: floating-point type of the forward pass.
        seconds: time limit.
        steps: largest number of training steps.
    """
    images = _images_with_large_objects(split, input_hw)
    if not images:
        return OverfitTest(0, [], -1.0, 0.0, seconds)
    split = replace(split, annotations=tuple(images), ground_truth=None)
    config = turned_off(replace(config, minutes=None, epochs=None, steps=steps, lr_schedule="linear", patience=0))
    dataset = DetectionDataset(split, input_hw, config)
    network = make_network(config, len(split.class_names), *dataset.color_statistics())
    trainer = Trainer(network, config, torch.device("cpu"), dtype)
    evaluation = _Evaluation(trainer, split, config, input_hw)
    batch = _unaugmented_batch(dataset, config)
    start, best = time.monotonic(), -1.0
    losses: list[float] = []
    for step in range(steps):
        try:
            losses.append(float(trainer.step(step, steps, batch).total))
        except NonFiniteLossError:
            losses.append(math.inf)
            break
        out_of_time = time.monotonic() - start > seconds
        if (step + 1) % _STEPS_PER_EVALUATION == 0 or step + 1 == steps or out_of_time:
            best = max(best, evaluation.AP50())
        if best > _OVERFITTED or out_of_time:
            break
    return OverfitTest(len(images), losses, best, time.monotonic() - start, seconds)


class _Evaluation:
    """Evaluates the averaged weights of a trainer on the image files of a split.

    Args:
        trainer: trains the network.
        split: the images.
        config: settings of the network.
        input_hw: height and width of the network input.
    """

    def __init__(self, trainer: Trainer, split: Split, config: Config, input_hw: tuple[int, int]) -> None:
        self._network = trainer.ema.network
        self._split = split
        self._info = WeightsInfo(config.model, split.class_names, split.category_ids, input_hw, asdict(config), {})
        self._images = [
            LetterboxedImage(annotation, *letterbox_image(read_as_detection(annotation, split), input_hw))
            for annotation in split.annotations
        ]

    def AP50(self) -> float:  # noqa: N802
        """Return the AP50, 0..1."""
        runtime = TorchRuntime(self._network, self._info.input_hw, torch.device("cpu"))
        found = detect_letterboxed_split(Detector(runtime, self._info), self._images)
        return score_split(self._split, found).AP50


def _images_with_large_objects(split: Split, input_hw: tuple[int, int]) -> list[Annotation]:
    """Return the images whose smallest object is largest in the network input."""

    def smallest_side(annotation: Annotation) -> float:
        boxes = Letterbox.fit(annotation.image_hw, input_hw).to_input(annotation.boxes)
        return float((boxes[:, 2:] - boxes[:, :2]).min())

    usable = [a for a in split.annotations if len(a.boxes) and not a.is_crowd.any()]
    sparse = [a for a in usable if len(a.boxes) <= _FEW_OBJECTS] or usable
    return sorted(sparse, key=smallest_side, reverse=True)[:_IMAGES]


def _unaugmented_batch(dataset: DetectionDataset, config: Config) -> Batch:
    """Return all images of a dataset as one batch; `config` has augmentation turned off."""
    rng = np.random.default_rng(0)
    return collate([augment(dataset.sample(index), dataset.input_hw, config, rng) for index in range(len(dataset))])


def diagnose_overfitting(test: OverfitTest) -> Finding:
    """Check that the network learned the images of the overfit test."""
    check = "learning: overfit test"
    expected = f"AP50 above {_OVERFITTED} within {test.time_limit:.0f} s"
    if not test.image_count:
        advice = "Add labeled objects; without them there is nothing to learn."
        return Finding(check, "look", "no image with objects", expected, advice)
    steps = len(test.losses)
    first, last = test.losses[0], test.losses[-1]
    if not math.isfinite(last):
        advice = "The loss became infinite on a few images: use a much lower lr, or norm=batch."
        return Finding(check, "stop", f"loss not finite at step {steps - 1}", expected, advice)
    measured = (
        f"AP50 {test.AP50:.2f} on {test.image_count} images after {steps} steps, {test.seconds:.0f} s; "
        f"loss {first:.2f} to {last:.2f}"
    )
    if test.AP50 > _OVERFITTED:
        return Finding(check, "ok", measured, expected)
    decreases = last < _DECREASED * first
    if decreases and steps < _STEPS / 2:
        # With tiny objects it may only be the lack of time.
        advice = f"The time was enough for {steps} steps only: too few to decide."
        return Finding(check, "look", measured, expected, advice)
    advice = "A network that cannot overfit a few images cannot learn the data set. "
    if decreases:
        advice += (
            "The loss decreases, but the detections do not match the label files: boxes or classes are changed on "
            "the way."
        )
    else:
        advice += "The loss does not decrease: a wrong sign, a frozen layer, a wrong learning rate, or random labels."
    verdict: Verdict = "look" if test.AP50 > _OVERFITTED / 2 else "stop"
    return Finding(check, verdict, measured, expected, advice)
