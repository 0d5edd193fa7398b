"""The diagnostics that cost next to nothing, run at the start of every training run."""

from detector.data.split import Split
from detector.diagnose.data import check_data
from detector.diagnose.finding import Finding
from detector.diagnose.network import check_first_loss
from detector.loader.dataset import DetectionDataset
from detector.loader.loader import training_batch
from detector.model.network import GridNetwork


def short_check(
    splits: list[Split], dataset: DetectionDataset, fresh: GridNetwork | None, batch_size: int
) -> list[Finding]:
    """Do the checks that cost next to nothing, for the start of a training run.

    Args:
        splits: to learn from and to evaluate on.
        dataset: of the first.
        fresh: the network, if it begins with random weights: what trained ones lose at first no theory says.
        batch_size: images per step.
    """
    findings = check_data(splits, dataset.input_hw, dataset.config, quick=True)
    if fresh is None:
        return findings
    batch = training_batch(dataset, 0, min(batch_size, 4), 1)
    return [*findings, check_first_loss(fresh, batch, dataset.config)]
