"""Run `detector evaluate` from a checkout, without installing the package: `python tools/evaluate.py ...`."""

from run_command import run_command

if __name__ == "__main__":  # data loader workers import this file and must not run the command
    run_command(__file__)
