"""Objects made from the arguments of several commands: settings of a run, options for reading files, detectors."""

import argparse
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from shlex import join, quote
from typing import TYPE_CHECKING, Any

from detector.config import Config, override, parse_value, read_config
from detector.errors import ConfigError
from detector.options import MAX_PIXELS, ReadOptions
from detector.shipped_weights import find_shipped

if TYPE_CHECKING:
    from detector.predict.detector import Detector

STARTED = time.monotonic()
"""Start of the process. A length of a training run in minutes includes the time since this moment."""

_SETTING_FLAGS = (
    "allow_outside", "max_pixels", "model", "batch", "seed", "device", "allow_dropped", "ignore_check", "minutes",
    "epochs", "val_fraction", "freeze",
)  # fmt: skip
"""Flags with the same name as a setting."""


TRAINING_FLAGS = (
    "data", "split", "config", "set", "model", "imgsz", "minutes", "epochs", "val_fraction", "seed", "batch",
    "allow_outside", "max_pixels", "threads",
)  # fmt: skip
"""Flags that `check` and `train` share."""


def given_flags(options: argparse.Namespace, names: Iterable[str]) -> str:
    """Return the flags with these names that were given on the command line, as text for a shell.

    >>> given_flags(argparse.Namespace(data="my images", set=["a=1", "b=2"], seed=None), ["data", "set", "seed"])
    "--data 'my images' --set a=1 --set b=2"
    """
    words: list[str] = []
    for name in names:
        value, flag = getattr(options, name), f"--{name.replace('_', '-')}"
        if value is True:
            words.append(flag)
        elif value is not None and value is not False:  # 0 is a value
            for item in value if isinstance(value, list) else [value]:
                words += [flag, f"{item:g}" if isinstance(item, float) else str(item)]
    return join(words)


def one_data_set(data: Sequence[str], advice: str) -> str:
    """Return the only dataset in the value of --data.

    Args:
        data: value of --data.
        advice: the command, and what to do instead, for the error message.

    Raises:
        ConfigError: there are several datasets.
    """
    if len(data) > 1:
        raise ConfigError(f"{advice}: --data was given {len(data)} datasets ({', '.join(data)}), expected one")
    return data[0]


def initial_weights(flag: str | None) -> str:
    """Return the initial weights of a run: the value of a flag, or "auto" if it was not given."""
    return "auto" if flag is None else flag


def settings(options: argparse.Namespace) -> Config:
    """Return the settings of a run: those of the file --config, changed by --set, then by flags such as --model."""
    config = override(read_config(options.config) if options.config else Config(), options.set)
    flags = {"imgsz": "input_size"} | {key: key for key in _SETTING_FLAGS}
    given = {name: getattr(options, flag, None) for flag, name in flags.items()}
    return apply_flags(config, {key: value for key, value in given.items() if value is not None})


def apply_flags(config: Config, flags: dict[str, Any]) -> Config:
    """Return the configuration with the values of flags; --minutes or --epochs replaces any other length of the run.

    Args:
        config: configuration from the file and --set.
        flags: name of a setting → value from the command line.
    """
    if flags.keys() & {"minutes", "epochs"}:
        config = replace(config, minutes=None, epochs=None, steps=None)
    return replace(config, **{key: parse_value(key, value) for key, value in flags.items()})


def limit_torch_threads(options: argparse.Namespace) -> None:
    """Set the number of threads with which torch trains in this process, if --threads is given."""
    if options.threads is not None:
        from detector.runtime.hardware import limit_threads

        limit_threads(options.threads)


def load_detector(options: argparse.Namespace, weights: str | Sequence[str] | None = None) -> "Detector":
    """Return the detector that the flags of `add_input_size` and `add_backend` describe; several weights: an ensemble.

    Args:
        options: the flags of a command.
        weights: the weights; None: those of --weights.
    """
    from detector.predict.detector import Detector
    from detector.predict.ensemble import Ensemble

    def load(one: str) -> "Detector":
        return Detector.load(
            one,
            device=options.device,
            runtime=options.runtime,
            input_size=options.imgsz,
            threads=options.threads,
        )

    weights = weights or options.weights
    return load(weights) if isinstance(weights, str) else Ensemble([load(one) for one in weights])


def one_or_several(weights: Sequence[str]) -> str | list[str]:
    """Return the weights of a flag that may have several values: a text if there is one, else a list."""
    return weights[0] if len(weights) == 1 else list(weights)


def are_weights(value: str) -> bool:
    """Return whether an argument that may be weights or an image is weights.

    That is a .safetensors, .onnx or .tflite file, also at a URL of an object store, the folder of an OpenVINO or ncnn
    export, or the name of shipped weights, if no file or folder has this name.
    """
    from detector.object_store import is_store_url
    from detector.runtime.origin import is_folder, weights_files

    if "://" in value and not is_store_url(value):
        return False  # a stream, which may have any name
    path = Path(value)
    if path.suffix.lower() in (".safetensors", ".onnx", ".tflite"):
        return True
    if is_folder(path) and all(file.is_file() for file in weights_files(path.absolute())):
        return True
    return find_shipped(value) is not None and not path.exists()


def one_set_of_weights(command: str, weights: str, others: Sequence[str]) -> None:
    """Raise ConfigError if weights are among the arguments after those of --weights, for a command that takes one.

    Args:
        command: name of the command.
        weights: the value of --weights.
        others: the other arguments.
    """
    if more := [other for other in others if are_weights(other)]:
        raise ConfigError(
            f"{command}: {more[0]} is weights, not images, and {command} works on a single network, not on an "
            f"ensemble; give one set of weights, such as --weights {quote(weights)}"
        )


def read_options(options: argparse.Namespace) -> ReadOptions:
    """Return the options for reading files from the flags of a command; a missing flag has its default value."""
    return ReadOptions(
        allow_outside=bool(getattr(options, "allow_outside", None)),
        allow_url=getattr(options, "allow_url", False),
        recursive=getattr(options, "recursive", False),
        image_column=getattr(options, "image_column", None),
        name_column=getattr(options, "name_column", None),
        max_pixels=options.max_pixels or MAX_PIXELS,
    )
