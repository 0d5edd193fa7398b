"""The argument parser of the command line. This module does not import PyTorch."""

import argparse
from collections.abc import Mapping
from typing import Protocol

import detector
from detector.cli import check, compare, convert, detect, evaluate, export, serve, split, summary, train, verify
from detector.cli.arguments import Commands


class Command(Protocol):
    """The module of a command."""

    def add(self, commands: Commands) -> None:
        """Add the command and its arguments to the parser of all commands."""

    def run(self, options: argparse.Namespace) -> int:
        """Run the command, and return the exit status of the process."""


COMMANDS: Mapping[str, Command] = {
    module.__name__.rpartition(".")[2]: module
    for module in (check, train, detect, evaluate, serve, export, verify, compare, summary, convert, split)
}
"""Name of a command → its module."""


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands; the name of the command is stored as `command` in the parsed arguments."""
    parser = argparse.ArgumentParser(prog="detector", description=detector.__doc__ and detector.__doc__.splitlines()[0])
    parser.add_argument("--version", action="version", version=detector.__version__)
    commands = parser.add_subparsers(required=True, dest="command", metavar=" | ".join(COMMANDS))
    for module in COMMANDS.values():
        module.add(commands)
    return parser
