"""The command `compare`."""

import argparse
from pathlib import Path

from detector.cli.arguments import (
    Commands,
    add_data,
    add_initial_weights,
    add_overwrite,
    add_settings,
    add_val_fraction,
    path,
)
from detector.cli.console import print_line
from detector.cli.numbers import count
from detector.cli.settings import initial_weights, settings
from detector.config import override


def add(commands: Commands) -> None:
    """Add the command to the parser of all commands."""
    parser = commands.add_parser(
        "compare",
        help="compare settings on your data",
        description="Train with the given settings (the baseline) and with each variation, with several seeds each, "
        "and compare the AP on val. An interrupted comparison continues where it stopped.",
    )
    add_data(parser)
    add_settings(parser)
    add_val_fraction(parser)
    parser.add_argument(
        "--settings",
        nargs="+",
        required=True,
        metavar="VARIATION",
        help="changed settings: KEY=VALUE, or several in quotes, separated by spaces; KEY={A,B} for a grid; KEY=A..B "
        "or KEY=log:A..B for random numbers; or a file with one variation per line, such as configs/effects.txt",
    )
    parser.add_argument(
        "--steps",
        type=count,
        help="number of steps of each run; required unless --set or --config sets steps or epochs",
    )
    parser.add_argument(
        "--seeds",
        type=count,
        default=3,
        help="number of runs per variation, each with another seed (default: %(default)s)",
    )
    parser.add_argument(
        "--trials",
        type=count,
        default=10,
        help="number of random draws per variation with a range (default: %(default)s)",
    )
    add_initial_weights(parser)
    parser.add_argument("--jobs", type=count, default=1, help="number of runs at the same time (default: %(default)s)")
    parser.add_argument(
        "--out", type=path, default=Path("runs/compare"), help="folder for the results (default: %(default)s)"
    )
    add_overwrite(parser)
    parser.add_argument(
        "--keep-weights", action="store_true", help="keep the weights of the runs (default: remove them)"
    )


def run(options: argparse.Namespace) -> int:
    """Train with each of several settings, and print a table that compares their AP; return 3 if a run failed."""
    base = override(settings(options), [f"steps={options.steps}"] if options.steps else [])
    from detector.comparing.compare import compare
    from detector.comparing.table import to_text

    rows = compare(
        options.data,
        options.settings,
        base,
        out=options.out,
        seeds=options.seeds,
        trials=options.trials,
        jobs=options.jobs,
        weights=initial_weights(options.weights),
        reuse_backbone=options.reuse_backbone,
        keep_weights=options.keep_weights,
        overwrite=options.overwrite,
    )
    for line in to_text(rows).split("\n"):
        print_line(line)
    return 3 if any(row.failed for row in rows) else 0
