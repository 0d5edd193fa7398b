"""The command `completion`."""

import argparse
import typing
from pathlib import Path

from detector.cli.arguments import Commands, path, path_or_url
from detector.cli.console import print_text
from detector.config import Config

_SHELLS = ("bash", "zsh", "fish")

_NO_FILES = {"address", "classes", "device", "host", "host_name", "set", "split", "storage", "study", "vary"}
"""Arguments whose value is text, but never the name of a file."""


def add(commands: Commands) -> None:
    """Add the command to the parser of all commands."""
    parser = commands.add_parser(
        "completion",
        help="print a script for completion in a shell",
        description="Print a script with which a shell completes commands, options and file names; docs/usage.md says "
        "where to save it.",
    )
    parser.add_argument("shell", choices=_SHELLS, help=f"the shell: {', '.join(_SHELLS)}")


def run(options: argparse.Namespace) -> int:
    """Print the script."""
    import shtab

    parser: argparse.ArgumentParser = options.parser
    for command in _choices(parser).values():
        for action in command._actions:
            _set_values(action)
    print_text(shtab.complete(parser, options.shell))
    return 0


def _choices(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """Return name → parser of all commands."""
    commands = next(action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    return commands.choices


def _set_values(action: argparse.Action) -> None:
    """Say what the values of an argument are: names, files, or neither. The parser is used for nothing else."""
    import shtab

    if action.choices is not None or action.nargs == 0 or action.dest in _NO_FILES:
        return
    if action.dest == "model":
        action.choices = typing.get_args(typing.get_type_hints(Config)["model"])
    elif action.type in (None, Path, path, path_or_url):
        action.complete = shtab.FILE  # type: ignore[attr-defined]
