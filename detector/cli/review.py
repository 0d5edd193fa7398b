"""The command `review`."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

from detector.cli.arguments import Commands, add_data, add_init_weights, add_overwrite, add_settings, add_threads, path
from detector.cli.console import print_line
from detector.cli.numbers import count, fraction, number, whole
from detector.cli.settings import given_flags, initial_weights, limit_torch_threads, one_or_several, settings
from detector.errors import ConfigError
from detector.wording import plural

if TYPE_CHECKING:
    from detector.reviewing.accept import SplitChanges


def add(commands: Commands) -> None:
    """Add the command to the parser of all commands."""
    parser = commands.add_parser(
        "review",
        help="find labels that look wrong",
        description="Train on some folds of the data, detect in the others, and rank the labels that look wrong: "
        "swapped class, loose box, spurious box, missing box, duplicate, wrong size. The dataset is never changed; "
        "--accept writes a corrected copy of the labels.",
    )
    add_data(parser)
    parser.add_argument("--split", help="review only this split (default: all splits together)")
    parser.add_argument(
        "--weights",
        nargs="+",
        help="detect with these weights instead of training; they should not know the images; several: an ensemble",
    )
    add_init_weights(parser)
    parser.add_argument("--folds", type=count, default=3, help="number of folds (default: %(default)s)")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--minutes", type=number, help="length of the training of each fold in minutes (default: 10)")
    length.add_argument("--epochs", type=number, help="length of the training of each fold in passes over its images")
    parser.add_argument("--seed", type=whole, help="random seed of the runs (default: 0)")
    add_settings(parser)
    parser.add_argument(
        "--min-score",
        type=fraction,
        default=0.2,
        help="lowest score of a row that is written (default: %(default)s)",
    )
    parser.add_argument(
        "--accept",
        type=path,
        metavar="ROWS.CSV",
        help="write a corrected copy of the labels to --out, with the suggestion of every row of this file applied",
    )
    parser.add_argument(
        "--out", type=path, help="folder for the results (default: runs/review; with --accept, it must be given)"
    )
    add_overwrite(parser)
    parser.add_argument("--device", help="device: cpu, cuda, cuda:1, mps (default: a GPU if there is one)")
    add_threads(parser)


def run(options: argparse.Namespace) -> int:
    """Rank the labels that look wrong, or write a corrected copy of the labels."""
    if options.accept is not None:
        return _accept(options)
    if options.weights is not None and (given := given_flags(options, ("init_weights", "reuse_backbone"))):
        raise ConfigError(f"review: {given}: nothing is trained with --weights; leave one of them out")
    config = settings(options)
    limit_torch_threads(options)
    from detector.predict.ensemble import Ensemble
    from detector.reviewing.review import review

    weights = None if options.weights is None else one_or_several(options.weights)
    result = review(
        options.data,
        config,
        folds=options.folds,
        weights=Ensemble.load(weights, device=config.device) if isinstance(weights, list) else weights,
        init_weights=initial_weights(options.init_weights),
        reuse_backbone=options.reuse_backbone,
        out=options.out or Path("runs/review"),
        split=options.split,
        min_score=options.min_score,
        overwrite=options.overwrite,
    )
    kinds = ", ".join(f"{kind}: {number}" for kind, number in result.counts().most_common())
    print_line(f"{plural(len(result.rows), 'suspicious row')} for {plural(result.labels, 'label')} ({kinds or 'none'})")
    print_line(f"rows: {result.folder / 'rows.csv'}; {plural(result.sheets, 'sheet')}: {result.folder / 'sheets'}")
    if not result.rows:
        return 0
    print_line(
        "next: look at the sheets; copy the rows that are right, and the first line of rows.csv, to accepted.csv; then"
    )
    print_line(f"  detector review --data {quote(str(options.data))} --accept accepted.csv --out corrected")
    return 0


def _accept(options: argparse.Namespace) -> int:
    """Write a corrected copy of the labels, and print what happened to them."""
    if options.out is None:
        raise ConfigError("review: --accept needs --out with the folder for the corrected labels")
    if options.weights is not None or options.split is not None:
        raise ConfigError("review: --accept applies the rows to all splits; leave out --weights and --split")
    from detector.reviewing.accept import accept

    changes = accept(
        options.data,
        options.accept,
        options.out,
        allow_outside=bool(options.allow_outside),
        overwrite=options.overwrite,
    )
    _print_changes(changes)
    print_line(f"next: detector train --data {quote(str(options.out))} --allow-outside")
    return 0


def _print_changes(changes: "Mapping[str, SplitChanges]") -> None:
    """Print what happened to the labels of each split."""
    for name, own in changes.items():
        print_line(
            f"{name}: {plural(own.found, 'label')} found = {own.kept} kept + {own.changed} changed + {own.removed} "
            f"removed; {own.written} written = {own.kept} kept + {own.changed} changed + {own.added} added"
        )
