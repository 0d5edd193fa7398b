"""Run a command of the package from a checkout that is not installed."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from detector.cli.commands import main


def run_command(script: str) -> None:
    """Run the command with the same name as `script` on the arguments of this process, and exit with its status."""
    sys.exit(main([Path(script).stem, *sys.argv[1:]]))
