"""The command `check`."""

import argparse
from pathlib import Path

from detector.cli.arguments import Commands, add_data, add_overwrite, add_run, add_threads, path
from detector.cli.console import print_line
from detector.cli.settings import TRAINING_FLAGS, given_flags, limit_torch_threads, settings
from detector.outputs import claim_file, write_signed_json

_EXIT_STATUS = {"ok": 0, "look": 4, "stop": 5}
"""Verdict → exit status."""


def add(commands: Commands) -> None:
    """Add the command to the parser of all commands."""
    parser = commands.add_parser(
        "check",
        help="find problems before a long training run",
        description="Check data, network and training in about a minute. Exit status: 0: ok, 4: look, 5: stop.",
    )
    add_data(parser)
    parser.add_argument(
        "--out", type=path, default=Path("check"), help="folder for the images of the check (default: %(default)s)"
    )
    parser.add_argument("--json", type=path, help="also write the findings to this JSON file")
    add_overwrite(parser)
    add_run(parser)
    add_threads(parser)


def run(options: argparse.Namespace) -> int:
    """Check data, network and training before a long run; return 0 for ok, 4 for look, 5 for stop."""
    config = settings(options)
    limit_torch_threads(options)
    from detector.checking.check import check

    claim_file(options.json, overwrite=options.overwrite, inputs=[Path(options.data)])
    report = check(
        options.data, config, out=options.out, split=options.split, report=print_line, overwrite=options.overwrite
    )
    print_line(f"{report.verdict}: {len(report.findings)} checks in {report.seconds:.0f} s")
    if options.json:
        write_signed_json(options.json, report.to_json())
    if report.verdict != "stop":
        print_line(f"next: detector train {given_flags(options, TRAINING_FLAGS)}")
    return _EXIT_STATUS[report.verdict]
