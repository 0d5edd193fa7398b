"""The command `gather`."""

import argparse
from typing import TYPE_CHECKING

from detector.cli import console
from detector.cli.arguments import Commands, add_overwrite, path

if TYPE_CHECKING:
    from detector.detecting.formats import OutputFormat


def add(commands: Commands) -> None:
    """Add the command to the parser of all commands."""
    parser = commands.add_parser(
        "gather",
        help="join the results of `detect --shard`",
        description="Join the results of all shards of `detector detect --shard`, after checking that every image is "
        "there exactly once, and that all shards had the same images, weights and options.",
    )
    parser.add_argument(
        "folders", nargs="+", type=path, help="the folder --out of `detect --shard`, or the folders of all shards"
    )
    parser.add_argument("--out", type=path, required=True, help="folder for the joined results")
    add_overwrite(parser)
    parser.add_argument("--csv", action="store_true", help="also write all detections to detections.csv")
    parser.add_argument(
        "--counts", action="store_true", help="also write the number of objects per image and class to counts.csv"
    )
    parser.add_argument(
        "--parquet", action="store_true", help="also write all detections to detections.parquet, with one row per image"
    )


def run(options: argparse.Namespace) -> int:
    """Join the results of all shards, and print their number.

    Returns:
        0, or 3 if some images cannot be read.
    """
    from detector.detecting.gather import gather

    flags: dict[OutputFormat, bool] = {"csv": options.csv, "counts": options.counts, "parquet": options.parquet}
    formats = {name for name, is_set in flags.items() if is_set}
    result = gather(options.folders, options.out, formats=formats, overwrite=options.overwrite)
    console.print_gather_summary(result, options.out)
    return 3 if result.failed else 0
