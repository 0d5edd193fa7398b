"""Kill training runs at random times, resume them, and compare their results with those of an uninterrupted run.

    python tools/prove_resume.py --data scenes --kills 20

Prints one line per killed run. The exit status is 1 if the results of a resumed run differ from the results of the
uninterrupted run. The times are distributed uniformly over the whole run, so that runs are killed while they read data,
train, evaluate and save.
"""

import argparse
import hashlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from detector.model.checkpoint import load_weights
from detector.training.run_state import Progress, read_state

_SETTINGS = ("model=pico", "input_size=128", "steps=60", "evaluations=6", "save_every=0.01")


def main() -> int:
    """Run the comparison, print the results, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="scenes", help="dataset (default: %(default)s)")
    parser.add_argument("--kills", type=int, default=20, help="number of runs to kill (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed for the random times (default: %(default)s)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="another setting of all runs")
    options = parser.parse_args()
    rng = random.Random(options.seed)
    settings = [argument for setting in (*_SETTINGS, *options.set) for argument in ("--set", setting)]
    train = ["--data", options.data, *settings]
    with tempfile.TemporaryDirectory() as folder:
        uninterrupted = Path(folder) / "uninterrupted"
        start = time.monotonic()
        if status := _start([*train, "--out", str(uninterrupted)]).wait():
            raise SystemExit(f"the uninterrupted run failed with exit status {status}")
        seconds = time.monotonic() - start
        expected = fingerprint(uninterrupted)
        print(f"uninterrupted: {seconds:.1f} s, {expected}")
        different = 0
        for number in range(1, options.kills + 1):
            run = Path(folder) / str(number)
            moment = rng.uniform(0.2, seconds)
            progress = _kill_at(moment, [*train, "--out", str(run)], run)
            found = _complete(run, [*train, "--out", str(run)], progress)
            different += found != expected
            verdict = "the same" if found == expected else f"DIFFERENT: {found}"
            steps = progress.step if progress else 0
            print(f"kill {number}: after {moment:.1f} s, {steps} steps saved: {verdict}", flush=True)
    print(f"{options.kills - different} of {options.kills} equal")
    return int(different > 0)


def fingerprint(run: Path) -> str:
    """Return a hash of the results of a finished run: weights, EMA, optimizer state and results.csv."""
    digest = hashlib.sha256((run / "results.csv").read_bytes())
    state = read_state(run / "state")
    assert state is not None
    tensors = dict(state[1])
    for name in ("best", "last"):
        network, _ = load_weights(run / "weights" / f"{name}.safetensors")
        tensors |= {f"{name}.{key}": tensor for key, tensor in network.state_dict().items()}
    for name in sorted(tensors):
        digest.update(name.encode() + tensors[name].numpy().tobytes())
    return digest.hexdigest()[:16]


def _kill_at(seconds: float, arguments: list[str], run: Path) -> Progress | None:
    """Start a training run, kill it, and return the progress in its last checkpoint, or None without a checkpoint.

    Args:
        seconds: time from the start to the kill.
        arguments: arguments of `detector train`.
        run: output folder of the run.
    """
    process = _start(arguments)
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    process.wait()
    state = read_state(run / "state")
    return None if state is None else state[0]


def _complete(run: Path, from_the_beginning: list[str], progress: Progress | None) -> str:
    """Resume a killed run until it is finished, and return its fingerprint, or the exit status as text if it failed.

    If the killed run has not written run.json yet, it cannot be resumed and is started again.

    Args:
        run: output folder of the run.
        from_the_beginning: arguments of `detector train` that start the run.
        progress: progress in the last checkpoint of the killed run.
    """
    is_finished = progress is not None and progress.step >= progress.steps
    if not is_finished:
        arguments = ["--resume", str(run)] if (run / "run.json").exists() else from_the_beginning
        if status := _start(arguments).wait():
            return f"exit status {status}"
    return fingerprint(run)


def _start(arguments: list[str]) -> "subprocess.Popen[bytes]":
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    return subprocess.Popen(
        [sys.executable, "-m", "detector", "train", *arguments],
        env=os.environ | {"PYTHONPATH": path},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


if __name__ == "__main__":
    sys.exit(main())
