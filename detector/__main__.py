"""`python -m detector` is the `detector` command."""

import sys

from detector.cli.commands import main

if __name__ == "__main__":
    sys.exit(main())
