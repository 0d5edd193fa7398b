"""The overfit test: a network that cannot overfit a few images cannot learn the whole data set."""

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
"""Largest number of training steps."""

_STEPS_PER_EVALUATION = 50
"""Number of training steps between two evaluations."""

_IMAGE_COUNT = 4
"""Number of images to overfit."""

_MAX_OBJECTS = 12
"""Images with at most this many objects are preferred."""

_MIN_AP50 = 0.9
"""The network has learned the images if its AP50 is above this value."""

_MAX_LOSS_RATIO = 0.8
"""The loss decreases if the last loss is below this fraction of the first loss.

The verdict uses this limit if the machine is too slow to learn the images in time.
"""


@dataclass(frozen=True)
class OverfitTest:
    """Result of the overfit test: losses, best AP50 and duration.

    Attributes:
        image_count: number of images; 0 if no image has objects.
        losses: loss of each step. A loss that is not finite ends the test, and the last value is then infinite.
        AP50: best AP50 on the training images, 0..1; -1 if there was no evaluation.
        seconds: duration of the test.
        time_limit: time limit of the test, in seconds.
    """

    image_count: int
    losses: Sequence[float]
    AP50: float
    seconds: float
    time_limit: float


def overfit_test(
    split: Split, config: Config, input_hw: tuple[int, int], dtype: torch.dtype, seconds: float, steps: int = _STEPS
) -> OverfitTest:
    """Train a new network on up to 4 images until it detects their objects, and return the losses and the AP50.

    Training has no augmentation and no regularization. The network is trained on samples of the dataset, as in a
    training run. A `Detector` evaluates the network on the image files, so that the test also finds differences between
    samples and files.

    Args:
        split: the split; the test uses its images with the largest objects.
        config: settings of the network, the loss and the optimizer.
        input_hw: height and width of the network input, in pixels.
        dtype: floating-point type of the forward pass.
        seconds: time limit, in seconds.
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
        if best > _MIN_AP50 or out_of_time:
            break
    return OverfitTest(len(images), losses, best, time.monotonic() - start, seconds)


class _Evaluation:
    """Evaluates the EMA weights of a trainer on the image files of a split.

    Args:
        trainer: the trainer, which updates its EMA weights in each step.
        split: the images and their objects.
        config: settings of the network.
        input_hw: height and width of the network input, in pixels.
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
        """Return the AP50 of the current EMA weights, 0..1."""
        runtime = TorchRuntime(self._network, self._info.input_hw, torch.device("cpu"))
        found = detect_letterboxed_split(Detector(runtime, self._info), self._images)
        return score_split(self._split, found).AP50


def _images_with_large_objects(split: Split, input_hw: tuple[int, int]) -> list[Annotation]:
    """Return the annotations of up to 4 images whose smallest object is as large as possible in the network input.

    Images without objects or with crowd regions are not used. Images with few objects are preferred.
    """

    def smallest_side(annotation: Annotation) -> float:
        """Return the shortest side of all boxes of an image, in pixels of the network input."""
        boxes = Letterbox.fit(annotation.image_hw, input_hw).to_input(annotation.boxes)
        return float((boxes[:, 2:] - boxes[:, :2]).min())

    usable = [a for a in split.annotations if len(a.boxes) and not a.is_crowd.any()]
    sparse = [a for a in usable if len(a.boxes) <= _MAX_OBJECTS] or usable
    return sorted(sparse, key=smallest_side, reverse=True)[:_IMAGE_COUNT]


def _unaugmented_batch(dataset: DetectionDataset, config: Config) -> Batch:
    """Return all samples of a dataset as one batch; in `config`, augmentation must be turned off."""
    rng = np.random.default_rng(0)
    return collate([augment(dataset.sample(index), dataset.input_hw, config, rng) for index in range(len(dataset))])


def diagnose_overfitting(test: OverfitTest) -> Finding:
    """Check that the network learned the images of the overfit test, and return a finding."""
    check = "learning: overfit test"
    expected = f"AP50 above {_MIN_AP50} within {test.time_limit:.0f} s"
    if not test.image_count:
        advice = "Label objects: without objects, a network has nothing to learn."
        return Finding(check, "look", "no image has objects", expected, advice)
    steps = len(test.losses)
    first, last = test.losses[0], test.losses[-1]
    if not math.isfinite(last):
        advice = "The loss became infinite on a few images: use a much lower lr, or norm=batch."
        return Finding(check, "stop", f"the loss is not finite at step {steps - 1}", expected, advice)
    measured = (
        f"AP50 {test.AP50:.2f} on {test.image_count} images after {steps} steps ({test.seconds:.0f} s); "
        f"the loss changed from {first:.2f} to {last:.2f}"
    )
    if test.AP50 > _MIN_AP50:
        return Finding(check, "ok", measured, expected)
    decreases = last < _MAX_LOSS_RATIO * first
    if decreases and steps < _STEPS / 2:
        # With tiny objects, the only cause may be the lack of time.
        advice = f"The time limit allowed only {steps} steps, too few to decide whether the network can learn."
        return Finding(check, "look", measured, expected, advice)
    advice = "A network that cannot overfit a few images cannot learn the data set. "
    if decreases:
        advice += (
            "The loss decreases, but the detections do not match the label files: find out where the data loader or "
            "the detector changes images, boxes or classes."
        )
    else:
        advice += (
            "The loss does not decrease. Possible causes: a wrong sign in the loss, a frozen layer, a wrong learning "
            "rate, or random labels."
        )
    verdict: Verdict = "look" if test.AP50 > _MIN_AP50 / 2 else "stop"
    return Finding(check, verdict, measured, expected, advice)
