"""The command `info`."""

import argparse
import json

from detector.cli.arguments import WEIGHTS, Commands
from detector.cli.console import print_line


def add(commands: Commands) -> None:
    """Add the command to the parser of all commands."""
    parser = commands.add_parser(
        "info",
        help="print what a bug report needs",
        description="Print versions, machine and runtimes, and the classes, data and AP of weights: what a bug report "
        "needs. The output contains no path and no name of a user.",
    )
    parser.add_argument("weights", nargs="?", help=f"{WEIGHTS} (default: none)")
    parser.add_argument("--json", action="store_true", help="print a JSON object")


def run(options: argparse.Namespace) -> int:
    """Print facts about this installation, this machine and weights."""
    from detector.describing.info import collect_info

    info = collect_info(options.weights)
    for line in json.dumps(info.to_json(), indent=1).split("\n") if options.json else info.lines():
        print_line(line)
    return 0
