"""Runs one command of the command line. Everything else is imported inside of `main`, where Ctrl-C is handled.

Exit status: 0: success; 1: an unexpected error, which is a bug; 2: an error the user can fix (one message, no
traceback); 3: some of several images or runs failed; 4 and 5: the verdicts "look" and "stop" of `check`; 130:
interrupted; 141: the program that reads the output has closed it.
"""

import sys
from collections.abc import Sequence

_EXIT_STATUS_AFTER_INTERRUPT = 130
_EXIT_STATUS_OF_CLOSED_PIPE = 141


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command of the command line; return the exit status of the process.

    Args:
        arguments: arguments after the name of the program; None: those of this process.
    """
    try:
        return _run(arguments)
    except KeyboardInterrupt:
        if sys.stderr is not None:
            sys.stderr.write("interrupted\n")
        return _EXIT_STATUS_AFTER_INTERRUPT


def _run(arguments: Sequence[str] | None) -> int:
    """Run one command with standard output and standard error that are safe to print to."""
    from detector.cli.streams import OutputError, escaped_streams

    try:
        with escaped_streams():
            from detector.cli.program import run_command

            return run_command(arguments)
    except OutputError as error:
        if error.reader_is_gone:
            return _EXIT_STATUS_OF_CLOSED_PIPE
        if sys.stderr is not None:
            sys.stderr.write(f"error: {error}\n")
        return 2
