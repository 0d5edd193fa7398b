"""The names of the loggers, and the check that their packages are installed."""

from collections.abc import Iterable
from importlib.util import find_spec
from typing import Literal, get_args

from detector.errors import ConfigError, MissingPackageError, did_you_mean

LoggerName = Literal["tensorboard", "mlflow", "wandb"]
"""An experiment tracker to which a training run is logged."""

LOGGERS: tuple[LoggerName, ...] = get_args(LoggerName)


def check_loggers(names: Iterable[str]) -> tuple[LoggerName, ...]:
    """Return the loggers, each once, in the order of `LOGGERS`. Nothing is imported.

    Raises:
        ConfigError: there is no logger of this name.
        MissingPackageError: the package of a logger is not installed.
    """
    if isinstance(names, str):
        raise ConfigError(f"loggers: expected a list of names, such as [{names!r}], got the text {names!r}")
    wanted = list(names)
    for name in wanted:
        if name not in LOGGERS:
            raise ConfigError(f"loggers: there is no logger {str(name)[:60]!r}; {did_you_mean(str(name), LOGGERS)}")
    for name in wanted:
        if not _is_installed(name):
            raise MissingPackageError(
                f"the logger {name} needs the package {name}, which is not installed: "
                f"pip install 'grid-detector[{name}]'; or leave {name} out of the loggers"
            )
    return tuple(name for name in LOGGERS if name in wanted)


def _is_installed(module: str) -> bool:
    """Return whether a module is installed. A folder of this name, such as the data of wandb, is not a module."""
    spec = find_spec(module)
    return spec is not None and spec.origin is not None
