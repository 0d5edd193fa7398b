"""The training pictures: decoded once into memory where they fit, then augmented anew in every epoch.

What picture number k of a run looks like depends on (seed, k) alone, whoever asks and in whatever order.
"""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from detector.annotation import Annotation
from detector.config import Config
from detector.data.augment import augment
from detector.data.mosaic import mosaic
from detector.data.sample import Sample
from detector.data.split import Split
from detector.errors import InputError
from detector.images import Pixels
from detector.letterbox import Letterbox

_ROOM_TO_ENLARGE = 1.5
"""Pictures are kept at this many times the canvas: enough to enlarge, and no memory lost on pixels never seen."""

_ORDER, _SAMPLES = 1, 2
"""First number of every seed, so that the order of pictures and their augmentation are different streams."""

_MEMORY_SHARE = 0.5
"""Share of the free memory that decoded pictures may take."""


class DetectionDataset:
    """Pictures and objects of one split, ready to be drawn as training samples.

    Decodes every picture once; one that fails, or is of another size than the data set says, is left out and its
    boxes are entered in the split's ledger as dropped.

    Args:
        split: as read.
        canvas_hw: full size of the samples.
        config: augmentation settings and seed.

    Attributes:
        canvas_hw, config: as given.
        annotations: of the pictures that are there.
        in_memory: whether the decoded pictures are kept.

    Raises:
        InputError: no picture is left.
    """

    def __init__(self, split: Split, canvas_hw: tuple[int, int], config: Config) -> None:
        self.canvas_hw = canvas_hw
        self.config = config
        self._read = split.read_image
        needed = sum(self._pixel_bytes(annotation) for annotation in split.annotations)
        self.in_memory = needed <= _MEMORY_SHARE * available_memory()
        self._pictures: list[Pixels] = []
        kept = []
        for annotation, picture in self._decode_all(split.annotations):
            if isinstance(picture, str):
                rows, crowd = len(annotation.boxes), int(annotation.is_crowd.sum())
                split.ledger.lose_picture(annotation.image_path, rows, crowd, picture)
                continue
            kept.append(annotation)
            if self.in_memory:
                self._pictures.append(picture)
        if not kept:
            raise InputError(f"split '{split.name}' has no picture to train on")
        self.annotations = tuple(kept)

    def __len__(self) -> int:
        return len(self.annotations)

    def sample(self, index: int) -> Sample:
        """Return picture `index` without augmentation, shrunk if it is much larger than the canvas."""
        annotation = self.annotations[index]
        image = self._pictures[index] if self.in_memory else self._shrink(self._read(annotation))
        height, width = annotation.image_hw
        scale = np.array([image.shape[1] / width, image.shape[0] / height] * 2, dtype=np.float32)
        return Sample(image, annotation.boxes * scale, annotation.class_ids, annotation.is_crowd, annotation.image_id)

    def training_sample(self, position: int, epochs: float, canvas_hw: tuple[int, int] | None = None) -> Sample:
        """Return the picture at a position of the run's endless stream: permutation after permutation of the split.

        Args:
            position: number of the sample since the start of the run.
            epochs: planned length of the run; decides how much mosaic there is.
            canvas_hw: size of the sample; None: the full canvas.
        """
        canvas_hw = canvas_hw or self.canvas_hw
        epoch, place = divmod(position, len(self))
        index = int(self._order(epoch)[place])
        rng = np.random.default_rng([_SAMPLES, self.config.seed, epoch, index])
        if rng.random() < mosaic_share(self.config, position / len(self), epochs):
            partners = rng.integers(len(self), size=3)
            samples = [self.sample(index), *(self.sample(int(partner)) for partner in partners)]
            return mosaic(samples, canvas_hw, self.config, rng)
        strength = augment_strength(self.config, position / len(self))
        return augment(self.sample(index), canvas_hw, self.config, rng, strength)

    def colour_statistics(self) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Return mean [3] and deviation [3] of the RGB levels (0..255), over up to 256 evenly spaced pictures."""
        indices = np.unique(np.linspace(0, len(self) - 1, min(len(self), 256)).astype(int))
        total, total_squares, count = np.zeros(3), np.zeros(3), 0
        for index in indices:
            # Every 4th pixel each way tells the same, sixteen times faster.
            pixels = self.sample(int(index)).image[::4, ::4].reshape(-1, 3).astype(np.float64)
            total += pixels.sum(axis=0)
            total_squares += (pixels**2).sum(axis=0)
            count += len(pixels)
        mean = total / count
        deviation = np.sqrt(np.maximum(total_squares / count - mean**2, 1))
        return mean.astype(np.float32), deviation.astype(np.float32)

    def _order(self, epoch: int) -> npt.NDArray[np.int64]:
        return np.random.default_rng([_ORDER, self.config.seed, epoch]).permutation(len(self))

    def _inner_hw(self, image_hw: tuple[int, int]) -> tuple[int, int]:
        inner_h, inner_w = Letterbox.fit(image_hw, self.canvas_hw).inner_hw
        return min(image_hw[0], int(inner_h * _ROOM_TO_ENLARGE)), min(image_hw[1], int(inner_w * _ROOM_TO_ENLARGE))

    def _pixel_bytes(self, annotation: Annotation) -> int:
        height, width = self._inner_hw(annotation.image_hw)
        return height * width * 3

    def _shrink(self, image: Pixels) -> Pixels:
        height, width = self._inner_hw((image.shape[0], image.shape[1]))
        if (height, width) == image.shape[:2]:
            return image
        return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA), dtype=np.uint8)

    def _decode_all(self, annotations: tuple[Annotation, ...]) -> Iterator[tuple[Annotation, Pixels | str]]:
        """Yield every annotation with its picture, or with what is wrong with it, a few pictures ahead."""

        def decode(annotation: Annotation) -> Pixels | str:
            try:
                image = self._read(annotation)
            except InputError as error:
                return str(error)
            if image.shape[:2] != annotation.image_hw:
                said, seen = annotation.image_hw, image.shape
                return f"the picture is {seen[1]}x{seen[0]}, its annotation says {said[1]}x{said[0]}"
            return self._shrink(image)

        with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
            remaining = iter(annotations)
            while block := list(islice(remaining, 64)):
                yield from zip(block, pool.map(decode, block), strict=True)


def augment_strength(config: Config, epoch: float) -> float:
    """Return how much of the augmentation's ranges is used: half at first, since a short run has enough to learn."""
    return 0.5 + 0.5 * min(1.0, epoch / config.augment_ramp) if config.augment_ramp else 1.0


def mosaic_share(config: Config, epoch: float, epochs: float) -> float:
    """Return the share of mosaics at a moment of the run; short runs have none, and none has them at its end."""
    if epoch < config.mosaic_from or epoch > epochs * (1 - config.clean_end):
        return 0.0
    phase_in = max(1.0, config.mosaic_from / 2)
    return config.mosaic * min(1.0, (epoch - config.mosaic_from) / phase_in)


def available_memory() -> int:
    """Return the bytes of memory that can be taken without swapping; 2 GiB where the system does not tell."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        pass
    return 2 << 30
