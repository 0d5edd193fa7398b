"""The command `convert`."""

import argparse
from pathlib import Path
from shlex import quote

from detector.cli import console
from detector.cli.arguments import Commands, add_allow_outside, add_max_pixels
from detector.cli.settings import read_options


def add(commands: Commands) -> None:
    """Add the command to the parser of all commands."""
    parser = commands.add_parser(
        "convert",
        help="convert a dataset to COCO JSON, YOLO or Pascal VOC",
        description="Convert a dataset to another label format, read the result, and compare all its boxes with those "
        "of the source. The source is not changed.",
    )
    parser.add_argument("source", help="dataset in any format that is read, or `scenes`; see docs/data.md")
    parser.add_argument("--to", choices=("coco", "yolo", "voc"), required=True, help="format to write")
    parser.add_argument(
        "--out", type=Path, required=True, help="folder for the converted dataset; it must not exist or be empty"
    )
    parser.add_argument(
        "--images",
        choices=("copy", "link", "none"),
        default="copy",
        help="copy: copy the images; link: create hard links to them, which needs no space but the same drive; none: "
        "only with --to coco: refer to the images of the source, which then needs --allow-outside (default: "
        "%(default)s)",
    )
    parser.add_argument("--split", nargs="+", metavar="NAME", help="convert only these splits (default: all)")
    add_allow_outside(parser)
    add_max_pixels(parser)


def run(options: argparse.Namespace) -> int:
    """Convert a dataset to another label format, and print what was written."""
    from detector.converting.convert import convert

    read = read_options(options)
    result = convert(
        options.source,
        options.to,
        options.out,
        images=options.images,
        splits=options.split,
        allow_outside=read.allow_outside,
        max_pixels=read.max_pixels,
    )
    console.print_conversion(result, quote(str(result.folder)))
    return 0
