"""Information about trained weights, stored as text in the metadata of every weights file and every graph file."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from detector.errors import WeightsError
from detector.image_hashes import NO_IMAGES, ImageHashes, hashes_from_json
from detector.letterbox import LARGEST_SIDE, SIZE_DIVISOR, input_hw_for_aspect
from detector.score_decisions import ChosenThresholds, ScoreMap
from detector.trained_classes import TrainedClasses

FORMAT = "detector-weights-2"

_IMAGE_HASHES = "image_hashes"
"""Key of the hashes of the training images. It is optional: older files do not have it."""

_THRESHOLDS, _SCORE_MAP = "thresholds", "score_map"
"""Keys of what `detector evaluate --save` has stored. They are optional too."""

_DEFAULT_CLASSES = "default_classes"
"""Key of the classes that are detected by default. It is optional too."""

_TRAINED_CLASSES = "trained_classes"
"""Key of how the classes follow from those of the training data. It is optional too."""

MAX_CLASSES = 65_536
"""Largest number of classes. A file with more classes is damaged, or made to exhaust the memory."""

_LARGEST_OWN_SIDE = 4096
"""Largest side of the network input in pixels that a file may choose; for a larger side, the user must ask."""

_LARGEST_ID = 2**63 - 1
"""Largest category id: that of an int64."""


ATTRIBUTION = "attribution"
"""Fact in the metadata of weights: who must be named when the weights are distributed."""


@dataclass(frozen=True)
class WeightsInfo:
    """Information needed to use trained weights, and facts about the training run that created the weights.

    Attributes:
        model: name of the network size, such as "nano".
        class_names: C names, in the order of class ids.
        category_ids: C category ids, as in the annotation files of the training data, in the order of class ids.
        input_hw: height and width of the network input in training, in pixels.
        config: the settings of the training run.
        facts: facts about the training run: data, number of images, steps, seconds, AP on val, versions.
        image_hashes: hashes of the images of the training run. Files written by older versions have none.
        thresholds: score threshold of each class, chosen on val; None: none were chosen.
        score_map: map from scores to probabilities, fitted on val; None: none was fitted.
        default_classes: ids of the classes that are detected if the user names none; None: all classes.
        trained_classes: how the classes follow from those of the training data; None: they are the same.
    """

    model: str
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    input_hw: tuple[int, int]
    config: Mapping[str, Any]
    facts: Mapping[str, Any]
    image_hashes: ImageHashes = field(default=NO_IMAGES, repr=False)
    thresholds: ChosenThresholds | None = None
    score_map: ScoreMap | None = None
    default_classes: tuple[int, ...] | None = None
    trained_classes: TrainedClasses | None = None

    @property
    def has_fixed_input(self) -> bool:
        """Whether the network accepts only the input size `input_hw`; see `ArchitectureConfig.has_fixed_input`."""
        return self.config.get("head") == "yolo_v1" and self.config.get("cell_output") == "dense"

    def choose_input_hw(self, input_size: int | None, source: str) -> tuple[int, int]:
        """Return the height and width of the network input, in pixels.

        Args:
            input_size: requested long side, a multiple of 32; the aspect ratio of the training is kept as far as
                multiples of 32 allow. None: the input size of the training or of the export.
            source: name of the file, for error messages.

        Raises:
            ConfigError: `input_size` is not a multiple of 32, or is too large.
            WeightsError: `input_size` is None, and the input size in the file needs so much memory that the user must
                ask for it; or the network accepts only another input size.
        """
        height, width = self.input_hw
        if self.has_fixed_input and input_size not in (None, max(height, width)):
            raise WeightsError(
                f"{source}: the network has fully connected layers (cell_output=dense) and accepts only inputs of "
                f"{width}x{height} pixels (width x height), not {input_size}; leave out --imgsz (in Python, "
                f"input_size), or train a network with --imgsz {input_size}"
            )
        if input_size is not None and input_size != max(height, width):
            return input_hw_for_aspect(input_size, width / height)
        if input_size is None and max(height, width) > _LARGEST_OWN_SIDE:
            raise WeightsError(
                f"{source}: the file asks for an input size of {width}x{height} pixels (width x height), which needs a "
                f"lot of memory; to use it nevertheless, pass --imgsz {max(height, width)} (in Python, input_size); "
                f"above {_LARGEST_OWN_SIDE} pixels, the input size of a file is not used by default"
            )
        return height, width


def to_metadata(info: WeightsInfo) -> dict[str, str]:
    """Return the metadata for a file: the name of each attribute, and its value as JSON text."""
    texts = {key: json.dumps(getattr(info, key)) for key in _METADATA_RULES}
    optional = {
        _IMAGE_HASHES: info.image_hashes,
        _THRESHOLDS: info.thresholds,
        _SCORE_MAP: info.score_map,
        _TRAINED_CLASSES: info.trained_classes,
    }
    texts |= {key: json.dumps(value.to_json()) for key, value in optional.items() if value is not None}
    if info.default_classes is not None:
        texts[_DEFAULT_CLASSES] = json.dumps(info.default_classes)
    return {"format": FORMAT} | texts


def from_metadata(metadata: Mapping[str, str], source: str) -> WeightsInfo:
    """Parse the metadata that `to_metadata` wrote, and return the information.

    Args:
        metadata: metadata of a file.
        source: name of the file, for error messages.

    Raises:
        WeightsError: the file was written by another program or version, or its metadata is damaged.
    """
    if (found := metadata.get("format")) != FORMAT:
        raise WeightsError(
            f"{source}: written by another program or version (format {found!r}, expected {FORMAT!r}): "
            "use weights written by `detector train` or `detector export`"
        )
    check_text_lengths(metadata, source)
    try:
        values = {key: json.loads(metadata[key]) for key in _METADATA_RULES}
        stored = metadata.get(_IMAGE_HASHES)
        image_hashes = NO_IMAGES if stored is None else _parse_image_hashes(stored)
        chosen, fitted = (json.loads(metadata.get(key, "null")) for key in (_THRESHOLDS, _SCORE_MAP))
        thresholds = None if chosen is None else ChosenThresholds.from_json(chosen)
        score_map = None if fitted is None else ScoreMap.from_json(fitted)
        default_classes = json.loads(metadata.get(_DEFAULT_CLASSES, "null"))
        made = json.loads(metadata.get(_TRAINED_CLASSES, "null"))
        trained_classes = None if made is None else TrainedClasses.from_json(made)
    except (KeyError, ValueError, TypeError, OverflowError, RecursionError) as error:
        raise damaged(source, error) from None
    for key, rule in _METADATA_RULES.items():
        if not rule.fits(values[key]):
            raise WeightsError(f"{source}: the metadata is damaged: {key} must be {rule.description}")
    height, width = values.pop("input_hw")
    class_names, category_ids = tuple(values.pop("class_names")), tuple(values.pop("category_ids"))
    if len(category_ids) != len(class_names):
        raise damaged(source, ValueError(f"{len(class_names)} class names, {len(category_ids)} category ids"))
    if thresholds is not None and len(thresholds.values) != len(class_names):
        raise damaged(source, ValueError(f"{len(class_names)} class names, {len(thresholds.values)} thresholds"))
    if trained_classes is not None and len(trained_classes.groups) != len(class_names):
        raise damaged(source, ValueError(f"{len(class_names)} class names, {len(trained_classes.groups)} groups"))
    if default_classes is not None:
        is_valid = _is_list_of(int)(default_classes) and all(0 <= item < len(class_names) for item in default_classes)
        if not is_valid or len(set(default_classes)) != len(default_classes):
            raise damaged(source, ValueError(f"{_DEFAULT_CLASSES} must be a list of different class ids"))
        default_classes = tuple(default_classes)
    return WeightsInfo(
        class_names=class_names,
        category_ids=category_ids,
        input_hw=(height, width),
        image_hashes=image_hashes,
        thresholds=thresholds,
        score_map=score_map,
        default_classes=default_classes,
        trained_classes=trained_classes,
        **values,
    )


def check_text_lengths(metadata: Mapping[str, str], source: str) -> None:
    """Raise WeightsError if a metadata text is too long: parsing it could need a hundred times its memory.

    Args:
        metadata: metadata of a file, before anything in it is parsed.
        source: name of the file, for error messages.
    """
    for key, text in metadata.items():
        longest = _METADATA_RULES[key].longest if key in _METADATA_RULES else _LONGEST_OTHER.get(key, _LONGEST_TEXT)
        if len(text) > longest:
            raise WeightsError(
                f"{source}: the metadata is damaged: {key:.40} has {len(text):,} characters, expected at most "
                f"{longest:,}"
            )


def _parse_image_hashes(text: str) -> ImageHashes:
    """Return the hashes in a metadata text; raise ValueError if it has another form."""
    if text.count(",") > 1:  # base64 has no commas, and a long list would need much more memory than its text
        raise ValueError(f"{_IMAGE_HASHES}: expected the keys train and val")
    return hashes_from_json(json.loads(text))


def _is_list_of(kind: type) -> Callable[[Any], bool]:
    """Return a function that tests whether a value is a list of 1 to `MAX_CLASSES` items, all of type `kind`."""
    return lambda value: (
        isinstance(value, list) and 0 < len(value) <= MAX_CLASSES and all(type(item) is kind for item in value)
    )


def _is_id_list(value: Any) -> bool:
    """Return whether a value is a valid list of category ids."""
    return _is_list_of(int)(value) and all(abs(category_id) <= _LARGEST_ID for category_id in value)


def _is_input_hw(value: Any) -> bool:
    """Return whether a value is a valid input size [height, width]."""
    if not _is_list_of(int)(value) or len(value) != 2 or max(value) > LARGEST_SIDE:
        return False
    return all(side > 0 and side % SIZE_DIVISOR == 0 for side in value)


class _Rule(NamedTuple):
    """A rule for a metadata value.

    Attributes:
        longest: largest number of characters of the JSON text.
        description: description of a valid value, for error messages.
        fits: tests whether a value is valid.
    """

    longest: int
    description: str
    fits: Callable[[Any], bool]


_METADATA_RULES: Mapping[str, _Rule] = {
    "model": _Rule(1000, "a name", lambda value: isinstance(value, str)),
    "class_names": _Rule(64 * MAX_CLASSES, f"a list of 1 to {MAX_CLASSES:,} names", _is_list_of(str)),
    "category_ids": _Rule(32 * MAX_CLASSES, f"a list of 1 to {MAX_CLASSES:,} whole numbers", _is_id_list),
    "input_hw": _Rule(1000, f"two multiples of {SIZE_DIVISOR} up to {LARGEST_SIDE}", _is_input_hw),
    "config": _Rule(100_000, "a mapping of settings", lambda value: isinstance(value, dict)),
    "facts": _Rule(100_000, "a mapping", lambda value: isinstance(value, dict)),
}
"""Key → the rule for its value."""

_LONGEST_OTHER = {
    _IMAGE_HASHES: 100_000_000,
    _THRESHOLDS: 32 * MAX_CLASSES,
    _SCORE_MAP: 1000,
    _DEFAULT_CLASSES: 32 * MAX_CLASSES,
    _TRAINED_CLASSES: 130 * MAX_CLASSES,
}
"""Optional key → largest number of characters of its text."""

_LONGEST_TEXT = 100_000
"""Largest number of characters of the text of any other key."""


def damaged(source: str, error: Exception) -> WeightsError:
    """Return a WeightsError for metadata that cannot be parsed; the caller raises it."""
    return WeightsError(f"{source}: the metadata is damaged ({type(error).__name__}: {error})")
