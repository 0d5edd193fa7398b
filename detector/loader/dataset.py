"""The training images: decoded once into memory where they fit, then augmented anew in every epoch.

What image number k of a run looks like depends on (seed, k) alone, whoever asks and in whatever order.
"""

import hashlib
import os
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from itertools import islice

import cv2
import numpy as np

from detector.annotation import Annotation, annotation_bytes
from detector.arrays import Doubles, Floats, ImageArray, Ints
from detector.augment.color import color_statistics, pca_shift, principal_colors
from detector.augment.mix import copy_paste, mixup, style_shift
from detector.augment.mosaic import mosaic
from detector.augment.pipeline import augment
from detector.config import Config
from detector.data.split import Split, evenly_spaced
from detector.errors import InputError
from detector.letterbox import Letterbox
from detector.memory import available_memory
from detector.sample import Sample

_ROOM_TO_ENLARGE = 1.5
"""Images are kept at this many times the canvas: enough to enlarge, and no memory lost on pixels never seen."""

_ORDER, _SAMPLES = 1, 2
"""First number of every seed, so that the order of images and their augmentation are different streams."""

_MEMORY_FRACTION = 0.5
"""Share of the free memory that decoded images may take."""


class DetectionDataset:
    """Images and objects of one split, ready to be drawn as training samples.

    Decodes every image once; one that fails, or is of another size than the data set says, is left out and its
    boxes are entered in the split's ledger as dropped.

    Args:
        split: as read.
        input_hw: full size of the samples.
        config: augmentation settings and seed.

    Attributes:
        input_hw, config: as given.
        annotations: of the images that are there.
        image_bytes: that all images take decoded.
        in_memory: whether the decoded images are kept.
        fingerprint: hash of all boxes, classes and pixels; another one means other data.

    Raises:
        InputError: no image is left.
    """

    def __init__(self, split: Split, input_hw: tuple[int, int], config: Config) -> None:
        self.input_hw = input_hw
        self.config = config
        self._read = split.read_image
        self.image_bytes = sum(self._pixel_bytes(annotation) for annotation in split.annotations)
        self.in_memory = self.image_bytes <= _MEMORY_FRACTION * available_memory()
        self._images: list[ImageArray] = []
        kept = []
        digest = hashlib.sha256()
        for annotation, image in self._decode_all(split.annotations):
            if isinstance(image, str):
                rows, crowd = len(annotation.boxes), int(annotation.is_crowd.sum())
                split.ledger.lose_image(annotation.image_path, rows, crowd, image)
                continue
            kept.append(annotation)
            digest.update(annotation_bytes(annotation) + zlib.crc32(np.ascontiguousarray(image).data).to_bytes(4))
            if self.in_memory:
                self._images.append(image)
        if not kept:
            why = "".join(f"; {entry}" for entry in split.ledger.entries[-1:])
            raise InputError(f"split '{split.name}' has no image to train on{why}")
        self.annotations = tuple(kept)
        self.fingerprint = digest.hexdigest()[:16]

    def __len__(self) -> int:
        return len(self.annotations)

    def sample(self, index: int) -> Sample:
        """Return image `index` without augmentation, shrunk if it is much larger than the canvas."""
        annotation = self.annotations[index]
        image = self._images[index] if self.in_memory else self._shrink(self._read(annotation))
        height, width = annotation.image_hw
        scale = np.array([image.shape[1] / width, image.shape[0] / height] * 2, dtype=np.float32)
        return Sample(image, annotation.boxes * scale, annotation.class_ids, annotation.is_crowd, annotation.image_id)

    def training_sample(self, position: int, epochs: float, input_hw: tuple[int, int] | None = None) -> Sample:
        """Return the image at a position of the run's endless stream: permutation after permutation of the split.

        What takes from other images comes in the order in which each step can still make good the one before: the
        image is placed, alone or in a mosaic; objects are pasted while all that is there is opaque, so that what
        they hide is known; mixup blends the finished image; the style is laid over all of it, pasted objects too.
        The principal colors come last, since a style would undo them. `strength` grows ranges, never chances.

        Args:
            position: number of the sample since the start of the run.
            epochs: planned length of the run; decides how much mosaic there is.
            input_hw: size of the sample; None: the full canvas.
        """
        input_hw, config = input_hw or self.input_hw, self.config
        epoch, place = divmod(position, len(self))
        index = int(self._order(epoch)[place])
        rng = np.random.default_rng([_SAMPLES, config.seed, epoch, index])
        strength = augment_strength(config, position / len(self))
        if rng.random() < mosaic_fraction(config, position / len(self), epochs):
            partners = rng.integers(len(self), size=3)
            samples = [self.sample(index), *(self.sample(int(partner)) for partner in partners)]
            sample = mosaic(samples, input_hw, config, rng)
        else:
            sample = augment(self.sample(index), input_hw, config, rng, strength)
        # Nothing is drawn for what is off, so that a new setting changes no run that does not use it.
        if config.copy_paste and rng.random() < config.copy_paste:
            donor = self.sample(int(rng.choice(len(self), p=self._donor_chances)))
            sample = copy_paste(sample, donor, self._class_weights, config, rng, strength)
        if config.mixup and rng.random() < config.mixup:
            other = self.sample(int(rng.integers(len(self))))
            sample = mixup(sample, augment(other, input_hw, config, rng, strength), rng)
        if config.style_shift and rng.random() < config.style_shift:
            sample = style_shift(sample, self.sample(int(rng.integers(len(self)))).image)
        if config.pca_color:
            sample = pca_shift(sample, self._principal_colors, config, rng, strength)
        return sample

    def color_statistics(self) -> tuple[Floats, Floats]:
        """Return mean [3] and covariance [3, 3] of the RGB levels (0..255), over up to 256 evenly spaced images.

        No variance is below 1. Computed once.
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
        """One over the number of objects of each class [C]; crowd regions are no objects."""
        counts = np.bincount(np.concatenate([a.class_ids[~a.is_crowd] for a in self.annotations]))
        return np.asarray(1 / np.maximum(counts, 1))

    @cached_property
    def _donor_chances(self) -> Doubles:
        """Chance of each image [len] to give objects: the sum of its objects' weights, so that classes are alike."""
        weights = np.array([self._class_weights[a.class_ids[~a.is_crowd]].sum() for a in self.annotations])
        if not weights.any():
            weights += 1  # No image has an object; whichever is asked gives none.
        return np.asarray(weights / weights.sum())

    def _order(self, epoch: int) -> Ints:
        return np.random.default_rng([_ORDER, self.config.seed, epoch]).permutation(len(self))

    def _inner_hw(self, image_hw: tuple[int, int]) -> tuple[int, int]:
        inner_h, inner_w = Letterbox.fit(image_hw, self.input_hw).scaled_hw
        return min(image_hw[0], int(inner_h * _ROOM_TO_ENLARGE)), min(image_hw[1], int(inner_w * _ROOM_TO_ENLARGE))

    def _pixel_bytes(self, annotation: Annotation) -> int:
        height, width = self._inner_hw(annotation.image_hw)
        return height * width * 3

    def _shrink(self, image: ImageArray) -> ImageArray:
        height, width = self._inner_hw((image.shape[0], image.shape[1]))
        if (height, width) == image.shape[:2]:
            return image
        return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA), dtype=np.uint8)

    def _decode_all(self, annotations: tuple[Annotation, ...]) -> Iterator[tuple[Annotation, ImageArray | str]]:
        """Yield every annotation with its image, or with what is wrong with it, a few images ahead."""

        def decode(annotation: Annotation) -> ImageArray | str:
            try:
                image = self._read(annotation)
            except InputError as error:
                return str(error)
            if image.shape[:2] != annotation.image_hw:
                said, seen = annotation.image_hw, image.shape
                return f"the image is {seen[1]}x{seen[0]}, its annotation says {said[1]}x{said[0]}"
            return self._shrink(image)

        with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
            remaining = iter(annotations)
            while block := list(islice(remaining, 64)):
                yield from zip(block, pool.map(decode, block), strict=True)


def augment_strength(config: Config, epoch: float) -> float:
    """Return how much of the augmentation's ranges is used: half at first, since a short run has enough to learn."""
    return 0.5 + 0.5 * min(1.0, epoch / config.augment_ramp) if config.augment_ramp else 1.0


def mosaic_fraction(config: Config, epoch: float, epochs: float) -> float:
    """Return the share of mosaics at a moment of the run; short runs have none, and none has them at its end."""
    if epoch < config.mosaic_from or epoch > epochs * (1 - config.mosaic_off):
        return 0.0
    phase_in = max(1.0, config.mosaic_from / 2)
    return config.mosaic * min(1.0, (epoch - config.mosaic_from) / phase_in)
