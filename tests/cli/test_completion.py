"""Tests of `detector completion`: the shells themselves complete commands, options, values and files."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

BASH, FISH, ZSH = map(shutil.which, ("bash", "fish", "zsh"))

ASK = """
source ./script
ask() { COMP_WORDS=("$@"); COMP_CWORD=$(( $# - 1 )); COMPREPLY=(); _shtab_detector; echo "${COMPREPLY[@]}"; }
"""
"""Calls the function that bash calls after Tab, with the words of the command line."""

CASES = [
    ("tr", {"train"}),
    ("train --weigh", {"--weights"}),
    ("train --model ", {"pico", "nano", "small", "medium"}),
    ("detect --runtime onnx", {"onnxruntime"}),
    ("completion ", {"bash", "zsh", "fish"}),
    ("detect cell_", {"cell_a.png"}),
    ("train --config cell_", {"cell_a.png"}),
    ("train --set ", set()),
]


def script(shell: str, folder: Path) -> None:
    code = "import sys; from detector.cli.commands import main; sys.exit(main() or ('torch' in sys.modules))"
    command = [sys.executable, "-c", code, "completion", shell]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    (folder / "script").write_text(done.stdout, encoding="utf-8")
    (folder / "cell_a.png").touch()


def answer(command: list[str], folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, encoding="utf-8", timeout=60, check=True)
    assert not done.stderr
    return done.stdout


@pytest.mark.skipif(BASH is None or sys.platform == "win32", reason="needs bash")
def test_bash_completes_commands_options_values_and_files(tmp_path: Path) -> None:
    script("bash", tmp_path)
    words = [" ".join(f"'{word}'" for word in ["detector", *line.split(" ")]) for line, _ in CASES]
    program = ASK + "".join(f"ask {line}\n" for line in words)
    found = answer([str(BASH), "-c", program], tmp_path).split("\n")
    for (line, expected), words_found in zip(CASES, found, strict=False):
        assert set(words_found.split()) - {"script"} == expected, line


@pytest.mark.skipif(FISH is None, reason="needs fish")
@pytest.mark.parametrize(("line", "expected"), CASES[:-1])
def test_fish_completes_commands_options_values_and_files(line: str, expected: set[str], tmp_path: Path) -> None:
    script("fish", tmp_path)
    out = answer([str(FISH), "--no-config", "-c", f"source ./script; complete -C 'detector {line}'"], tmp_path)
    assert {text.split("\t")[0] for text in out.splitlines()} == expected


@pytest.mark.skipif(ZSH is None, reason="needs zsh")
def test_zsh_accepts_the_script(tmp_path: Path) -> None:
    script("zsh", tmp_path)
    answer([str(ZSH), "-n", "script"], tmp_path)
    assert (tmp_path / "script").read_text(encoding="utf-8").startswith("#compdef detector\n")


def test_unknown_shell_is_refused() -> None:
    command = [sys.executable, "-m", "detector", "completion", "csh"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "invalid choice: 'csh'" in done.stderr
