"""Data loader: builds the batches of a training run in threads, before the network needs them.

The batch of a step depends only on (seed, step, plan of the number of steps). So the data loader has no state to save,
and the batches do not depend on the number of threads.
"""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from detector.config import PLANNING_STEPS
from detector.loader.batch import Batch, collate, empty_batch
from detector.loader.dataset import DetectionDataset
from detector.loader.input_size import input_size_at
from detector.step_plan import StepPlan

_PREFETCH = 3
"""Number of batches that are built in advance."""


@dataclass(frozen=True, eq=False)
class PseudoLabeled:
    """Images with pseudo-labels, which take the last places of each batch from a step on.

    Attributes:
        dataset: the images.
        start: index of the first step with these images.
        per_batch: number of these images in a batch.
    """

    dataset: DetectionDataset
    start: int
    per_batch: int


_ALL = slice(None)


def training_batch(
    dataset: DetectionDataset,
    step: int,
    batch_size: int,
    steps: float,
    pseudo: PseudoLabeled | None = None,
    part: slice = _ALL,
) -> Batch:
    """Return the batch of training step number `step` (from 0) in a run of `steps` steps.

    Args:
        dataset: the labeled images.
        step: number of the step.
        batch_size: number of images in the batch.
        steps: number of steps of the run; see `StepPlan.length_at`.
        pseudo: images with pseudo-labels; None: there are none. The labeled images at their places are skipped.
        part: places in the batch of the images that are returned; default: all.
    """
    epochs = _epochs(dataset, step, batch_size, steps)
    first = step * batch_size
    input_hw = input_size_at(dataset.input_hw, step, steps, dataset.config, dataset.config.seed)
    others = pseudo.per_batch if pseudo is not None and step >= pseudo.start else 0
    places, labeled = range(batch_size)[part], batch_size - others
    samples = [dataset.training_sample(first + place, epochs, input_hw) for place in places if place < labeled]
    if pseudo is not None and others:
        first, length = (step - pseudo.start) * others - labeled, (steps - pseudo.start) * others
        epochs = length / len(pseudo.dataset)
        own = [place for place in places if place >= labeled]
        samples += [pseudo.dataset.training_sample(first + place, epochs, input_hw) for place in own]
    return collate(samples) if samples else empty_batch(input_hw)


def start_reading(dataset: DetectionDataset, step: int, batch_size: int, steps: float, part: slice = _ALL) -> None:
    """Start to download the images of a step that are at a URL; the arguments are those of `training_batch`."""
    epochs = _epochs(dataset, step, batch_size, steps)
    for position in range(step * batch_size, (step + 1) * batch_size)[part]:
        dataset.start_reading(position, epochs)


def _epochs(dataset: DetectionDataset, step: int, batch_size: int, steps: float) -> float:
    """Return the length of the run in epochs; 0 in the planning steps, in which it is not known."""
    return steps * batch_size / len(dataset) if step >= PLANNING_STEPS else 0.0


def training_batches(
    dataset: DetectionDataset,
    batch_size: int,
    plan: StepPlan,
    start: int,
    stop: int,
    pseudo: PseudoLabeled | None = None,
    part: slice = _ALL,
) -> Iterator[tuple[int, Batch]]:
    """Yield (step, batch) for each step from `start` to `stop` - 1 of a run, in order.

    Args:
        dataset: the training images.
        batch_size: number of images per step.
        plan: planned number of steps of the run. If it changes, the batches from this step on must be made again.
        start: first step, from 0.
        stop: the step after the last one.
        pseudo: as for `training_batch`.
        part: as for `training_batch`.

    Raises:
        InputError: an image can no longer be read.
    """
    workers = dataset.config.workers
    if workers == 0:
        for step in range(start, stop):
            yield step, training_batch(dataset, step, batch_size, plan.length_at(step), pseudo, part)
        return
    with ThreadPoolExecutor(max_workers=workers, thread_name_prefix="loader") as pool:
        pending: deque[tuple[int, Future[Batch]]] = deque()
        try:
            for step in range(start, stop):
                steps = plan.length_at(step)
                start_reading(dataset, step, batch_size, steps, part)
                pending.append((step, pool.submit(training_batch, dataset, step, batch_size, steps, pseudo, part)))
                if len(pending) > _PREFETCH:
                    ready, future = pending.popleft()
                    yield ready, future.result()
            for ready, future in pending:
                yield ready, future.result()
        finally:
            for _, future in pending:
                future.cancel()
