"""The argument parser of the command line. This module does not import PyTorch."""

import argparse
from collections.abc import Mapping
from typing import Any, NoReturn, Protocol

import detector
from detector.cli import (
    average,
    check,
    compare,
    completion,
    convert,
    detect,
    evaluate,
    explain,
    export,
    gather,
    info,
    restyle,
    review,
    serve,
    split,
    summary,
    train,
    tune,
    verify,
)
from detector.cli.arguments import Commands, add_verbosity
from detector.escaping import escape_line, shorten_message


class Command(Protocol):
    """The module of a command."""

    def add(self, commands: Commands) -> None:
        """Add the command and its arguments to the parser of all commands."""

    def run(self, options: argparse.Namespace) -> int:
        """Run the command, and return the exit status of the process."""


COMMANDS: Mapping[str, Command] = {
    module.__name__.rpartition(".")[2]: module
    for module in (
        check,
        train,
        detect,
        gather,
        evaluate,
        explain,
        review,
        serve,
        export,
        verify,
        compare,
        tune,
        average,
        summary,
        convert,
        split,
        restyle,
        info,
        completion,
    )
}
"""Name of a command → its module."""


class _Parser(argparse.ArgumentParser):
    """A parser whose messages have no escape sequences, neither from an argument nor for colors."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.color = False  # Python 3.14 prints colors, which would be escaped

    def error(self, message: str) -> NoReturn:
        """Print the usage and a message of one line to standard error, and exit with status 2."""
        super().error(shorten_message(escape_line(message)))


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands; the name of the command is stored as `command` in the parsed arguments."""
    parser: argparse.ArgumentParser = _Parser(
        prog="detector", description=detector.__doc__ and detector.__doc__.splitlines()[0]
    )
    parser.add_argument("--version", action="version", version=detector.__version__)
    commands = parser.add_subparsers(required=True, dest="command", metavar=" | ".join(COMMANDS))
    for module in COMMANDS.values():
        module.add(commands)
    for command in commands.choices.values():
        add_verbosity(command)
    commands.choices["completion"].set_defaults(parser=parser)  # whose arguments the script completes
    return parser
