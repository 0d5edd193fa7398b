"""The command `train`."""

import argparse
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

from detector.cli import console
from detector.cli.arguments import (
    Commands,
    add_initial_weights,
    add_overwrite,
    add_run,
    add_several_data,
    add_threads,
    path,
    path_or_url,
)
from detector.cli.numbers import number
from detector.cli.settings import STARTED, initial_weights, limit_torch_threads, settings
from detector.errors import ConfigError
from detector.loggers.names import check_loggers
from detector.output_folder import next_free
from detector.trained_classes import MERGED, class_choice

if TYPE_CHECKING:
    from detector.training.run import TrainingResult


def add(commands: Commands) -> None:
    """Add the command to the parser of all commands."""
    parser = commands.add_parser(
        "train",
        help="train on a dataset",
        description="Train a detector: from shipped weights (default), given weights or random weights.",
    )
    add_several_data(
        parser,
        required=False,
        use="; several: train on all of them, with classes merged by name (a class that a dataset does not have is "
        "not labeled there)",
    )
    _add_class_choice(parser)
    add_initial_weights(parser)
    _add_resume(parser)
    parser.add_argument(
        "--unlabeled",
        type=path,
        metavar="DIR",
        help="images without labels to learn from, too: a folder, a .txt file that lists images, or a dataset, whose "
        "labels are not used; the network labels them itself in the middle of the run",
    )
    parser.add_argument(
        "--transform",
        metavar="MODULE:NAME",
        help="own last step of the augmentation: a Python function (sample, rng) -> sample in a module of the working "
        "directory or the environment, such as my_transforms:fog; see docs/how-to/own-transform.md",
    )
    _add_output(parser)
    parser.add_argument("--device", help="device: cpu, cuda, cuda:1, mps (default: a GPU if there is one)")
    _add_data_checks(parser)
    parser.add_argument(
        "--freeze",
        type=number,
        metavar="FRACTION",
        help="fraction of the run in which the backbone keeps its initial weights (default: 0)",
    )
    add_run(parser)
    add_threads(parser)


def _add_class_choice(parser: argparse.ArgumentParser) -> None:
    """Add --classes and --single-class: which classes of the dataset the network learns."""
    parser.add_argument(
        "--classes",
        nargs="+",
        metavar="NAME",
        help="learn only these classes; objects of other classes are background (default: all classes)",
    )
    parser.add_argument(
        "--single-class",
        nargs="?",
        const=MERGED,
        metavar="NAME",
        help=f"merge all classes, or those of --classes, into one class (default name: {MERGED})",
    )


def _add_resume(parser: argparse.ArgumentParser) -> None:
    """Add --resume and --resume-anyway, for an interrupted run."""
    parser.add_argument(
        "--resume",
        type=path_or_url,
        metavar="RUN",
        help="output folder of an interrupted run: continue the run from its last checkpoint, with exactly the same "
        "result as an uninterrupted run; with --data if the dataset has been moved",
    )
    parser.add_argument(
        "--resume-anyway",
        action="store_true",
        help="resume even if the data, run.json, the initial weights, a version, the number of threads, the device or "
        "the machine has changed",
    )


def _add_output(parser: argparse.ArgumentParser) -> None:
    """Add the arguments for the output folder, and for what is written or logged besides the weights."""
    parser.add_argument("--out", type=path_or_url, help="output folder or its URL (default: a new folder in runs/)")
    parser.add_argument(
        "--no-report",
        action="store_true",
        help="do not write report/report.html about the best weights on val at the end of the run",
    )
    parser.add_argument(
        "--val-halves",
        action="store_true",
        help="also write val_halves.json: the AP of the last weights on random halves of the val images, from which "
        "`compare` computes its intervals",
    )
    parser.add_argument(
        "--log",
        nargs="*",
        metavar="LOGGER",
        help="log the run to experiment trackers: tensorboard, mlflow, wandb; a resumed run continues its curves, and "
        "without names, it is not logged any more",
    )
    add_overwrite(parser)


def _add_data_checks(parser: argparse.ArgumentParser) -> None:
    """Add --ignore-check and --allow-dropped: which problems of the data do not stop the run."""
    parser.add_argument(
        "--ignore-check",
        action="store_true",
        default=None,
        help="start the run although the check of the data says stop",
    )
    parser.add_argument(
        "--allow-dropped",
        type=number,
        nargs="?",
        const=1.0,
        metavar="FRACTION",
        help="largest fraction of the label boxes that may be dropped (default: 0.02; without a number: 1, that is, "
        "any number of boxes)",
    )


def run(options: argparse.Namespace) -> int:
    """Train a detector, or resume a run."""
    if options.resume is not None:
        return _resume(options)
    if options.resume_anyway:
        raise ConfigError("train: --resume-anyway needs --resume with the output folder of a run")
    if options.data is None:
        raise ConfigError("train: give --data to start a run, or --resume with the output folder of a run")
    config = settings(options)  # before torch is imported, so that an invalid setting is reported at once
    check_loggers(options.log or ())
    limit_torch_threads(options)
    from detector.training.distributed import joined_processes
    from detector.training.observers import Observers
    from detector.training.train import make_request, run_place, start_run

    with joined_processes() as processes:
        request = make_request(
            options.data,
            config,
            split=options.split,
            weights=initial_weights(options.weights),
            reuse_backbone=options.reuse_backbone,
            unlabeled=options.unlabeled,
            choice=class_choice(options.classes, options.single_class),
            transform=options.transform,
        )
        out = processes.from_first(lambda: options.out or next_free(Path("runs/train")))
        with run_place(out, processes, overwrite=options.overwrite) as folder:
            result = start_run(
                request,
                folder,
                STARTED,
                options.overwrite,
                report=not options.no_report,
                val_halves=options.val_halves,
                processes=processes,
                observers=Observers(loggers=options.log),
            )
    if processes.is_first:
        _print_result(result, options.quiet)
    return 0


def _resume(options: argparse.Namespace) -> int:
    """Resume a run; raise ConfigError if an option that changes the run is given."""
    own = {"command", "resume", "resume_anyway", "data", "unlabeled", "threads", "quiet", "verbose", "no_report", "log"}
    given = {key: value for key, value in vars(options).items() if value is not None and value is not False}
    other = [key for key, value in given.items() if key not in own and value != []]  # 0 was given, too
    if other:
        weights = quote(f"{options.resume}/weights/last.safetensors")
        raise ConfigError(
            f"--resume uses all settings of the run; leave out --{other[0].replace('_', '-')}. To train longer or with "
            f"other settings, start a new run from its weights: detector train --data ... --weights {weights}"
        )
    limit_torch_threads(options)
    from detector.training.distributed import joined_processes
    from detector.training.observers import Observers
    from detector.training.train import resume_run, run_place

    with joined_processes() as processes, run_place(options.resume, processes, resume=True) as folder:
        result = resume_run(
            folder,
            options.resume_anyway,
            STARTED,
            options.data,
            unlabeled=options.unlabeled,
            report=not options.no_report,
            processes=processes,
            observers=Observers(loggers=options.log),
        )
    if processes.is_first:
        _print_result(result, options.quiet)
    return 0


def _print_result(result: "TrainingResult", quiet: bool) -> None:
    """Print a command for the weights; if `quiet`, print the result instead, which else is in the log."""
    if quiet:
        console.print_training_result(result)
    else:
        from detector.url_names import with_urls

        # With the URL before the quotes, because only the URL may need them.
        console.print_line(f"next: detector detect IMAGES --weights {quote(with_urls(str(result.weights)))}")
