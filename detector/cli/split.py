"""The command `split`."""

import argparse
from pathlib import Path
from shlex import quote

from detector.cli.arguments import Commands, add_allow_outside, add_max_pixels
from detector.cli.console import print_line
from detector.cli.numbers import fraction
from detector.cli.settings import read_options
from detector.options import VAL_FRACTION


def add(commands: Commands) -> None:
    """Add the command to the parser of all commands."""
    parser = commands.add_parser(
        "split",
        help="divide a dataset into train, val and test",
        description="Divide the training images of a dataset, in any format, into train, val and test. Writes lists "
        "of the images and a data.yaml, which --data accepts. The images and labels stay where they are.",
    )
    parser.add_argument("data", help="dataset, as for --data of other commands")
    parser.add_argument("--out", type=Path, required=True, help="new folder for the lists and data.yaml")
    parser.add_argument(
        "--val-fraction",
        type=fraction,
        default=VAL_FRACTION,
        help="fraction of the training images for val, at most 0.33 (default: %(default)s)",
    )
    parser.add_argument(
        "--test-fraction",
        type=fraction,
        default=0.0,
        help="fraction of the training images for test, at most 0.33 (default: none)",
    )
    add_allow_outside(parser)
    add_max_pixels(parser)


def run(options: argparse.Namespace) -> int:
    """Divide a dataset into train, val and test by lists of its images, and print the path of the description."""
    read = read_options(options)
    from detector.converting.split import split

    result = split(
        options.data,
        options.out,
        val_fraction=options.val_fraction,
        test_fraction=options.test_fraction,
        allow_outside=read.allow_outside,
        max_pixels=read.max_pixels,
    )
    print_line(", ".join(f"{name}: {count} images" for name, count in result.counts.items()))
    print_line(f"to train: detector train --data {quote(str(result.description))}")
    return 0
