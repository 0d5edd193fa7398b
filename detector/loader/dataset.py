"""Dataset for training: images are decoded once, kept in memory if they fit, and augmented differently in each epoch.

Sample k of a run depends only on (seed, k), not on the thread or on the order in which samples are requested.
"""

import hashlib
import os
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from functools import cached_property
from itertools import islice
from pathlib import Path

import cv2
import numpy as np

from detector.annotation import Annotation, annotation_bytes
from detector.arrays import Doubles, Floats, ImageArray, Ints
from detector.augment.color import color_statistics, pca_color_jitter, principal_colors
from detector.augment.mix import copy_paste, mixup, style_shift
from detector.augment.mosaic import mosaic
from detector.augment.own_transform import OwnTransform
from detector.augment.pipeline import augment
from detector.config import AugmentConfig, BlendConfig, Config
from detector.data.split import Split, evenly_spaced
from detector.errors import InputError
from detector.jpeg_content import SmallImages, decode_jpeg, small_jpeg
from detector.letterbox import Letterbox
from detector.loader.class_balance import count_objects, shown_fractions
from detector.loader.input_size import input_stages
from detector.memory import available_memory
from detector.mirror import read_ahead, start_reading
from detector.sample import Sample, UnlabeledRegions

_STORED_SCALE = 1.5
"""An image is stored at no more than this many times its letterboxed size. That is enough for random scaling, and uses
no memory for pixels that are never needed."""

_ORDER_SEED, _SAMPLE_SEED = 1, 2
"""First number of each seed, so that the order of the images and the augmentation use different random streams."""

_MEMORY_FRACTION = 0.5
"""Largest fraction of the available memory that decoded images may take."""

_TRANSFORM_SAMPLES = 8
"""Number of samples on which an own transform is checked before the training."""

_AUTO_COPY_PASTE, _FEW_IMAGES = 0.5, 300
"""With `copy_paste = "auto"`: fraction of samples with pasted objects, and the largest number of images for it."""

_DECODE_BLOCK = 64
"""Number of images decoded at a time."""


class DetectionDataset:
    """The images and objects of one split, from which training samples are made.

    The constructor decodes every image. An image is not used if it cannot be decoded or if its size differs from its
    annotation; then `ledger` records its boxes as dropped.

    Args:
        split: the split; it is not changed.
        input_hw: full input size (height, width).
        config: settings of augmentation and input size, seed and number of data loader threads.
        copies: number of processes of this machine that keep these images in their memory.

    Attributes:
        input_hw, config: the arguments.
        annotations: annotations of the images that can be used, in the order of the split.
        ledger: ledger of the split, in which the boxes of images that cannot be used count as dropped.
        image_bytes: memory that all decoded images need, in bytes.
        in_memory: whether the images are kept in memory, decoded or as JPEG files.
        fingerprint: hash of all boxes, classes and pixels. It changes if the data changes.
        transform: own transform, the last step of the augmentation; None: there is none. See `with_transform`.

    Raises:
        LabelError: none of the images can be used.
    """

    def __init__(self, split: Split, input_hw: tuple[int, int], config: Config, copies: int = 1) -> None:
        self.input_hw = input_hw
        self.config = config
        self.transform: OwnTransform | None = None
        self._decode = split.decode
        self.image_bytes = sum(self._stored_bytes(annotation) for annotation in split.annotations)
        self.in_memory = self.image_bytes * copies <= _MEMORY_FRACTION * available_memory()
        self._images: list[ImageArray | bytes] = []
        small = SmallImages()
        annotations, unusable = [], dict[int, str]()
        digest = hashlib.sha256()
        for annotation, (image, jpeg) in self._decode_all(split.annotations):
            if isinstance(image, InputError):
                unusable[annotation.image_id] = str(image)
                continue
            annotations.append(annotation)
            digest.update(annotation_bytes(annotation) + zlib.crc32(np.ascontiguousarray(image).data).to_bytes(4))
            if self.in_memory:
                self._images.append(small.keep(image, jpeg))
        self.ledger = split.after_decoding(unusable).ledger
        self.annotations = tuple(annotations)
        self.fingerprint = digest.hexdigest()[:16]

    def __len__(self) -> int:
        return len(self.annotations)

    def select(
        self, indices: Sequence[int], annotations: Sequence[Annotation] | None = None, config: Config | None = None
    ) -> "DetectionDataset":
        """Return a dataset with some of the images, without decoding them again.

        Its ledger, `image_bytes` and fingerprint are still those of all images.

        Args:
            indices: indices of the images, in the order of the new dataset.
            annotations: new annotations of these images; None: those they have.
            config: new settings; None: the settings stay the same.
        """
        selected = copy(self)
        for name, member in vars(type(self)).items():
            if isinstance(member, cached_property):
                vars(selected).pop(name, None)
        selected.annotations = tuple(annotations or (self.annotations[index] for index in indices))
        selected._images = [self._images[index] for index in indices] if self.in_memory else []
        selected.config = config or self.config
        return selected

    def with_transform(self, transform: OwnTransform | None) -> "DetectionDataset":
        """Return a dataset with the same images, whose training samples are also changed by an own transform."""
        changed = copy(self)
        changed.transform = transform
        return changed

    def sample(self, index: int) -> Sample:
        """Return sample `index` without augmentation. A large image is reduced to 1.5 times its letterboxed size."""
        annotation = self.annotations[index]
        image = self._images[index] if self.in_memory else self._read(annotation)
        if isinstance(image, bytes):
            image = decode_jpeg(image)
        height, width = annotation.image_hw
        scale = np.array([image.shape[1] / width, image.shape[0] / height] * 2, dtype=np.float32)
        return Sample(
            image,
            annotation.boxes * scale,
            annotation.class_ids,
            annotation.is_crowd,
            annotation.image_id,
            _unlabeled_regions(annotation, image),
        )

    def training_sample(self, position: int, epochs: float, input_hw: tuple[int, int] | None = None) -> Sample:
        """Return the augmented sample at a position of the run. In each epoch, the images are in a new random order.

        Raises:
            TransformError: the own transform failed or broke a promise.

        Args:
            position: number of samples before this sample in the run.
            epochs: planned length of the run in epochs; the fraction of mosaics depends on it.
            input_hw: height and width of the image of the sample; None: the full input size.
        """
        input_hw, config = input_hw or self.input_hw, self.config
        strength = augment_strength(config, position / len(self))
        indices, rng = self._choose(position, epochs)
        samples = [self.sample(index) for index in indices]
        if len(samples) > 1:
            sample = mosaic(samples, input_hw, config, rng)
        else:
            sample = augment(samples[0], input_hw, config, rng, strength)
        sample = self._blend(sample, rng, strength)
        # This comes last, because a style shift would undo the color change.
        if config.pca_color:
            sample = pca_color_jitter(sample, self._principal_colors, config, rng, strength)
        if self.transform is not None:
            path = self.annotations[indices[0]].image_path
            sample = self.transform.apply(sample, position, position // len(self), path)
        return sample

    def path_of(self, image_id: int) -> Path:
        """Return the path of the image with an id."""
        return next(annotation.image_path for annotation in self.annotations if annotation.image_id == image_id)

    def start_reading(self, position: int, epochs: float) -> None:
        """Start to download the images at a position of the run, if they are at a URL and not in memory.

        The images that copy-paste, mixup and style shift add are not known before the augmentation.
        """
        if not self.in_memory:
            start_reading(self.annotations[index].image_path for index in self._choose(position, epochs)[0])

    def _choose(self, position: int, epochs: float) -> tuple[list[int], np.random.Generator]:
        """Return the indices of the images at a position of the run, four for a mosaic, and the generator of the rest.

        The arguments are those of `training_sample`.
        """
        epoch, place = divmod(position, len(self))
        order = self._order(epoch)
        index = int(order[place])
        # An image that is repeated within an epoch is augmented in another way each time.
        repeat = [count] if self._shown is not None and (count := int((order[:place] == index).sum())) else []
        rng = np.random.default_rng([_SAMPLE_SEED, self.config.seed, epoch, index, *repeat])
        if rng.random() < mosaic_fraction(self.config, position / len(self), epochs):
            return [index, *self._draw(rng, 3)], rng
        return [index], rng

    def _draw(self, rng: np.random.Generator, count: int) -> list[int]:
        """Return the indices of random images, each as often on average as the images are shown."""
        if self._shown is None:
            return [int(index) for index in rng.integers(len(self), size=count)]
        return [int(index) for index in rng.choice(len(self), size=count, p=self._shown)]

    def _blend(self, sample: Sample, rng: np.random.Generator, strength: float) -> Sample:
        """Apply copy-paste, mixup and style shift, which use other images, and return the new sample.

        Copy-paste comes first, because it must know which objects the pasted objects cover, and a blended image would
        show objects through each other. The style shift comes last, so that it also changes the pasted objects.

        If a setting is 0, no random number is drawn for it, so that a new setting does not change runs without it.
        `strength` is a factor on ranges, not on probabilities.
        """
        config, input_hw = self.config, (sample.image.shape[0], sample.image.shape[1])
        fraction = copy_paste_fraction(config, len(self))
        if fraction and rng.random() < fraction:
            donor = self.sample(int(rng.choice(len(self), p=self._donor_probabilities)))
            sample = copy_paste(sample, donor, self._class_weights, config, rng, strength)
        if config.mixup and rng.random() < config.mixup:
            other = self.sample(self._draw(rng, 1)[0])
            sample = mixup(sample, augment(other, input_hw, config, rng, strength), rng)
        if config.style_shift and rng.random() < config.style_shift:
            sample = style_shift(sample, self.sample(int(rng.integers(len(self)))).image)
        return sample

    def color_statistics(self) -> tuple[Floats, Floats]:
        """Return the mean [3] and the covariance [3, 3] of the RGB levels (0..255) of the training images.

        They are computed from at most 256 evenly spaced images, on the first call. Each variance is at least 1.
        """
        return self._color_statistics

    @cached_property
    def _color_statistics(self) -> tuple[Floats, Floats]:
        return color_statistics(self.sample(index).image for index in evenly_spaced(range(len(self)), 256))

    @cached_property
    def _principal_colors(self) -> Floats:
        return principal_colors(self.color_statistics()[1])

    @cached_property
    def _class_weights(self) -> Doubles:
        """Weights [C]: 1 / number of objects of each class, without crowd regions."""
        return np.asarray(1 / np.maximum(count_objects(self.annotations), 1))

    @cached_property
    def _donor_probabilities(self) -> Doubles:
        """Return the probability [len(self)] of each image to be the donor of copy-paste.

        The probability of an image is proportional to the sum of the class weights of its objects, so that objects of
        all classes are pasted equally often.
        """
        weights = np.array([self._class_weights[a.class_ids[~a.is_crowd]].sum() for a in self.annotations])
        if not weights.any():
            weights += 1  # No image has an object, so any donor is as good as another: nothing is pasted.
        return np.asarray(weights / weights.sum())

    @cached_property
    def _shown(self) -> Doubles | None:
        """Fraction [len(self)] of the samples of an epoch that show each image, on average; None: all equally often."""
        return shown_fractions(self.annotations, self.config)

    def _order(self, epoch: int) -> Ints:
        """Return the indices [len(self)] of the images in the random order of an epoch; some may repeat (`_shown`)."""
        rng = np.random.default_rng([_ORDER_SEED, self.config.seed, epoch])
        order = rng.permutation(len(self))
        if self._shown is None:
            return order
        # Systematic sampling: an image that should be shown 1.6 times per epoch is shown once or twice, never not.
        ends = np.cumsum(self._shown[order])
        places = np.searchsorted(ends, (np.arange(len(self)) + rng.random()) / len(self), side="right")
        return np.asarray(rng.permutation(order[np.minimum(places, len(self) - 1)]))

    def _stored_hw(self, image_hw: tuple[int, int]) -> tuple[int, int]:
        """Return the height and width at which an image of size `image_hw` is stored."""
        scaled_h, scaled_w = self._letterboxed_hw(image_hw)
        return min(image_hw[0], int(scaled_h * _STORED_SCALE)), min(image_hw[1], int(scaled_w * _STORED_SCALE))

    def _letterboxed_hw(self, image_hw: tuple[int, int]) -> tuple[int, int]:
        """Return the height and width of an image of size `image_hw` in the network input."""
        return Letterbox.fit(image_hw, self.input_hw).scaled_hw

    def _stored_bytes(self, annotation: Annotation) -> int:
        """Return the number of bytes that the image of an annotation takes in the memory cache."""
        height, width = self._stored_hw(annotation.image_hw)
        return height * width * 3

    def _read(self, annotation: Annotation) -> ImageArray:
        """Decode the image of an annotation, and return it at the size at which images are stored.

        Raises:
            InputError: as for `Split.decode`.
        """
        height, width = stored_hw = self._stored_hw(annotation.image_hw)
        image = self._decode(annotation, stored_hw)
        if (height, width) == image.shape[:2]:
            return image
        return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA), dtype=np.uint8)

    def _decode_all(
        self, annotations: tuple[Annotation, ...]
    ) -> Iterator[tuple[Annotation, tuple[ImageArray | InputError, bytes | None]]]:
        """Yield (annotation, (decoded image, result of `small_jpeg`)) for each annotation, in the order of the split.

        If an image cannot be used, an InputError is yielded instead of the image. Several threads decode the images, a
        block of images at a time.
        """

        def decode(annotation: Annotation) -> tuple[ImageArray | InputError, bytes | None]:
            try:
                image = self._read(annotation)
            except InputError as error:
                return error, None
            if not self.in_memory or image.shape[:2] != annotation.image_hw:
                return image, None
            return image, small_jpeg(annotation.image_path, image, self._letterboxed_hw(annotation.image_hw))

        with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
            remaining = read_ahead(annotations, lambda annotation: annotation.image_path)
            while block := list(islice(remaining, _DECODE_BLOCK)):
                yield from zip(block, pool.map(decode, block), strict=True)


def transform_samples(dataset: DetectionDataset) -> list[tuple[Path, Sample]]:
    """Return paths and augmented samples of at most 8 evenly spaced images, on which an own transform is checked.

    Half of them have the input size at the start of the run, the others the full input size.
    """
    sizes = [stage.input_hw for stage in input_stages(dataset.input_hw, dataset.config)]
    samples = []
    for number, position in enumerate(evenly_spaced(range(len(dataset)), _TRANSFORM_SAMPLES)):
        sample = dataset.training_sample(position, 0.0, sizes[0] if number % 2 else sizes[-1])
        samples.append((dataset.path_of(sample.image_id), sample))
    return samples


def _unlabeled_regions(annotation: Annotation, image: ImageArray) -> UnlabeledRegions | None:
    """Return the whole image as a region with the classes that are not labeled in it; None if all are."""
    labeled = annotation.labeled_classes
    if labeled is None or labeled.all():
        return None
    height, width = image.shape[:2]
    return UnlabeledRegions(np.array([[0, 0, width, height]], dtype=np.float32), ~labeled[None])


def augment_strength(config: AugmentConfig, epoch: float) -> float:
    """Return the factor on the augmentation ranges at an epoch. It rises from 0.5 to 1 within `augment_ramp` epochs.

    Short runs need less augmentation than long runs.
    """
    return 0.5 + 0.5 * min(1.0, epoch / config.augment_ramp) if config.augment_ramp else 1.0


def copy_paste_fraction(config: BlendConfig, images: int) -> float:
    """Return the fraction of samples into which objects are pasted, with a number of training images.

    "auto" pastes only with few images. With many images, it helped short runs but not longer ones (docs/results.md,
    copy-paste).
    """
    if config.copy_paste != "auto":
        return config.copy_paste
    return _AUTO_COPY_PASTE if images <= _FEW_IMAGES else 0.0


def mosaic_fraction(config: AugmentConfig, epoch: float, epochs: float) -> float:
    """Return the fraction of samples that are mosaics at an epoch of a run.

    The fraction is 0 before the epoch `mosaic_from` and in the last part `mosaic_off` of the run. After
    the epoch `mosaic_from`, it rises to `mosaic` within `mosaic_from / 2` epochs (at least 1).

    Args:
        config: the settings mosaic, mosaic_from and mosaic_off.
        epoch: position in the run, in epochs.
        epochs: planned length of the run, in epochs.
    """
    if epoch < config.mosaic_from or epoch > epochs * (1 - config.mosaic_off):
        return 0.0
    phase_in = max(1.0, config.mosaic_from / 2)
    return config.mosaic * min(1.0, (epoch - config.mosaic_from) / phase_in)
