"""Each script in tools/ that has the name of a command runs this command."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).parents[1] / "tools"
COMMANDS = ("check.py", "train.py", "detect.py", "evaluate.py", "export.py")


def run(folder: Path, tool: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a script as a user does, from `folder`, which is outside of the repository."""
    command = [sys.executable, str(TOOLS / tool), *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=100, check=False
    )


@pytest.mark.parametrize("tool", COMMANDS)
def test_script_runs_the_command_of_its_name(tmp_path: Path, tool: str) -> None:
    done = run(tmp_path, tool, "--help")
    assert done.returncode == 0, done.stderr
    assert f"detector {Path(tool).stem}" in done.stdout


def test_script_returns_exit_status_and_message(tmp_path: Path) -> None:
    done = run(tmp_path, "train.py", "--data", "missing")
    assert done.returncode == 2
    assert done.stderr.startswith("error: missing: no such file or folder")


def test_script_writes_the_annotated_image(tmp_path: Path, tiny_data: Path, tiny_weights: Path) -> None:
    image = tiny_data / "images" / "1.png"
    done = run(tmp_path, "detect.py", str(image), "--weights", str(tiny_weights), "--device", "cpu")
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "found" / "1.png").is_file()


def test_tables_of_the_scale_page_are_current(tmp_path: Path) -> None:
    page = (TOOLS.parent / "docs" / "scale.md").read_text(encoding="utf-8")
    for table in run(tmp_path, "scale.py").stdout.strip().split("\n\n"):
        assert table in page
