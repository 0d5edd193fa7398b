"""Run the `detector` command as `python -m detector`."""

import sys

from detector.cli.commands import main

if __name__ == "__main__":
    sys.exit(main())
