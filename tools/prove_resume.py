"""Kill a training run at random moments, resume it, and compare all it left with an unbroken run.

    python tools/prove_resume.py --data scenes --kills 20

Prints a line per kill and exits with 1 if one of them came out differently. The moments are drawn evenly over the whole
run, so that kills fall into reading, steps, evaluations and saving.
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

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from detector.model.checkpoint import load_weights
from detector.training.run_state import read_state


def main() -> int:
    """Run the proof."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="scenes")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", action="append", default=[], help="more settings")
    options = parser.parse_args()
    rng = random.Random(options.seed)
    settings = ["model=pico", "input_size=128", "steps=60", "evaluations=6", "save_every=0.01", *options.set]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        fresh = ["--data", options.data, *(word for setting in settings for word in ("--set", setting))]
        begun = time.monotonic()
        _start([*fresh, "--out", str(folder / "whole")]).wait()
        whole_seconds = time.monotonic() - begun
        wanted = fingerprint(folder / "whole")
        print(f"unbroken: {whole_seconds:.1f} s, {wanted}")
        different = 0
        for number in range(1, options.kills + 1):
            run = folder / str(number)
            process = _start([*fresh, "--out", str(run)])
            seconds = rng.uniform(0.2, whole_seconds)
            time.sleep(seconds)
            process.send_signal(signal.SIGKILL)
            process.wait()
            state = read_state(run / "state")
            done = 0 if state is None else state[0].step
            again = ["--resume", str(run)] if (run / "run.json").exists() else [*fresh, "--out", str(run)]
            _start(again).wait()
            came_to = fingerprint(run)
            different += came_to != wanted
            verdict = "the same" if came_to == wanted else f"DIFFERENT: {came_to}"
            print(f"kill {number}: after {seconds:.1f} s, {done} steps saved: {verdict}", flush=True)
    print(f"{options.kills - different} of {options.kills} equal")
    return int(different > 0)


def fingerprint(run: Path) -> str:
    """Return a hash of weights, average, optimizer state and results."""
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


def _start(words: list[str]) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "detector", "train", *words]
    path = os.pathsep.join([str(Path(__file__).resolve().parents[1]), os.environ.get("PYTHONPATH", "")])
    quiet = subprocess.DEVNULL
    return subprocess.Popen(command, env=os.environ | {"PYTHONPATH": path}, stdout=quiet, stderr=quiet)


if __name__ == "__main__":
    sys.exit(main())
