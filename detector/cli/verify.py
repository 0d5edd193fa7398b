"""The command `verify`."""

import argparse

from detector.cli.arguments import EXPORT_RUNTIMES, Commands, add_threads, path
from detector.cli.console import print_line


def add(commands: Commands) -> None:
    """Add the command to the parser of all commands."""
    parser = commands.add_parser(
        "verify",
        help="check that an export gives the detections in its certificate",
        description="Run an export on the built-in images and compare its detections with those in its certificate. "
        "Works on any machine, without the weights.",
    )
    parser.add_argument(
        "export", type=path, help="an exported file with its certificate beside it, or the folder of an export"
    )
    parser.add_argument(
        "--runtime",
        choices=EXPORT_RUNTIMES,
        default="auto",
        help="inference backend that runs the export (default: %(default)s)",
    )
    add_threads(parser)


def run(options: argparse.Namespace) -> int:
    """Compare an export with its certificate, and print the differences."""
    from detector.exporting.verify import verify

    result = verify(options.export, runtime=options.runtime, threads=options.threads)
    print_line(
        f"{options.export}: the detections match the certificate, which was written with "
        f"{result.certificate.runtime}: {result.parity} (the certificate has boxes rounded to 0.001 px "
        "and scores rounded to 0.000001)"
    )
    return 0
