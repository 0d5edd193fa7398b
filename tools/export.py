"""`python tools/export.py ...` is `detector export ...`, for a checkout that is not installed."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from detector.cli.commands import main

if __name__ == "__main__":
    sys.exit(main(["export", *sys.argv[1:]]))
