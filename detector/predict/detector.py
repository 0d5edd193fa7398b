"""The detector as its users hold it: load weights, ask it about images."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt
from PIL import Image

from detector.arrays import ImageArray
from detector.config import Config, parse_value
from detector.detections import Detections
from detector.errors import InputError, did_you_mean
from detector.images import check_array, read_image, to_rgb
from detector.letterbox import Letterbox
from detector.options import IOU_THRESHOLD, MAX_DETECTIONS, SCORE_THRESHOLD, TILE_OVERLAP, RuntimeName
from detector.predict.postprocess import postprocess
from detector.predict.tiling import View, ViewPlan, merge
from detector.runtime.base import Runtime
from detector.runtime.load import load_runtime
from detector.weights_info import WeightsInfo

ImageLike = str | Path | bytes | npt.NDArray[Any] | Image.Image | Callable[[], ImageArray]
"""A path, the bytes of an image file, an RGB array uint8 [H, W, 3], a PIL image, or a function that gives one."""

BATCH = 8
"""Most images that are computed together."""

_BATCH_PIXELS = 2**25
"""ImageArray after which a batch ends early, 100 MB: a few large images must not fill the memory."""

_Laid = tuple[Letterbox, ImageArray]
"""How an image comes onto the canvas, and the canvas."""

_Entry = tuple[ImageArray, list[View], _Laid]
"""An image as it was read, the views of it, and the first of them on the canvas."""


class Detector:
    """A trained network with everything needed to use it on images.

    Args:
        runtime: computes the network.
        info: what its weights say.

    Attributes:
        runtime: what computes.
        info: class names, canvas in training, training facts.
        suppression: what becomes of boxes that overlap, where the caller does not say: as in the weights' settings.
        class_agnostic: whether boxes of different classes suppress each other, likewise.

    Raises:
        InputError: the suppression in the weights' settings makes no sense.
    """

    def __init__(self, runtime: Runtime, info: WeightsInfo) -> None:
        self.runtime = runtime
        self.info = info
        self.suppression: str = _own_setting(info, "suppression", Config.suppression)
        self.class_agnostic: bool = _own_setting(info, "class_agnostic", Config.class_agnostic)

    @classmethod
    def load(
        cls,
        weights: str | Path,
        device: str = "auto",
        long_side: int | None = None,
        runtime: RuntimeName = "auto",
    ) -> "Detector":
        """Load weights: a .safetensors file or a shipped name ("cells", "scenes"), or an exported .onnx file.

        Args:
            weights: a path or a shipped name.
            device: where torch runs: "auto" takes a GPU if there is one.
            long_side: of the canvas in pixels, divides by 32; None: as trained.
            runtime: "auto", "torch", "onnxruntime", "openvino", "openvino-fast"; see `load_runtime`.

        Raises:
            InputError: no such weights, or they are damaged; no such device, runtime or canvas.
        """
        return cls(*load_runtime(weights, runtime, device, long_side))

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, in the order of class ids."""
        return self.info.class_names

    @property
    def input_hw(self) -> tuple[int, int]:
        """Height and width in pixels that images are scaled to."""
        return self.runtime.input_hw

    @overload
    def detect(self, source: ImageLike, **options: Any) -> Detections: ...
    @overload
    def detect(self, source: Sequence[ImageLike], **options: Any) -> list[Detections]: ...

    def detect(self, source: ImageLike | Sequence[ImageLike], **options: Any) -> Detections | list[Detections]:
        """Find the objects in one image, or in each of a list.

        Args:
            source: an image (path, bytes, RGB uint8 array [H, W, 3], PIL image), or a list of them.
            options: as of `detect_each`.

        Returns:
            Detections for an image, a list of them for a list.

        Raises:
            InputError: an image cannot be read; names it.
        """
        if isinstance(source, list | tuple):
            return [_found(answer) for answer in self.detect_each(source, **options)]
        return self._detect_one(source, **options)  # type: ignore[arg-type]

    def detect_each(
        self,
        images: Iterable[ImageLike],
        score_threshold: float = SCORE_THRESHOLD,
        iou_threshold: float = IOU_THRESHOLD,
        max_detections: int = MAX_DETECTIONS,
        class_agnostic: bool | None = None,
        suppression: str | None = None,
        batch: int = BATCH,
        tile: int | None = None,
        overlap: float = TILE_OVERLAP,
        flip: bool = False,
        classes: Sequence[str | int] | None = None,
    ) -> Iterator[Detections | InputError]:
        """Yield the answer for each image in turn, reading a few images ahead; any number of images will do.

        Args:
            images: as for `detect`; they are asked for and read in another thread.
            score_threshold: lowest score that counts, 0..1.
            iou_threshold: overlap above which the lower of two boxes goes, 0..1.
            max_detections: most detections per image.
            class_agnostic: let boxes of different classes suppress each other; None: as the weights' settings say.
            suppression: as of `postprocess`; None: as the weights' settings say.
            batch: most images or views computed together.
            tile: look at tiles of each image too, for what is small in it; their long side in pixels of the image.
                None: look at the whole only. An image with many small objects wants a higher `max_detections` too.
            overlap: least share of a tile that the next one shows too, 0 to below 1. Best larger than an object: what
                no tile shows whole may be found in parts.
            mirror: look at each image, and each tile, mirrored too.
            classes: names or ids of those to find; None: all. Others suppress nothing and do not count.

        Yields:
            Detections, or the InputError of an image that cannot be read, or would need too many tiles.

        Raises:
            InputError: no such suppression or class; a batch, tile or overlap that makes no sense.
        """
        for answer in self.detect_with_images(
            images,
            score_threshold=score_threshold,
            iou_threshold=iou_threshold,
            max_detections=max_detections,
            class_agnostic=class_agnostic,
            suppression=suppression,
            batch=batch,
            tile=tile,
            overlap=overlap,
            flip=flip,
            classes=classes,
        ):
            yield answer if isinstance(answer, InputError) else answer[1]

    def detect_with_images(
        self,
        images: Iterable[ImageLike],
        batch: int = BATCH,
        tile: int | None = None,
        overlap: float = TILE_OVERLAP,
        flip: bool = False,
        **options: Any,
    ) -> Iterator[tuple[ImageArray, Detections] | InputError]:
        """As `detect_each`, but hand on each image [H, W, 3] as it was read, so that nobody reads it again.

        Raises:
            InputError: as of `detect_each`.
        """
        plan = ViewPlan(batch, tile, overlap, flip)
        batches = self._read_batches(images, plan)
        with ThreadPoolExecutor(max_workers=1) as pool:
            ahead = pool.submit(lambda: next(batches, None))
            while (entries := ahead.result()) is not None:
                ahead = pool.submit(lambda: next(batches, None))
                read = [entry for entry in entries if not isinstance(entry, InputError)]
                answers = iter(self._detect_entries(read, plan, **options))
                for entry in entries:
                    yield entry if isinstance(entry, InputError) else (entry[0], next(answers))

    def detect_letterboxed(
        self,
        letterboxed: Sequence[_Laid],
        class_agnostic: bool | None = None,
        suppression: str | None = None,
        classes: Sequence[str | int] | None = None,
        **options: Any,
    ) -> list[Detections]:
        """Find the objects in images that already lie on this detector's canvas.

        Args:
            letterboxed: for each image its letterbox and its canvas [H, W, 3].
            class_agnostic: as of `detect_each`.
            suppression: as of `detect_each`.
            classes: as of `detect_each`.
            options: thresholds, as of `postprocess`.

        Raises:
            InputError: no such suppression or class.
        """
        if not letterboxed:
            return []
        class_ids = None if classes is None else _class_ids(classes, self.class_names)
        predictions = self.runtime.predict([letterboxed for _, letterboxed in letterboxed])
        return postprocess(
            predictions,
            [letterbox for letterbox, _ in letterboxed],
            self.class_names,
            class_agnostic=self.class_agnostic if class_agnostic is None else class_agnostic,
            suppression=self.suppression if suppression is None else suppression,
            classes=class_ids,
            **options,
        )

    def _detect_one(
        self,
        image: ImageLike,
        batch: int = BATCH,
        tile: int | None = None,
        overlap: float = TILE_OVERLAP,
        flip: bool = False,
        **options: Any,
    ) -> Detections:
        plan = ViewPlan(batch, tile, overlap, flip)
        [found] = self._detect_entries([self._enter(image, plan)], plan, **options)
        return found

    def _detect_entries(
        self,
        entries: Sequence[_Entry],
        plan: ViewPlan,
        iou_threshold: float = IOU_THRESHOLD,
        max_detections: int = MAX_DETECTIONS,
        class_agnostic: bool | None = None,
        **options: Any,
    ) -> list[Detections]:
        """Return the answer for each image, from all views of it; these are cut as they are computed."""
        agnostic = self.class_agnostic if class_agnostic is None else class_agnostic
        options |= {"iou_threshold": iou_threshold, "class_agnostic": agnostic}
        wholes = self.detect_letterboxed([laid for _, _, laid in entries], max_detections=max_detections, **options)
        cuts = (view.cut(image, self.input_hw) for image, views, _ in entries for view in views[1:])
        more: list[Detections] = []
        while some := list(islice(cuts, plan.batch)):
            # Not fewer than usual: parts of objects, which the merge leaves out, must not take the place of others.
            more += self.detect_letterboxed(some, max_detections=max(max_detections, MAX_DETECTIONS), **options)
        rest = iter(more)
        return [
            merge(views, [whole, *islice(rest, len(views) - 1)], iou_threshold, max_detections, agnostic)
            for (_, views, _), whole in zip(entries, wholes, strict=True)
        ]

    def _read_batches(self, images: Iterable[ImageLike], plan: ViewPlan) -> Iterator[list[_Entry | InputError]]:
        """Yield as many images at a time as the plan says, or fewer large ones."""
        batch: list[_Entry | InputError] = []
        pixels = 0
        try:
            for count, image in enumerate(images, 1):
                try:
                    entry = self._enter(image, plan)
                    batch.append(entry)
                    pixels += entry[0].shape[0] * entry[0].shape[1]
                except InputError as error:
                    batch.append(error)
                # Counted from the first image, so that a large one does not shift the batches behind it.
                if count % plan.batch == 0 or pixels >= _BATCH_PIXELS:
                    yield batch
                    batch, pixels = [], 0
        except Exception:  # of the caller's images: the answers to those before it come first
            yield batch
            raise
        if batch:
            yield batch

    def _enter(self, image: ImageLike, plan: ViewPlan) -> _Entry:
        """Read an image, and lay the whole of it on the canvas; raises InputError if it cannot be used."""
        image = _read(image)
        views = plan.views((image.shape[0], image.shape[1]), self.input_hw)
        return image, views, views[0].cut(image, self.input_hw)


def _own_setting(info: WeightsInfo, key: str, default: Any) -> Any:
    """Return a setting of the run that made the weights; the default where they do not say."""
    if not isinstance(info.config, Mapping):
        raise InputError(f"the weights' settings are damaged: expected a mapping, got {info.config!r}")
    try:
        return parse_value(key, info.config.get(key, default))
    except InputError as error:
        raise InputError(f"the weights' settings are damaged: {error}") from None


def _class_ids(classes: Sequence[str | int], class_names: tuple[str, ...]) -> list[int]:
    """Return the ids of classes that are given by name, or by id, also as text.

    Raises:
        InputError: there is none of that name or id, or none is given.
    """
    found: list[int] = []
    for wanted in [classes] if isinstance(classes, str) else classes:
        same_name = [class_id for class_id, name in enumerate(class_names) if name == wanted]
        as_id = int(wanted) if str(wanted).isdecimal() else -1
        if not same_name and not 0 <= as_id < len(class_names):
            hint, known = did_you_mean(str(wanted), class_names), "known: " + ", ".join(class_names)
            raise InputError(f"classes: no class {wanted!r}; {hint if hint == known else f'{hint} {known}'}")
        found += same_name or [as_id]
    if not found:
        raise InputError("classes: expected at least one name or id, got none")
    return found


def _read(image: ImageLike) -> ImageArray:
    if isinstance(image, np.ndarray):
        return check_array(image)
    if isinstance(image, Image.Image):
        return to_rgb(image)
    if callable(image):
        return image()
    return read_image(image)


def _found(answer: Detections | InputError) -> Detections:
    if isinstance(answer, InputError):
        raise answer
    return answer
