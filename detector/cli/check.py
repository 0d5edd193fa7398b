"""The command `check`."""

import argparse
from pathlib import Path

from detector.cli.arguments import Commands, add_overwrite, add_run, add_several_data, add_threads, path
from detector.cli.console import print_line
from detector.cli.settings import TRAINING_FLAGS, given_flags, limit_torch_threads, one_data_set, settings
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
    add_several_data(parser, use="; one at a time")
    parser.add_argument(
        "--out", type=path, default=Path("check"), help="folder for the images of the check (default: %(default)s)"
    )
    parser.add_argument("--json", type=path, help="also write the findings to this JSON file")
    add_overwrite(parser)
    add_run(parser)
    add_threads(parser)


def run(options: argparse.Namespace) -> int:
    """Check data, network and training before a long run; return 0 for ok, 4 for look, 5 for stop."""
    config, data = settings(options), one_data_set(options.data, "check: check each dataset by itself")
    limit_torch_threads(options)
    from detector.checking.check import check

    claim_file(options.json, overwrite=options.overwrite, inputs=[Path(data)])
    try:
        report = check(
            data, config, out=options.out, split=options.split, report=print_line, overwrite=options.overwrite
        )
    except KeyboardInterrupt:
        print_line("the check is not complete: there is no verdict, and the checks after these lines are missing")
        raise
    print_line(f"{report.verdict}: {len(report.findings)} checks in {report.seconds:.0f} s")
    if options.json:
        write_signed_json(options.json, report.to_json())
    if report.verdict != "stop":
        print_line(f"next: detector train {given_flags(options, TRAINING_FLAGS)}")
    return _EXIT_STATUS[report.verdict]
