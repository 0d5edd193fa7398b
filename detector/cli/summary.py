"""The command `summary`."""

import argparse

from detector.cli.arguments import TRAINED, Commands, add_settings
from detector.cli.console import print_line
from detector.cli.numbers import count
from detector.cli.settings import settings


def add(commands: Commands) -> None:
    """Add the command to the parser of all commands."""
    parser = commands.add_parser(
        "summary",
        help="print the layers of a network",
        description="Print the output shape, number of parameters, FLOPs and receptive field of each layer.",
    )
    add_settings(parser)
    parser.add_argument("--weights", help=f"print the network of these weights: {TRAINED}")
    parser.add_argument(
        "--classes", type=count, default=20, help="number of classes, without --weights (default: %(default)s)"
    )


def run(options: argparse.Namespace) -> int:
    """Print a table of the layers of a network."""
    config = settings(options)
    from detector.describing.describe import describe

    for line in describe(config, options.weights, options.classes):
        print_line(line)
    return 0
