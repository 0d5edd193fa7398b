"""Data loader: builds the batches of a training run in threads, before the network needs them.

The batch of a step depends only on (seed, step, plan of the number of steps). So the data loader has no state to save,
and the batches do not depend on the number of threads.
"""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from detector.config import PLANNING_STEPS
from detector.loader.batch import Batch, collate
from detector.loader.dataset import DetectionDataset
from detector.loader.input_size import input_size_at
from detector.step_plan import StepPlan

_PREFETCH = 3
"""Number of batches that are built in advance."""


def training_batch(dataset: DetectionDataset, step: int, batch_size: int, steps: float) -> Batch:
    """Return the batch of training step number `step` (from 0) in a run of `steps` steps; see `StepPlan.length_at`."""
    epochs = steps * batch_size / len(dataset) if step >= PLANNING_STEPS else 0.0
    first = step * batch_size
    input_hw = input_size_at(dataset.input_hw, step, steps, dataset.config)
    return collate([dataset.training_sample(first + index, epochs, input_hw) for index in range(batch_size)])


def training_batches(
    dataset: DetectionDataset, batch_size: int, plan: StepPlan, start: int, stop: int
) -> Iterator[tuple[int, Batch]]:
    """Yield (step, batch) for each step from `start` to `stop` - 1 of a run, in order.

    Args:
        dataset: the training images.
        batch_size: number of images per step.
        plan: planned number of steps of the run. If it changes, the batches from this step on must be made again.
        start: first step, from 0.
        stop: the step after the last one.

    Raises:
        InputError: an image can no longer be read.
    """
    workers = dataset.config.workers
    if workers == 0:
        for step in range(start, stop):
            yield step, training_batch(dataset, step, batch_size, plan.length_at(step))
        return
    with ThreadPoolExecutor(max_workers=workers, thread_name_prefix="loader") as pool:
        pending: deque[tuple[int, Future[Batch]]] = deque()
        try:
            for step in range(start, stop):
                steps = plan.length_at(step)
                pending.append((step, pool.submit(training_batch, dataset, step, batch_size, steps)))
                if len(pending) > _PREFETCH:
                    ready, future = pending.popleft()
                    yield ready, future.result()
            for ready, future in pending:
                yield ready, future.result()
        finally:
            for _, future in pending:
                future.cancel()
