"""Run `detector train` from a checkout that is not installed: `python tools/train.py ...`."""

from run_command import run_command

if __name__ == "__main__":  # a data loader worker imports this file too
    run_command(__file__)
