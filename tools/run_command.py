"""Runs a command of the package `detector` from a checkout, without installing the package."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from detector.cli.commands import main


def run_command(script: str) -> None:
    """Run a command of `detector` with the arguments of this process, and exit with the exit status of the command.

    Args:
        script: path of the calling script, whose stem is the name of the command.
    """
    sys.exit(main([Path(script).stem, *sys.argv[1:]]))
