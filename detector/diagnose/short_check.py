"""The short check: all checks that take almost no time. It runs at the start of every training run."""

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
    """Run all checks that take almost no time, and return their findings.

    Args:
        splits: the training split first, then the evaluation splits.
        dataset: dataset of the training split.
        network: network whose last layers have random initial weights, for the check of the initial loss. None: they
            are trained, so that their loss has no theoretical value; this check is skipped.
        batch_size: images per training step.
    """
    train, *others = splits
    # The dataset has decoded all images: its ledger also counts the rows of images that cannot be decoded.
    train = replace(train, ledger=dataset.ledger)
    findings = diagnose_data([train, *others], dataset.input_hw, dataset.config, quick=True)
    if network is None:
        return findings
    batch = training_batch(dataset, 0, min(batch_size, 4), 1)
    return [*findings, diagnose_first_loss(network, batch, dataset.config)]
