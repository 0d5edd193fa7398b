"""Ctrl-C at any moment of a command: one line and exit status 130, no traceback."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

RUN = """
import atexit, importlib.abc, runpy, signal, sys
signal.signal(signal.SIGINT, signal.{handler})

class Interrupt(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == {moment!r}:
            signal.raise_signal(signal.SIGINT)

sys.meta_path.insert(0, Interrupt())
if {moment!r} == "end of the process":
    atexit.register(signal.raise_signal, signal.SIGINT)
sys.argv = ["detector", "summary", "--set", "model=pico"]
runpy.run_module("detector", run_name="__main__", alter_sys=True)
"""
"""A program that runs `detector summary` and presses Ctrl-C when a module is imported, or at the end."""


def run(moment: str, handler: str = "default_int_handler") -> "subprocess.CompletedProcess[str]":
    code = RUN.format(moment=moment, handler=handler)
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize(
    "moment",
    [
        "detector.parent_process",
        "detector.cli.commands",
        "detector.cli.streams",
        "argparse",
        "numpy",
        "yaml",
        "torch",
        "torch.nn",
        "end of the process",
    ],
)
def test_interrupt_prints_one_line(moment: str) -> None:
    result = run(moment)
    assert (result.returncode, result.stderr) == (130, "interrupted\n")


def test_ignored_interrupts_stay_ignored() -> None:
    result = run("numpy", handler="SIG_IGN")
    assert (result.returncode, result.stderr) == (0, "")
    assert "parameters" in result.stdout


def test_package_import_does_not_handle_signals_or_import_numpy() -> None:
    code = (
        "import signal, sys, detector; assert 'numpy' not in sys.modules; "
        "assert signal.getsignal(signal.SIGINT) is signal.default_int_handler; detector.errors.InputError"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)


def test_importing_the_entry_point_imports_little() -> None:
    code = (
        "import sys; import detector.__main__, detector.cli.commands; "
        "print(*{'numpy', 'PIL', 'cv2', 'yaml', 'argparse', 'logging'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "\n"
