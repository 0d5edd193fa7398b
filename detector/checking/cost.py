"""A finding about the cost of a training run: its duration, number of epochs and memory."""

import contextlib
import time

from detector.config import PLANNING_STEPS, RunConfig
from detector.diagnose.finding import Finding
from detector.loader.dataset import DetectionDataset
from detector.loader.loader import training_batches
from detector.memory import available_memory
from detector.step_plan import StepPlan
from detector.training.time_budget import expected_times
from detector.training.train import DEFAULT_MINUTES
from detector.training.trainer import NonFiniteLossError, Trainer


def diagnose_cost(
    trainer: Trainer, dataset: DetectionDataset, batch_size: int, config: RunConfig, image_count: int
) -> Finding:
    """Measure the time of a few training steps, predict the cost of the planned run, and return a finding.

    The verdict does not depend on the speed of the machine: if the length of the run is given in minutes, the number of
    epochs is only reported.

    Args:
        trainer: trainer that runs the steps.
        dataset: dataset of some or all training images.
        batch_size: images per training step.
        config: length of the planned run, in minutes, epochs or steps.
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
        f"{steps:.0f} steps ({steps / per_epoch:.1f} epochs) in {minutes:.1f} minutes, "
        f"{batch_size / seconds:.0f} images/s; decoded images need {image_bytes / 1e9:.2f} GB, "
        f"{free / 1e9:.1f} GB of memory are free"
    )
    if image_bytes > free / 2:
        measured += ", so that images are decoded again in every epoch, which is slower"
    expected = "at least 3 epochs if the length is given in epochs or steps"
    advice = ""
    if (config.steps or config.epochs) and steps / per_epoch < 3:
        advice = (
            "The run is too short to train on every image three times: train longer, or use a smaller model or --imgsz."
        )
    return Finding("cost: training run", "look" if advice else "ok", measured, expected, advice)


def _measure_step_seconds(trainer: Trainer, dataset: DetectionDataset, batch_size: int) -> float:
    """Run the first steps of a training run, and return the expected mean duration of a step of the run, in seconds."""
    times = []
    start = time.monotonic()
    for step, batch in training_batches(dataset, batch_size, StepPlan.fixed(PLANNING_STEPS), 0, PLANNING_STEPS):
        # Other checks report a loss that diverges; here, only the duration is needed.
        with contextlib.suppress(NonFiniteLossError):
            trainer.step(step, PLANNING_STEPS, batch)
        now = time.monotonic()
        times.append(now - start)
        start = now
    return expected_times(times, [], dataset.input_hw, dataset.config).mean_step(0)
