"""Runs one command: parses the arguments, sets up the console, and turns errors into messages and an exit status."""

import argparse
import logging
import os
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

import detector
from detector.cli import console
from detector.cli.parser import COMMANDS, make_parser
from detector.cli.settings import STARTED
from detector.cli.streams import OutputError
from detector.errors import ConfigError, FileError, InputError, PeerError, StorageError

log = logging.getLogger(__name__)

_PACKAGE = Path(detector.__file__).parent


def run_command(arguments: Sequence[str] | None) -> int:
    """Run one command of the command line; return the exit status of the process, as in `commands`.

    Args:
        arguments: arguments after the name of the program; None: those of this process.

    Raises:
        SystemExit: the arguments are wrong, or ask for the help or the version.
    """
    options = make_parser().parse_args(arguments)
    console.set_up_logging(quiet=options.quiet, verbose=options.verbose)
    try:
        _check_working_directory()
        _check_processes(options.command)
        return _run_and_time(options)
    except PeerError:
        return 2  # another process of the run prints the message
    except (InputError, StorageError) as error:
        console.print_error(str(error))
        return 2
    except ImportError as error:
        if (error.name or "").split(".")[0] == "detector":
            return _report_bug(error, options)
        console.print_error(_import_problem(error))
        return 2
    except OutputError:
        raise  # `commands` handles it, outside of the streams
    except Exception as error:
        if _is_out_of_memory(error):
            console.print_error("there is not enough memory; use a smaller --batch or --imgsz")
            return 2
        return _report_bug(error, options)


def _run_and_time(options: argparse.Namespace) -> int:
    """Run the command, and log how long it took."""
    started = time.monotonic()
    try:
        return COMMANDS[options.command].run(options)
    finally:
        seconds = time.monotonic() - started
        log.debug("%s: %.2f s, after %.2f s for the start of the program", options.command, seconds, started - STARTED)


def _check_working_directory() -> None:
    """Raise FileError if the working directory does not exist any more: no relative path would work."""
    try:
        Path.cwd()
    except OSError as error:
        raise FileError(
            f"the working directory cannot be used ({error.strerror}); it was probably deleted: change to another one"
        ) from None


def _check_processes(command: str) -> None:
    """Raise ConfigError if torchrun has started several processes for a command that does not divide its work."""
    count = os.environ.get("WORLD_SIZE", "1")
    if command != "train" and "TORCHELASTIC_RUN_ID" in os.environ and count != "1":
        raise ConfigError(
            f"{command}: torchrun has started {count} processes, which would all do the same work; only train divides "
            f"its work among processes: start {command} without torchrun"
        )


def _import_problem(error: ImportError) -> str:
    """Return the message for a package of others that cannot be imported."""
    if isinstance(error, ModuleNotFoundError):
        return f"this command needs the package {error.name}, which is not installed"
    return f"a package cannot be loaded ({error}); its installation is damaged, or the memory is too small"


def _is_out_of_memory(error: Exception) -> bool:
    """Return True for an error of Python or torch that means too little memory of the machine or of a GPU."""
    torch = sys.modules.get("torch")
    return isinstance(error, MemoryError) or (torch is not None and isinstance(error, torch.OutOfMemoryError))


def _report_bug(error: Exception, options: argparse.Namespace) -> int:
    """Print an unexpected error, with its traceback if --verbose is given; return the exit status."""
    if options.verbose:
        traceback.print_exception(error)
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if _PACKAGE in Path(frame.filename).parents]
    places = [f"{Path(frame.filename).relative_to(_PACKAGE).as_posix()}:{frame.lineno}" for frame in frames]
    console.print_error(
        f"unexpected {type(error).__name__} in {' > '.join(places)}: {error}\nThis is a bug in detector "
        f"{detector.__version__}. Please report this message, the command, and the output of `detector info`"
        + ("" if options.verbose else "; --verbose shows more")
    )
    return 1
