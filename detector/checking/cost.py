"""A finding about the cost of a training run: time, epochs and memory."""

import contextlib
import time

from detector.config import PLANNING_STEPS, RunConfig
from detector.diagnose.finding import Finding
from detector.loader.dataset import DetectionDataset
from detector.loader.loader import training_batches
from detector.memory import available_memory
from detector.training.time_budget import expected_step_seconds
from detector.training.train import DEFAULT_MINUTES
from detector.training.trainer import NonFiniteLossError, Trainer


def diagnose_cost(
    trainer: Trainer, dataset: DetectionDataset, batch_size: int, config: RunConfig, image_count: int
) -> Finding:
    """Time a few training steps and predict the duration and the memory of the whole run.

    Args:
        trainer: does some steps.
        dataset: of some of the training images.
        batch_size: images per step.
        config: length of the run.
        image_count: number of all training images.
    """
    seconds = _measure_step_seconds(trainer, dataset, batch_size)
    per_epoch = image_count / batch_size
    steps = config.steps or (config.epochs and config.epochs * per_epoch)
    minutes = config.minutes or (steps * seconds / 60 if steps else DEFAULT_MINUTES)
    steps = steps or minutes * 60 / seconds
    image_bytes = dataset.image_bytes * image_count / max(1, len(dataset))
    free = available_memory()
    measured = (
        f"{minutes:.1f} minutes for {steps:.0f} steps, {steps / per_epoch:.1f} epochs; {batch_size / seconds:.0f} "
        f"images/s; {image_bytes / 1e9:.2f} GB of decoded images, {free / 1e9:.1f} GB of free memory"
    )
    expected = "at least 3 epochs, and decoded images that need at most half of the free memory"
    advice = ""
    if steps / per_epoch < 3:
        advice = (
            "Too short to train on every image three times: use more minutes, a smaller model or a smaller --imgsz."
        )
    elif image_bytes > free / 2:
        advice = "Images are decoded again in every epoch, which is slower: use more memory, or a smaller --imgsz."
    return Finding("cost: training run", "look" if advice else "ok", measured, expected, advice)


def _measure_step_seconds(trainer: Trainer, dataset: DetectionDataset, batch_size: int) -> float:
    """Return the expected mean seconds per step of a run, from its first steps."""
    times = []
    start = time.monotonic()
    for step, batch in training_batches(dataset, batch_size, PLANNING_STEPS, 0, PLANNING_STEPS):
        # The other checks report a loss that diverges; only the duration counts here.
        with contextlib.suppress(NonFiniteLossError):
            trainer.step(step, PLANNING_STEPS, batch)
        now = time.monotonic()
        times.append(now - start)
        start = now
    return expected_step_seconds(times, dataset.input_hw, dataset.config)
