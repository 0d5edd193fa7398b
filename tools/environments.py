"""Run detect, evaluate and train in unusual environments, and print a table of the results for docs/reliability.md.

Usage: python tools/environments.py [PART_OF_A_NAME]

"works": exit status 0, results, and no traceback or warning. "one message": a non-zero exit status and one line.
Anything else is a failure, and the exit status of this script is then 1.
"""

import os
import platform
import resource
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
SECONDS = 300
"""Time limit of a command."""

IMAGE = "images/Zelle ä 细胞.png"
COMMANDS = {
    "detect": f"detect|{IMAGE}|--weights|scenes.onnx|--runtime|onnxruntime|--csv|--out|found",
    "evaluate": "evaluate|--data|data|--weights|scenes.onnx|--runtime|onnxruntime|--json|ap.json",
    "train": "train|--data|data|--model|pico|--imgsz|96|--set|steps=2|--batch|2|--device|cpu|--ignore-check|--out|run",
}
"""Name of a column → arguments, separated by |."""


@dataclass(frozen=True)
class Environment:
    """How a process is started: environment variables (None: removed), options of Python, and limits.

    Attributes:
        name: first column of the table.
        variables: name → value of environment variables.
        python: options of the interpreter.
        limits: limit of the resource module → value.
        umask: umask of the process; -1: unchanged.
        fails: the limit is too low, so the command must fail with one message.
        terminal: the process has a terminal.
    """

    name: str
    variables: Mapping[str, str | None] = field(default_factory=dict)
    python: tuple[str, ...] = ()
    limits: Mapping[int, int] = field(default_factory=dict)
    umask: int = -1
    fails: bool = False
    terminal: bool = False


ASCII = {"LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"}
ENVIRONMENTS = (
    Environment("as usual, without a terminal"),
    Environment("a terminal", terminal=True),
    Environment("locale C, output in ASCII, names with ä and 细胞", ASCII),
    Environment("HOME and caches cannot be written", {"HOME": "/dev/null", "XDG_CACHE_HOME": "/dev/null/cache"}),
    Environment("no HOME, no PATH", {"HOME": None, "PATH": None, "USER": None}),
    Environment("no folder for temporary files", {"TMPDIR": "/dev/null"}),
    Environment("umask 077", umask=0o077),
    Environment("python -O", python=("-O",)),
    Environment("python -OO", python=("-OO",)),
    Environment("python -W error", python=("-W", "error")),
    Environment("python -X dev", python=("-X", "dev")),
    Environment("python -I", python=("-I",)),
    Environment("ulimit -n 64", limits={resource.RLIMIT_NOFILE: 64}),
    Environment("ulimit -v 8 GiB", limits={resource.RLIMIT_AS: 8 << 30}),
    Environment("ulimit -v 1 GiB", limits={resource.RLIMIT_AS: 1 << 30}, fails=True),
    Environment("ulimit -v 300 MiB", limits={resource.RLIMIT_AS: 300 << 20}, fails=True),
    Environment("ulimit -f 0", limits={resource.RLIMIT_FSIZE: 0}, fails=True),
)


def main() -> int:
    """Run all commands in all environments; return 1 if one fails."""
    failures = []
    print(f"| environment | {' | '.join(COMMANDS)} |\n| --- |{' --- |' * len(COMMANDS)}")
    chosen = sys.argv[1] if len(sys.argv) > 1 else ""
    for environment in (environment for environment in ENVIRONMENTS if chosen in environment.name):
        cells = []
        for name, command in COMMANDS.items():
            with tempfile.TemporaryDirectory() as folder:
                make_inputs(Path(folder))
                result = run(environment, command.split("|"), Path(folder))
            cells.append("works" if result == "" else result.splitlines()[0])
            if result not in ("", "one message" if environment.fails else ""):
                failures.append(f"{environment.name}, {name}: {result}")
                cells[-1] = "**fails**"
        print(f"| {environment.name} | {' | '.join(cells)} |", flush=True)
    print(f"\nPython {platform.python_version()}, {platform.system()}\n\n" + "\n\n".join(failures))
    return 1 if failures else 0


def make_inputs(folder: Path) -> None:
    """Write a small dataset and exported weights."""
    rng = np.random.default_rng(0)
    for split in ("train", "val", "test"):
        for number in range(4):
            path = folder / "data" / split / "images" / f"ä{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 255, (64, 96, 3), dtype=np.uint8)).save(path)
            label = path.parent.parent / "labels" / f"ä{number}.txt"
            label.parent.mkdir(exist_ok=True)
            label.write_text(f"{number} 0.5 0.5 0.3 0.4\n")
    names = ["star", "heart", "arrow", "key", "gear", "mug", "house", "fish", "leaf", "umbrella", "car", "tree"]
    (folder / "data" / "data.yaml").write_text(f"train: train\nval: val\ntest: test\nnames: {names}\n".replace("'", ""))
    (folder / IMAGE).parent.mkdir()
    Image.fromarray(rng.integers(0, 255, (64, 96, 3), dtype=np.uint8)).save(folder / IMAGE)
    (folder / "scenes.onnx").write_bytes(EXPORT)


def run(environment: Environment, arguments: list[str], folder: Path) -> str:
    """Run a command; return an empty text if it works, else "one message" or what it printed."""
    own = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    variables: dict[str, str | None] = {**os.environ, **own, **environment.variables}
    script = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from detector.cli.commands import main; sys.exit(main())"
    command = [sys.executable, *environment.python, "-c", script, *arguments]
    if environment.terminal:
        command = ["script", "-qec", shlex.join(command), "/dev/null"]
    done = subprocess.run(
        command,
        cwd=folder,
        env={key: value for key, value in variables.items() if value is not None},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="backslashreplace",
        start_new_session=True,
        umask=environment.umask,
        preexec_fn=partial(set_limits, environment.limits),
        timeout=SECONDS,
        check=False,
    )
    if (
        done.returncode == 0
        and not done.stderr
        and any((folder / name).exists() for name in ("found", "ap.json", "run"))
    ):
        return ""
    errors = done.stderr.splitlines()
    if done.returncode > 0 and len(errors) == 1 and errors[0].startswith(("error: ", "OpenBLAS error: ")):
        return "one message"
    return f"status {done.returncode}: {done.stderr[-1500:] or done.stdout[-1500:]}"


def set_limits(limits: Mapping[int, int]) -> None:
    """Set the limits of this process."""
    for limit, value in limits.items():
        resource.setrlimit(limit, (value, value))


def export() -> bytes:
    """Return an ONNX export of the weights `scenes` with a small input."""
    sys.path.insert(0, str(ROOT))
    from detector.graph.to_onnx import to_onnx
    from detector.model.checkpoint import load_weights

    network, info = load_weights("scenes")
    return to_onnx(network, info, (64, 96))


if __name__ == "__main__":
    EXPORT = export()
    sys.exit(main())
