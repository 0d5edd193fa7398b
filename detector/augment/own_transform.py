"""Own transforms: load a function of the user by its name, call it, and check that it keeps its promises.

The transform is the last step of the augmentation. It is called by the threads of the data loader.
"""

import hashlib
import importlib
import logging
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path

import numpy as np

from detector.errors import TransformError, did_you_mean
from detector.files import file_sha256
from detector.sample import Sample, UnlabeledRegions
from detector.wording import shown

log = logging.getLogger(__name__)

Transform = Callable[[Sample, np.random.Generator], Sample]
"""A function of the user: gets a sample at the input size and a random generator, and returns a new sample."""

_MAIN = "__main__"

_TOLERANCE = 0.01
"""A box may end so many pixels outside the image: rounding errors of libraries that compute with fractions."""

_REPEATED = 50
"""In training, every sample at a position that is a multiple of this number is transformed twice and compared."""

_SEED = 5
"""First number of the seed of the generator; the dataset and multi-scale training use others."""

_THREADS = 4
"""Number of threads that call the transform at the same time in the check before the training."""

_BRIGHTER, _MARGIN, _FOUND = 64, 3.0, 0.5
"""An object counts as moved away from its box if less than the last fraction of the pixels that change by more than the
first number of levels, when the object is painted, are in its box plus a margin of the second number of pixels."""


@dataclass(frozen=True, eq=False)
class OwnTransform:
    """A transform of the user, and what identifies it.

    Attributes:
        name: `module:name`, by which a process can load it.
        source_hash: hash of the source files of the module, and of the module that defines the callable.
        function: the callable.
        class_count: number of classes of the dataset.
        seed: seed of the run.
    """

    name: str
    source_hash: str
    function: Transform
    class_count: int
    seed: int

    @property
    def fact(self) -> str:
        """Hash and name, as they are saved in a run; the hash first, because messages shorten long texts."""
        return f"source {self.source_hash} of {self.name}"

    def apply(self, sample: Sample, position: int, epoch: int, image: Path) -> Sample:
        """Transform a sample at a position of the run, and check the result.

        Args:
            sample: the sample, which must not be used afterwards.
            position: number of samples before this one in the run.
            epoch: number of the epoch.
            image: path of the image, for error messages.

        Raises:
            TransformError: the transform raised an exception, or broke a promise; the message names the image.
        """
        seed = [_SEED, self.seed, epoch, position]
        if position % _REPEATED:
            return self._call(sample, seed, image)
        given = _copy(sample)
        result = self._call(sample, seed, image)
        self._check_unwritten(given, sample, image)
        self._check_same(result, self._call(given, seed, image), image)
        return result

    def check(self, samples: Sequence[tuple[Path, Sample]]) -> None:
        """Check on some samples that the transform keeps its promises, also without objects and in several threads.

        Log a warning if objects seem to move away from their boxes, which cannot be decided with certainty.

        Args:
            samples: image paths and augmented samples of the run.

        Raises:
            TransformError: a promise is broken; the message names it and the image.
        """
        first = samples[0]
        nothing = np.zeros(0, np.int64)
        empty = replace(
            first[1],
            boxes=np.zeros((0, 4), np.float32),
            class_ids=nothing,
            is_crowd=nothing.astype(np.bool_),
        )
        results = []
        cases = [*samples, (first[0], empty)]
        for index, (image, sample) in enumerate(cases):
            given = _copy(sample)
            results.append(_copy(self._call(given, [_SEED, index], image)))
            self._check_unwritten(sample, given, image)
            self._check_same(results[-1], self._call(_copy(sample), [_SEED, index], image), image)
        with ThreadPoolExecutor(_THREADS) as pool:
            at_once = pool.map(
                lambda item: self._call(_copy(item[1][1]), [_SEED, item[0]], item[1][0]),
                list(enumerate(cases)) * 2,
            )
            for (image, _), before, now in zip(cases * 2, results * 2, at_once, strict=True):
                if not _is_same(before, now):
                    raise self._error(
                        image,
                        "must give the same result when several threads call it at the same time, and does not; it "
                        "must not keep a state between calls (such as a shared pipeline object with an own random "
                        "generator): make the object in each call, or one per thread",
                    )
        self._warn_if_objects_move_away(samples)

    def _call(self, sample: Sample, seed: Sequence[int], image: Path) -> Sample:
        """Call the transform and return its result; raise TransformError if it fails or the result is not valid."""
        try:
            result: object = self.function(sample, np.random.default_rng(list(seed)))
        except Exception as error:
            raise self._error(image, f"raised {type(error).__name__}: {error}") from error
        if not isinstance(result, Sample):
            raise self._error(
                image,
                f"must return a detector.Sample, got {type(result).__name__}; return dataclasses.replace(sample, ...)",
            )
        if (problem := _problem(result, sample, self.class_count)) is not None:
            raise self._error(image, problem)
        return result

    def _check_unwritten(self, before: Sample, after: Sample, image: Path) -> None:
        """Raise TransformError if a sample was changed by the transform."""
        if not _is_same(before, after):
            raise self._error(image, "must not write into the arrays of the sample that it gets; copy them first")

    def _check_same(self, first: Sample, second: Sample, image: Path) -> None:
        """Raise TransformError if two calls with the same sample and generator gave different results."""
        if not _is_same(first, second):
            raise self._error(
                image,
                "must give the same result for the same sample and random generator, and does not; take all random "
                "numbers from the argument rng, not from np.random, random, torch or the generator of a library, and "
                "keep no state between calls",
            )

    def _error(self, image: Path, problem: str) -> TransformError:
        return TransformError(f"transform {self.name}: {image}: {problem}")

    def _warn_if_objects_move_away(self, samples: Sequence[tuple[Path, Sample]]) -> None:
        """Log a warning if the transform moves objects without their boxes: painted objects show where they are."""
        moved = []
        for index, (image, sample) in enumerate(samples):
            if not len(sample.boxes):
                continue
            largest = int(np.argmax(np.prod(sample.boxes[:, 2:] - sample.boxes[:, :2], axis=1)))
            left, top, right, bottom = np.round(sample.boxes[largest]).astype(int).tolist()
            painted = []
            for level in (0, 255):
                pixels = sample.image.copy()
                pixels[top:bottom, left:right] = level
                given = replace(_copy(sample), image=pixels)
                painted.append(self._call(given, [_SEED, index], image))
            if len(painted[0].boxes) != len(sample.boxes):
                continue  # which of the new boxes belongs to the object is not known
            difference = np.abs(painted[1].image.astype(np.int16) - painted[0].image).max(axis=2)
            rows, columns = np.nonzero(difference > _BRIGHTER)
            x1, y1, x2, y2 = painted[0].boxes[largest] + np.array([-1, -1, 1, 1]) * _MARGIN
            inside = (columns + 0.5 >= x1) & (columns + 0.5 <= x2) & (rows + 0.5 >= y1) & (rows + 0.5 <= y2)
            if len(inside) and inside.mean() < _FOUND:
                moved.append(image)
        if moved:
            log.warning(
                "transform %s: in %d of %d images that were checked, such as %s, an object moves away from its box; if "
                "the transform moves pixels, it must move the boxes in the same way",
                self.name, len(moved), len(samples), moved[0],
            )  # fmt: skip


def transform_name(transform: Transform | str) -> str:
    """Return `module:name` of a transform, from which each process can load it.

    Args:
        transform: a function, or another callable that is a global name of its module; or `module:name`.

    Raises:
        TransformError: the callable has no such name, or the text is not `module:name`.
    """
    if isinstance(transform, str):
        before, colon, after = transform.partition(":")
        parts = [*before.split("."), *after.split(".")]
        if not colon or not all(part.isidentifier() for part in parts):
            raise TransformError(
                f"transform: expected module:name, such as my_transforms:fog (the function fog in my_transforms.py), "
                f"got {shown(transform)}"
            )
        return transform
    module: object = getattr(transform, "__module__", None)
    name: object = getattr(transform, "__qualname__", None)
    reason = None
    if not callable(transform):
        reason = f"expected a callable (sample, rng) -> sample, got {shown(transform)}"
    elif not isinstance(module, str) or not isinstance(name, str):
        reason = f"a {type(transform).__name__} has no name from which it can be loaded again"
    elif "<lambda>" in name:
        reason = "a lambda has no name from which it can be loaded again"
    elif "<locals>" in name:
        reason = f"{name} is defined inside another function, so it cannot be loaded again"
    elif _look_up(sys.modules.get(module), name) is not transform:
        reason = f"{module}:{name} is another object"
    if reason is not None:
        raise TransformError(
            f"transform: {reason}; a run stores the name of its transform, so that it can be resumed: define a "
            "function at the top level of a module, or assign the object to a global name there and pass 'module:name'"
        )
    return f"{module}:{name}"


def load_transform(name: str, class_count: int, seed: int) -> OwnTransform:
    """Import a transform.

    The working directory is added to the end of `sys.path`, as `python -m` does.

    Args:
        name: `module:name`, as `transform_name` returns it.
        class_count: number of classes of the dataset.
        seed: seed of the run.

    Raises:
        TransformError: the module or the name does not exist, the import fails, or the source has no file.
    """
    module_name, _, attribute = name.partition(":")
    if (folder := str(Path.cwd())) not in sys.path:
        sys.path.append(folder)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name != module_name.split(".")[0] and error.name != module_name:
            raise TransformError(f"transform {name}: its module needs {error.name}, which is not installed") from None
        raise TransformError(
            f"transform {name}: no module {module_name} in {folder} or in the environment; run the command in the "
            "folder that contains the file, or add that folder to PYTHONPATH"
        ) from None
    except Exception as error:
        raise TransformError(
            f"transform {name}: importing {module_name} raised {type(error).__name__}: {error}"
        ) from error
    place = getattr(module, "__file__", None)
    function = _look_up(module, attribute)
    if function is None:
        where = "this program" if module_name == _MAIN else f"{module_name} ({place})"
        advice = (
            "the run was started by a Python program that defines the transform: resume it in that program, with "
            "detector.resume"
            if module_name == _MAIN
            else did_you_mean(attribute, [own for own in vars(module) if not own.startswith("_")])
        )
        raise TransformError(f"transform {name}: {where} has no {attribute}; {advice}")
    if not callable(function):
        raise TransformError(
            f"transform {name}: expected a callable (sample, rng) -> sample, got {type(function).__name__}"
        )
    definer = sys.modules.get(getattr(function, "__module__", None) or type(function).__module__)
    files = dict.fromkeys(file for own in (module, definer) if (file := getattr(own, "__file__", None)) is not None)
    if place is None or not all(Path(file).is_file() for file in files):
        raise TransformError(
            f"transform {name}: the source of {module_name} is not in a file, as in a notebook, so a resumed run could "
            "not find it; move the function to a .py file and import it"
        )
    digest = hashlib.sha256("".join(file_sha256(Path(file)) for file in files).encode()).hexdigest()[:16]
    return OwnTransform(name, digest, function, class_count, seed)


def _look_up(owner: object, name: str) -> object:
    """Return the attribute of a module with a name that may have dots; None if there is none."""
    return reduce(lambda value, part: getattr(value, part, None), name.split("."), owner)


def _problem(result: Sample, given: Sample, class_count: int) -> str | None:
    """Return which promise the result of a transform breaks; None if it is valid."""
    height, width = given.image.shape[:2]
    image = result.image
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.shape != given.image.shape:
        return (
            f"must return an image of the type uint8 and the shape [{height}, {width}, 3], as it got, returned "
            f"{_describe(image)}"
        )
    if not image.flags.c_contiguous:
        return "must return a contiguous image; use np.ascontiguousarray(image)"
    count = len(result.boxes) if isinstance(result.boxes, np.ndarray) else -1
    for name, dtype, shape in (
        ("boxes", np.float32, (count, 4)),
        ("class_ids", np.int64, (count,)),
        ("is_crowd", np.bool_, (count,)),
    ):
        array = getattr(result, name)
        if not isinstance(array, np.ndarray) or array.dtype != dtype or array.shape != shape:
            rows = "N" if name == "boxes" or count < 0 else str(count)
            shape_text = f"[{rows}, 4]" if name == "boxes" else f"[{rows}], one row for each box"
            return f"must return {name} of the type {np.dtype(dtype)} and the shape {shape_text}, returned " + (
                _describe(array)
            )
    boxes = result.boxes
    low, high = np.full(4, -_TOLERANCE), np.array([width, height] * 2) + _TOLERANCE
    valid = (boxes >= low).all(axis=1) & (boxes <= high).all(axis=1) & (boxes[:, :2] < boxes[:, 2:]).all(axis=1)
    if not valid.all():
        return (
            f"must return boxes (x1, y1, x2, y2) with x1 < x2 and y1 < y2 inside the image of {width}x{height} pixels "
            f"(width x height), returned {boxes[~valid][0].tolist()}; clip boxes to the image with "
            "detector.boxes.clip, and remove those without area, with their class_ids and is_crowd"
        )
    if count and not 0 <= result.class_ids.min() <= result.class_ids.max() < class_count:
        wrong = result.class_ids[(result.class_ids < 0) | (result.class_ids >= class_count)][0]
        return f"must return class_ids from 0 to {class_count - 1}, returned {wrong}"
    if result.image_id != given.image_id:
        return f"must keep image_id {given.image_id}, returned {shown(result.image_id)}"
    return _problem_of_regions(result.unlabeled, given.unlabeled)


def _problem_of_regions(result: UnlabeledRegions | None, given: UnlabeledRegions | None) -> str | None:
    """Return what is wrong with the regions in which classes are not labeled; None if nothing is."""
    if given is None and result is None:
        return None
    if given is None or not isinstance(result, UnlabeledRegions):
        return "must keep the field unlabeled; return dataclasses.replace(sample, ...), not a new Sample"
    if result.boxes.dtype != np.float32 or result.boxes.shape != (len(result.classes), 4):
        return f"must return unlabeled.boxes of the type float32 and the shape [R, 4], got {_describe(result.boxes)}"
    return None


def _describe(value: object) -> str:
    """Return type and shape of an array, or the type of another value."""
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {list(value.shape)}"
    return f"a {type(value).__name__}"


def _arrays(sample: Sample) -> list[np.ndarray]:
    """Return all arrays of a sample."""
    regions = [] if sample.unlabeled is None else [sample.unlabeled.boxes, sample.unlabeled.classes]
    return [sample.image, sample.boxes, sample.class_ids, sample.is_crowd, *regions]


def _is_same(a: Sample, b: Sample) -> bool:
    """Return whether two samples have exactly the same content."""
    ours, theirs = _arrays(a), _arrays(b)
    return len(ours) == len(theirs) and all(np.array_equal(x, y) for x, y in zip(ours, theirs, strict=True))


def _copy(sample: Sample) -> Sample:
    """Return a copy with arrays of its own."""
    unlabeled = sample.unlabeled
    return replace(
        sample,
        image=sample.image.copy(),
        boxes=sample.boxes.copy(),
        class_ids=sample.class_ids.copy(),
        is_crowd=sample.is_crowd.copy(),
        unlabeled=unlabeled and replace(unlabeled, boxes=unlabeled.boxes.copy(), classes=unlabeled.classes.copy()),
    )
