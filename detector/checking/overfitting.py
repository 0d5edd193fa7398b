"""The overfit test: a network that cannot overfit a few images cannot learn the whole dataset."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch

from detector.annotation import Annotation
from detector.arrays import ImageArray
from detector.augment.pipeline import augment
from detector.boxes import area
from detector.checking.progress import Progress, no_progress
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
from detector.wording import plural

_STEPS = 400
"""Largest number of training steps. Measured: correct data needs 25 to 150. Only steps end the test, never time."""

_STEPS_PER_EVALUATION = 25
"""Number of training steps between two evaluations."""

_IMAGE_COUNT = 4
"""Number of images to overfit."""

_MAX_OBJECTS = 12
"""Images with at most this many objects are preferred."""

_SMALL_OBJECT, _CLEAR_OBJECT = 16.0, 32.0
"""If the median object of an image is smaller than the first side in the network input, in pixels, the test uses a part
of the image, in which an object has the second side: tiny objects are hard to learn in few steps, but no fault."""

_MIN_VISIBLE = 0.5
"""A box counts as an object of a part of an image if at least this fraction of its area is in that part."""

_MIN_AP50 = 0.9
"""The network has learned the images if its AP50 is above this value."""

_IMPROVING_AP50 = 0.6
"""If the AP50 is above this value and still rises, the network can learn the images; it only needs more steps."""

_FAILED_AP50 = 0.3
"""Below this value, the detections do not match the labels."""

_MAX_LOSS_RATIO = 0.8
"""The loss decreases if the last loss is below this fraction of the first loss."""


@dataclass(frozen=True)
class OverfitTest:
    """Result of the overfit test: the losses and the AP50 on the training images.

    Attributes:
        image_count: number of images; 0 if no image has objects.
        losses: loss of each step. A loss that is not finite ends the test, and the last value is then infinite.
        scores: AP50 of each evaluation, 0..1.
    """

    image_count: int
    losses: Sequence[float]
    scores: Sequence[float]

    @property
    def AP50(self) -> float:  # noqa: N802
        """Best AP50 on the training images, 0..1; -1 if there was no evaluation."""
        return max(self.scores, default=-1.0)

    @property
    def is_improving(self) -> bool:
        """True if the best AP50 of the last third of the evaluations is better than all AP50 before."""
        late = max(1, len(self.scores) // 3)
        return max(self.scores[-late:], default=-1.0) > max(self.scores[:-late], default=-1.0)


@dataclass(frozen=True)
class _Part:
    """A part of an image that the test uses.

    Attributes:
        original: annotation of the whole image.
        left, top, right, bottom: the part, in whole pixels of the image.
    """

    original: Annotation
    left: int
    top: int
    right: int
    bottom: int

    def cut(self, image: ImageArray) -> ImageArray:
        """Return this part of the image [H, W, 3]."""
        return np.ascontiguousarray(image[self.top : self.bottom, self.left : self.right])

    def annotation(self) -> Annotation:
        """Return the annotation of this part. Hardly visible objects become crowd regions, which are ignored."""
        annotation, shift = self.original, np.array([self.left, self.top] * 2, dtype=np.float32)
        width, height = self.right - self.left, self.bottom - self.top
        boxes = np.clip(annotation.boxes - shift, 0, np.array([width, height] * 2, dtype=np.float32))
        inside = ((boxes[:, 2:] - boxes[:, :2]) >= 1).all(axis=1)
        visible = area(boxes) / np.maximum(area(annotation.boxes), 1e-6) >= _MIN_VISIBLE
        return replace(
            annotation,
            image_hw=(height, width),
            boxes=boxes[inside],
            class_ids=annotation.class_ids[inside],
            is_crowd=(annotation.is_crowd | ~visible)[inside],
            areas=area(boxes)[inside],
        )


def overfit_test(
    split: Split,
    config: Config,
    input_hw: tuple[int, int],
    dtype: torch.dtype,
    steps: int = _STEPS,
    progress: Progress = no_progress,
) -> OverfitTest:
    """Train a new network on up to 4 images until it detects their objects, and return the losses and the AP50.

    Training has no augmentation and no regularization. The network is trained on samples of the dataset, as in a
    training run. A `Detector` evaluates the network on the image files, so that the test also finds differences between
    samples and files. Nothing depends on the speed of the machine.

    Args:
        split: the split; the test uses its images with the largest objects, or the parts of them that contain objects.
        config: settings of the network, the loss and the optimizer.
        input_hw: height and width of the network input, in pixels.
        dtype: floating-point type of the forward pass.
        steps: largest number of training steps.
        progress: function that is called after each step, with the number of steps that are done and of all steps.
    """
    parts = [_part_with_objects(a, input_hw) for a in _images_with_large_objects(split, input_hw)]
    if not parts:
        return OverfitTest(0, [], [])
    by_id = {part.original.image_id: part for part in parts}
    cut = replace(
        split,
        annotations=tuple(part.annotation() for part in parts),
        read_image=lambda a: by_id[a.image_id].cut(split.read_image(by_id[a.image_id].original)),
        ground_truth=None,
    )
    config = turned_off(replace(config, minutes=None, epochs=None, steps=steps, lr_schedule="linear", patience=0))
    dataset = DetectionDataset(cut, input_hw, config)
    torch.manual_seed(config.seed)
    network = make_network(config, len(split.class_names), *dataset.color_statistics(), input_hw=input_hw)
    trainer = Trainer(network, config, torch.device("cpu"), dtype)
    files = [part.cut(read_as_detection(part.original, split)) for part in parts]
    evaluation = _Evaluation(trainer, cut, files, config, input_hw)
    batch = _unaugmented_batch(dataset, config)
    losses: list[float] = []
    scores: list[float] = []
    for step in range(steps):
        try:
            losses.append(float(trainer.step(step, steps, batch).total))
        except NonFiniteLossError:
            losses.append(math.inf)
            break
        if (step + 1) % _STEPS_PER_EVALUATION == 0 or step + 1 == steps:
            scores.append(evaluation.AP50())
            if scores[-1] > _MIN_AP50:
                break
        progress(step + 1, steps)
    return OverfitTest(len(parts), losses, scores)


class _Evaluation:
    """Evaluates the EMA weights of a trainer on the image files of a split.

    Args:
        trainer: the trainer, which updates its EMA weights in each step.
        split: the images and their objects.
        images: the images as the detector reads them, [H, W, 3] each, in the order of the annotations.
        config: settings of the network.
        input_hw: height and width of the network input, in pixels.
    """

    def __init__(
        self, trainer: Trainer, split: Split, images: Sequence[ImageArray], config: Config, input_hw: tuple[int, int]
    ) -> None:
        self._network = trainer.ema.network
        self._split = split
        self._info = WeightsInfo(config.model, split.class_names, split.category_ids, input_hw, asdict(config), {})
        self._images = [
            LetterboxedImage(annotation, *letterbox_image(image, input_hw))
            for annotation, image in zip(split.annotations, images, strict=True)
        ]

    def AP50(self) -> float:  # noqa: N802
        """Return the AP50 of the current EMA weights, 0..1."""
        runtime = TorchRuntime(self._network, self._info.input_hw, torch.device("cpu"))
        found = detect_letterboxed_split(Detector(runtime, self._info), self._images)
        return score_split(self._split, found).AP50


def _images_with_large_objects(split: Split, input_hw: tuple[int, int]) -> list[Annotation]:
    """Return the annotations of up to 4 images whose smallest object is as large as possible in the network input.

    Images without objects are not used. Images without crowd regions and with few objects are preferred.
    """

    def smallest_side(annotation: Annotation) -> float:
        """Return the shortest side of all objects of an image, in pixels of the network input."""
        objects = annotation.boxes[~annotation.is_crowd]
        boxes = Letterbox.fit(annotation.image_hw, input_hw).to_input(objects)
        return float((boxes[:, 2:] - boxes[:, :2]).min())

    with_objects = [a for a in split.annotations if a.has_objects]
    usable = [a for a in with_objects if not a.is_crowd.any()] or with_objects
    sparse = [a for a in usable if len(a.boxes) <= _MAX_OBJECTS] or usable
    return sorted(sparse, key=smallest_side, reverse=True)[:_IMAGE_COUNT]


def _part_with_objects(annotation: Annotation, input_hw: tuple[int, int]) -> _Part:
    """Return the whole image, or a part around an object of median size if objects are tiny in the network input."""
    height, width = annotation.image_hw
    sides = np.sqrt(area(annotation.boxes))
    median = int(np.argsort(sides)[len(sides) // 2])
    if sides[median] * min(input_hw[0] / height, input_hw[1] / width) >= _SMALL_OBJECT:
        return _Part(annotation, 0, 0, width, height)
    scale = float(sides[median]) / _CLEAR_OBJECT
    part_h, part_w = min(height, max(8, round(input_hw[0] * scale))), min(width, max(8, round(input_hw[1] * scale)))
    x, y = (annotation.boxes[median, :2] + annotation.boxes[median, 2:]) / 2
    left = int(np.clip(x - part_w / 2, 0, width - part_w))
    top = int(np.clip(y - part_h / 2, 0, height - part_h))
    return _Part(annotation, left, top, left + part_w, top + part_h)


def _unaugmented_batch(dataset: DetectionDataset, config: Config) -> Batch:
    """Return all samples of a dataset as one batch; in `config`, augmentation must be turned off."""
    rng = np.random.default_rng(0)
    return collate([augment(dataset.sample(index), dataset.input_hw, config, rng) for index in range(len(dataset))])


def diagnose_overfitting(test: OverfitTest) -> Finding:
    """Check that the network learned the images of the overfit test, and return a finding."""
    check = "learning: overfit test"
    expected = f"AP50 above {_MIN_AP50}, or above {_IMPROVING_AP50} and still rising"
    if not test.image_count:
        advice = "Label objects: without objects, a network has nothing to learn."
        return Finding(check, "stop", "no image has objects", expected, advice)
    steps = len(test.losses)
    first, last = test.losses[0], test.losses[-1]
    if not math.isfinite(last):
        advice = "The loss became infinite on a few images: use a much lower lr, or norm=batch."
        return Finding(check, "stop", f"the loss is not finite at step {steps - 1}", expected, advice)
    measured = (
        f"AP50 {test.AP50:.2f} on {plural(test.image_count, 'image')} after {plural(steps, 'step')}; "
        f"the loss changed from {first:.2f} to {last:.2f}"
    )
    if test.AP50 > _MIN_AP50 or (test.AP50 > _IMPROVING_AP50 and test.is_improving):
        return Finding(check, "ok", measured, expected)
    advice = "A network that cannot overfit a few images cannot learn the dataset. "
    if last < _MAX_LOSS_RATIO * first:
        advice += (
            "The loss decreases, but the detections do not match the label files: find out where the data loader or "
            "the detector changes images, boxes or classes."
        )
    else:
        advice += (
            "The loss does not decrease. Possible causes: a wrong sign in the loss, a frozen layer, a wrong learning "
            "rate, or random labels."
        )
    verdict: Verdict = "look" if test.AP50 > _FAILED_AP50 else "stop"
    return Finding(check, verdict, measured, expected, advice)
