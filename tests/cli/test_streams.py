"""Output of the command line: escaped, and a stream that fails is one message and a non-zero exit status."""

import io
import logging
import os
import subprocess
import sys
import traceback
import warnings
from pathlib import Path

import pytest
from tqdm import tqdm

from detector.cli import console
from detector.cli.commands import main
from detector.cli.streams import escaped_streams

Capture = pytest.CaptureFixture[str]

NAMES = ["a\x1b[2J.png", "a\u202egpj.exe", "a\nerror: b", "a\r\x9b2J", os.fsdecode(b"a\xff")]

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the shell commands are for POSIX")


def shell(command: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a shell command in which `detector` is the command of this package."""
    script = f'detector() {{ "{sys.executable}" -m detector "$@"; }}\n{command}'
    # Without an empty entry, which would mean the working directory.
    path = os.pathsep.join(filter(None, [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH")]))
    return subprocess.run(
        ["bash", "-c", script],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"} | environment,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=60,
        check=False,
    )


def status_of(arguments: list[str]) -> int:
    """Run a command in this process and return its exit status; argparse exits by SystemExit."""
    try:
        return main(arguments)
    except SystemExit as exit_:
        return int(exit_.code or 0)


@pytest.mark.parametrize("name", NAMES, ids=ascii)
@pytest.mark.parametrize(
    "arguments", [["detect", "NAME", "--weights", "scenes"], ["NAME"], ["detect", "a", "--conf", "NAME"]]
)
def test_names_in_arguments_are_printed_escaped(
    capsys: Capture, arguments: list[str], name: str, tmp_path: Path
) -> None:
    assert status_of([argument.replace("NAME", name) for argument in arguments]) == 2
    out, errors = capsys.readouterr()
    assert out == ""
    assert all(line.isprintable() for line in errors.split("\n"))
    assert not any(line.startswith("error: b") for line in errors.split("\n"))


@pytest.mark.parametrize("name", NAMES, ids=ascii)
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_everything_printed_is_escaped(monkeypatch: pytest.MonkeyPatch, name: str, encoding: str) -> None:
    out, errors = (io.TextIOWrapper(io.BytesIO(), encoding=encoding) for _ in range(2))
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", errors)
    monkeypatch.setattr(logging.getLogger("detector"), "handlers", [])
    # pytest cannot report names that are not UTF-8.
    monkeypatch.setattr(logging.getLogger("detector"), "propagate", False)
    with escaped_streams():
        console.set_up_logging(quiet=False, verbose=False)
        console.print_line(f"1 {name} ä")
        logging.getLogger("detector.test").warning("2 %s", name)
        tqdm.write(f"skipped: 3 {name}", file=sys.stderr)
        sys.stderr.write(warnings.formatwarning(f"4 {name}", UserWarning, "file.py", 1))
        logging.lastResort.handle(logging.makeLogRecord({"msg": f"5 {name}"}))  # type: ignore[union-attr]  # of uvicorn
        try:
            raise RuntimeError(f"6 {name}")
        except RuntimeError:
            traceback.print_exc()
        sys.stderr.writelines([f"7 {name}\n"])
    for stream, numbers in ((out, "12"), (errors, "34567")):
        stream.seek(0)
        text = stream.read()
        assert all(line.isprintable() for line in text.replace("\t", "").split("\n"))
        assert all(f"{number} a" in text for number in numbers)
    assert sys.stdout is out
    out.seek(0)
    assert len(out.readlines()) == 2


def test_errors_of_the_log_go_to_standard_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(logging.getLogger("detector"), "handlers", [])
    monkeypatch.setattr(logging.getLogger("detector"), "propagate", False)
    console.set_up_logging(quiet=True, verbose=False)
    logging.getLogger("detector.test").error("process 0 has ended")
    logging.getLogger("detector.test").warning("unseen")
    assert capsys.readouterr() == ("", "error: process 0 has ended\n")


FULL = "error: standard output cannot be written (No space left on device)\n"
CLOSED = "error: standard output cannot be written (it is closed; redirect it to a file or to the null device)\n"


@pytest.mark.linux
@pytest.mark.parametrize(
    ("command", "status", "errors"),
    [
        ("detector --version > /dev/full", 2, FULL),
        ("detector --help >&-", 2, CLOSED),
        ("detector --help >&- 2>&-", 2, ""),
        ("detector --version 2>&-", 0, ""),
        ("detector --version 2> /dev/full", 0, ""),
        ("detector detect missing.png --weights scenes 2> /dev/full", 2, ""),
        ("detector detect missing.png --weights scenes 2>&-", 2, ""),
        ("set -o pipefail; (sleep 2; detector --help) | true", 141, ""),
        ("set -o pipefail; detector info | true", 141, ""),
    ],
)
def test_failing_streams_give_one_message_and_a_status(command: str, status: int, errors: str, tmp_path: Path) -> None:
    done = shell(command, tmp_path)
    assert (done.returncode, done.stderr) == (status, errors)
    if "2>" not in command:
        assert done.stdout == ""


def test_results_reach_a_reader_of_the_first_line(tmp_path: Path) -> None:
    done = shell("detector --help | head -1", tmp_path)
    assert done.stdout.startswith("usage: ")
    assert done.stderr == ""


def test_closed_output_is_noticed_before_any_file_is_written(tmp_path: Path) -> None:
    done = shell("detector train --data scenes --set steps=1 >&-", tmp_path)
    assert (done.returncode, done.stderr) == (2, CLOSED)
    assert list(tmp_path.iterdir()) == []


def test_next_opened_file_does_not_become_a_standard_stream(tmp_path: Path) -> None:
    code = "import os; from detector.cli.streams import escaped_streams\nwith escaped_streams(): print(os.dup(1))"
    done = shell(f'"{sys.executable}" -c "{code}" <&- 2>&-', tmp_path)
    assert int(done.stdout) > 2


@pytest.mark.parametrize("encoding", ["ascii", "utf-8", "latin-1"])
def test_names_are_printed_in_any_locale(encoding: str, tmp_path: Path) -> None:
    done = shell("detector detect 'ä细' $'b\\xff' --weights scenes", tmp_path, PYTHONIOENCODING=encoding, LC_ALL="C")
    assert done.returncode == 2
    assert "no such file" in done.stderr
    assert "Traceback" not in done.stderr


def test_deleted_working_directory_is_one_message(tmp_path: Path) -> None:
    done = shell("mkdir gone; cd gone; rmdir ../gone; detector summary", tmp_path)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: the working directory cannot be used")
