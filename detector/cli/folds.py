"""The arguments and the work of `evaluate --folds`."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from detector.cli import console
from detector.cli.arguments import add_init_weights, path
from detector.cli.numbers import number, whole
from detector.cli.settings import initial_weights, limit_torch_threads, one_data_set, settings
from detector.output_folder import OutputFolder
from detector.outputs import claim_file

FOLD_FLAGS = ("minutes", "epochs", "init_weights", "reuse_backbone", "config", "set", "model", "seed", "out")
"""Names of the arguments that only --folds uses."""


def add_folds(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the training runs of --folds."""
    runs = parser.add_argument_group("cross-validation", "The training runs of --folds. A repeated command continues.")
    length = runs.add_mutually_exclusive_group()
    length.add_argument("--minutes", type=number, help="length of each run in minutes (default: 10)")
    length.add_argument("--epochs", type=number, help="length of each run in passes over its training images")
    add_init_weights(runs)
    runs.add_argument("--config", type=path, help="YAML file with settings; see configs/README.md")
    runs.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a setting; repeatable")
    runs.add_argument("--model", help="size of the network: pico, nano, small or medium (default: nano)")
    runs.add_argument("--seed", type=whole, help="random seed of each run (default: 0)")
    runs.add_argument("--out", type=path, help="folder for the folds (default: runs/folds)")


def cross_validate(options: argparse.Namespace, inputs: Sequence[Path | None], report: OutputFolder | None) -> int:
    """Cross-validate, print the pooled average precision, write the report, and return the exit status.

    Args:
        options: the flags.
        inputs: files that the command reads, or writes to the folder of the report.
        report: folder of the report; None: it is not written.
    """
    data = one_data_set(options.data, "evaluate --folds: cross-validate on each dataset by itself")
    claim_file(options.json, overwrite=options.overwrite, inputs=(*inputs, options.results))
    claim_file(options.results, overwrite=options.overwrite, inputs=inputs)
    device = None if options.device == "auto" else options.device  # --set and --config may name a device
    config = settings(argparse.Namespace(**vars(options) | {"device": device}))
    limit_torch_threads(options)
    from detector.cross_validating import cross_validate as folds

    out = options.out or Path("runs/folds")
    own = folds.cross_validate(
        data,
        config,
        folds=options.folds,
        out=out,
        split=options.split,
        init_weights=initial_weights(options.init_weights),
        reuse_backbone=options.reuse_backbone,
        overwrite=options.overwrite,
    )
    evaluation = own.evaluation()
    if not options.no_intervals:
        evaluation = evaluation.with_intervals(options.threads)
    evaluation.write(options.json, options.results)
    console.print_average_precision(evaluation.ap)
    console.print_line(own.covers())
    if report is not None:
        from detector.evaluating.report.subject import folds_subject
        from detector.evaluating.report.write import write_report

        report.remove_earlier()
        page = write_report(report, folds_subject(own.folder, own.covers(), own.data), evaluation)
        console.print_line(f"report: {page}")
    return 0
