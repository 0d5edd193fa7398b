"""The inputs of a training run: settings, device, data and initial weights, and the numbers that follow from them."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from detector.arrays import Doubles
from detector.config import Config
from detector.data.split import Split
from detector.data.training_splits import TrainingSplits
from detector.evaluating.evaluate import LetterboxedImage
from detector.image_hashes import ImageHashes
from detector.loader.class_balance import class_weights, count_objects
from detector.loader.dataset import DetectionDataset
from detector.model.checkpoint import copy_weights
from detector.model.make_network import make_network
from detector.model.network import GridNetwork
from detector.trained_classes import TrainedClasses
from detector.training.time_budget import choose_batch_size
from detector.training.unlabeled import UnlabeledImages


@dataclass(frozen=True, eq=False)
class RunInputs:
    """Everything that a training run needs, except the output folder.

    Attributes:
        config: settings of the run.
        device: device that trains the network.
        dataset: the training images.
        splits: the training split, and the split on which the run is evaluated.
        val_images: letterboxed images of the val split; empty without one.
        description: description of the dataset.
        weights: network with the initial weights, of the same architecture; None: the initial weights are random.
        same_classes: True if the initial weights have the same classes as the dataset. Then their outputs
            for classes are used too.
        start_facts: facts about the initial weights, for the metadata of the trained weights.
        image_hashes: hashes of the images of both splits, of the unlabeled images (as training images), and of those of
            the initial weights.
        unlabeled: the unlabeled images; None: the run has none.
        trained_classes: how the classes follow from those of the data; None: they are the same.
    """

    config: Config
    device: torch.device
    dataset: DetectionDataset
    splits: TrainingSplits
    val_images: tuple[LetterboxedImage, ...]
    description: str
    weights: GridNetwork | None
    same_classes: bool
    start_facts: Mapping[str, object]
    image_hashes: ImageHashes
    unlabeled: UnlabeledImages | None = None
    trained_classes: TrainedClasses | None = None

    @property
    def split(self) -> Split:
        """The training split."""
        return self.splits.train

    @property
    def val(self) -> Split | None:
        """The split on which the run is evaluated. None: the run is not evaluated; the last weights are the best."""
        return self.splits.val

    @property
    def batch_size(self) -> int:
        """Number of images per step."""
        return choose_batch_size(self.config, len(self.dataset))

    @property
    def steps_per_epoch(self) -> float:
        """Number of steps per pass over the training images; not rounded."""
        return len(self.dataset) / self.batch_size

    @property
    def steps(self) -> int | None:
        """Number of steps of the run; None if the settings give the length in minutes."""
        if self.config.epochs is not None:
            return max(1, round(self.config.epochs * len(self.dataset) / self.batch_size))
        return self.config.steps

    def class_weights(self) -> Doubles | None:
        """Return the weight [C] of each class in the loss; None: all are 1."""
        counts = count_objects(self.dataset.annotations, len(self.split.class_names))
        return class_weights(counts, self.config.class_balance)

    def make_network(self) -> GridNetwork:
        """Return the network with its initial weights; random weights are drawn with the seed of the settings."""
        torch.manual_seed(self.config.seed)
        network = make_network(
            self.config,
            len(self.split.class_names),
            *self.dataset.color_statistics(),
            input_hw=self.dataset.input_hw,
        )
        if self.weights is not None:
            copy_weights(network, self.weights, self.same_classes)
        return network
