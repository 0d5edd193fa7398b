"""Runs one command of the command line.

Exit status: 0: success; 2: an error the user can fix (one message, no traceback); 3: some of several images or runs
failed; 4 and 5: the verdicts "look" and "stop" of `check`. PyTorch is imported only by the commands that need it.
"""

import sys
from collections.abc import Sequence

from detector.cli import console
from detector.cli.parser import COMMANDS, make_parser
from detector.errors import InputError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command of the command line; return the exit status of the process.

    Args:
        arguments: arguments after the name of the program; None: those of this process.
    """
    options = make_parser().parse_args(arguments)
    console.set_up_console()
    try:
        return COMMANDS[options.command].run(options)
    except InputError as error:
        console.print_error(error)
        return 2
    except BrokenPipeError:  # the program that reads the output has closed it, as `head` does
        sys.stdout = None  # nothing is left to flush at exit
        return 141
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
