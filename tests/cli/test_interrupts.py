"""Ctrl-C at any time ends a command with one line, also while packages are imported."""

import subprocess
import sys
from pathlib import Path

import pytest

INTERRUPTED_IMPORT = """
import os, signal, sys

class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == "{module}":
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupt())
sys.argv = ["detector", "summary", "--model", "pico"]
from detector.cli.commands import main
sys.exit(main())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="os.kill with SIGINT ends a process on Windows")
@pytest.mark.parametrize("module", ["detector.cli.streams", "detector.cli.program", "argparse", "numpy", "torch"])
def test_ctrl_c_during_an_import_is_one_line(module: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", INTERRUPTED_IMPORT.format(module=module)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=False, cwd=Path(__file__).parents[2]
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")


def test_importing_the_entry_point_imports_little() -> None:
    code = "import sys; before = set(sys.modules); import detector.cli.commands; print(set(sys.modules) - before)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    assert not {"numpy", "PIL", "cv2", "yaml", "argparse", "logging"} & set(eval(done.stdout))
