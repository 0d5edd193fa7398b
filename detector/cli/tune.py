"""The command `tune`."""

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
from detector.cli.numbers import count, number
from detector.cli.settings import initial_weights, settings
from detector.config import override
from detector.output_folder import next_free

_OUT = Path("runs/tune")


def add(commands: Commands) -> None:
    """Add the command to the parser of all commands."""
    parser = commands.add_parser(
        "tune",
        help="search for better settings on your data",
        description="Search for settings with a higher AP on val than the given ones (the defaults), then compare the "
        "best with the defaults, with new seeds. The same command continues after an interruption, and with --storage "
        "it joins: several processes and machines share one search. Needs the extra tune.",
    )
    add_data(parser)
    add_settings(parser)
    add_val_fraction(parser)
    parser.add_argument(
        "--minutes-total",
        type=number,
        required=True,
        metavar="MINUTES",
        help="length of the search with the final comparison, as the sum over all workers: two workers need half of it",
    )
    parser.add_argument(
        "--vary",
        nargs="+",
        metavar="KEY=VALUES",
        help="what to vary, as in `compare`: KEY=A..B or KEY=log:A..B for a range, KEY={A,B} for a list (default: "
        "twelve settings of learning rates, loss and augmentation; see docs/tune.md)",
    )
    parser.add_argument(
        "--steps", type=count, help="number of steps of the full run of a trial (default: planned from --minutes-total)"
    )
    parser.add_argument(
        "--seeds",
        type=count,
        default=5,
        help="number of seeds of the final comparison, at least 2 (default: %(default)s)",
    )
    parser.add_argument(
        "--trials", type=count, help="largest number of trials; the search also ends when its time is over"
    )
    add_initial_weights(parser)
    parser.add_argument(
        "--storage",
        metavar="PLACE",
        help="where the workers share the search: a database URL, such as sqlite:///tune.db, or the path of a journal "
        "file on a shared disk (default: a file in --out, for one worker)",
    )
    parser.add_argument(
        "--study", default="detector", metavar="NAME", help="name of the search in --storage (default: %(default)s)"
    )
    parser.add_argument(
        "--out",
        type=path,
        help=f"folder for the results of this worker (default: {_OUT}; with --storage: a new folder in runs/)",
    )
    add_overwrite(parser)


def run(options: argparse.Namespace) -> int:
    """Search for better settings, and print the final comparison; return 3 if one of its runs failed."""
    base = override(settings(options), [f"steps={options.steps}"] if options.steps else [])
    from detector.comparing.table import to_text
    from detector.tuning.tune import tune

    result = tune(
        options.data,
        base,
        minutes_total=options.minutes_total,
        vary=options.vary,
        out=options.out or (next_free(_OUT) if options.storage else _OUT),
        storage=options.storage,
        study=options.study,
        seeds=options.seeds,
        trials=options.trials,
        weights=initial_weights(options.weights),
        reuse_backbone=options.reuse_backbone,
        overwrite=options.overwrite,
    )
    for line in to_text(result.rows).split("\n") if result.rows else []:
        print_line(line)
    for line in result.lines():
        print_line(line)
    if result.best is not None:
        print_line(f"next: detector train --config {result.folder / 'best.yaml'} --data ...")
    return 3 if any(row.failed for row in result.rows) else 0
