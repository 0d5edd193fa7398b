"""The checks that take almost no time; they run at the start of every training run."""

from collections.abc import Sequence
from dataclasses import replace

from detector.data.split import Split
from detector.diagnose.data import diagnose_data
from detector.diagnose.finding import Finding
from detector.diagnose.network import diagnose_first_loss
from detector.loader.dataset import DetectionDataset
from detector.loader.loader import training_batch
from detector.model.network import GridNetwork


def short_check(
    splits: Sequence[Split], dataset: DetectionDataset, network: GridNetwork | None, batch_size: int
) -> list[Finding]:
    """Run the checks that take almost no time.

    Args:
        splits: the training split first, then the evaluation splits.
        dataset: of the training split.
        network: with its random initial weights. None for trained weights: their loss has no theoretical value.
        batch_size: images per step.
    """
    train, *others = splits
    # The dataset has decoded the images: its ledger also counts the rows of those that cannot be decoded.
    train = replace(train, ledger=dataset.ledger)
    findings = diagnose_data([train, *others], dataset.input_hw, dataset.config, quick=True)
    if network is None:
        return findings
    batch = training_batch(dataset, 0, min(batch_size, 4), 1)
    return [*findings, diagnose_first_loss(network, batch, dataset.config)]
