"""The command `average`."""

import argparse
from shlex import quote

from detector.cli import console
from detector.cli.arguments import TRAINED, Commands, add_overwrite, add_several_data, add_threads, path
from detector.cli.settings import limit_torch_threads, read_options
from detector.wording import metric


def add(commands: Commands) -> None:
    """Add the command to the parser of all commands."""
    parser = commands.add_parser(
        "average",
        help="average the weights of several networks of one architecture",
        description="Write weights that are the mean of several weights (model soup). They must have been trained from "
        "the same weights. The files are not changed.",
    )
    parser.add_argument("weights", nargs="+", help=f"at least two of: {TRAINED}")
    parser.add_argument("--out", type=path, required=True, help="the new .safetensors file")
    add_overwrite(parser)
    add_several_data(parser, required=False, use="; several, if the weights were trained on several")
    add_threads(parser)


def run(options: argparse.Namespace) -> int:
    """Average weights, and print the AP of the average and of its sources."""
    limit_torch_threads(options)
    from detector.averaging.average import average

    read = read_options(options)
    result = average(
        options.weights,
        options.out,
        data=options.data,
        allow_outside=read.allow_outside,
        max_pixels=read.max_pixels,
        overwrite=options.overwrite,
    )
    if result.ap is not None and options.quiet:  # else they are in the log
        for name, ap in zip((str(result.path), *options.weights), (result.ap, *result.sources_ap), strict=True):
            console.print_line(f"{name}: val AP {metric(ap.AP)} AP50 {metric(ap.AP50)}")
    if not options.quiet:
        console.print_line(f"next: detector detect IMAGES --weights {quote(str(result.path))}")
    return 0
