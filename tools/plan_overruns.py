"""Measure how well runs with a length in minutes end in time, on this machine or in a simulation.

    python tools/plan_overruns.py --runs 20                 real runs; nothing else should run on the machine
    python tools/plan_overruns.py --runs 5 --disturb        a busy process slows them down for a part of the time
    python tools/plan_overruns.py --simulate                simulated machines, in seconds

Prints one row per run, or per simulated machine, in Markdown. The overrun is the time above the budget in percent of
the budget; below 0, the run ended early. The time of a real run is the wall time of the whole command.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from detector.config import PLANNING_STEPS, Config
from detector.loader.input_size import input_size_at, input_stages
from detector.step_plan import StepPlan
from detector.training.time_budget import CHECKS, TimeBudget, expected_times

_SETTINGS = ("model=pico", "input_size=160")
_INPUT_HW = (256, 320)
_SECONDS_PER_MEGAPIXEL = 1.4
"""Duration of a step of the simulated machine, at the full speed, per million pixels of the input."""

_MIDDLE_FACTOR = 1.15
"""A step at the middle input size takes longer than its number of pixels suggests, as measured on a CPU."""


def main() -> None:
    """Measure the runs and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--simulate", action="store_true", help="simulate machines instead of training")
    parser.add_argument("--runs", type=int, default=20, help="number of runs; simulated: per machine (default: 20)")
    parser.add_argument("--minutes", type=float, default=0.5, help="length of each run (default: 0.5)")
    parser.add_argument("--data", default=str(ROOT / "datasets" / "bccd.yaml"), help="dataset (default: bccd)")
    parser.add_argument(
        "--set",
        action="append",
        metavar="KEY=VALUE",
        help=f"setting of the real runs (default: {' '.join(_SETTINGS)}); may be repeated",
    )
    parser.add_argument(
        "--disturb",
        nargs="*",
        type=float,
        metavar="FRACTION",
        help="run a busy process on the same core, from the first to the second fraction of the budget (default: from "
        "0.3 to 0.7); the runs then use one core. Linux only",
    )
    options = parser.parse_args()
    if options.simulate:
        _simulate_all(options.minutes, options.runs)
        return
    window = None if options.disturb is None else tuple(options.disturb) or (0.3, 0.7)
    if window is not None and len(window) != 2:
        parser.error("--disturb: expected no fraction or two fractions")
    _run_all(options, window)


def _run_all(options: argparse.Namespace, window: tuple[float, ...] | None) -> None:
    """Do the real runs and print a row for each.

    Args:
        options: arguments of the command line.
        window: fractions of the budget between which a busy process runs; None: no such process.
    """
    if window is not None:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # child processes inherit it
    settings = [argument for setting in options.set or _SETTINGS for argument in ("--set", setting)]
    overruns = []
    print("| seed | steps | seconds | overrun |\n| --- | --- | --- | --- |")
    for seed in range(options.runs):
        with tempfile.TemporaryDirectory() as folder:
            run = ["--data", options.data, "--minutes", str(options.minutes), "--seed", str(seed), "--out", folder]
            command = [sys.executable, "-m", "detector", "train", *run, "--no-report", *settings]
            seconds = _measure(command, options.minutes * 60, window)
            changes = json.loads((Path(folder) / "config.json").read_text())["plan_changes"]
        overruns.append(_overrun(seconds, options.minutes * 60))
        steps = " → ".join(str(steps) for _, steps in changes)
        print(f"| {seed} | {steps} | {seconds:.1f} | {overruns[-1]:+.1f} % |", flush=True)
    print(f"\nmean {np.mean(overruns):+.1f} %, largest {max(overruns):+.1f} %, smallest {min(overruns):+.1f} %")


def _measure(command: list[str], budget: float, window: tuple[float, ...] | None) -> float:
    """Run a command, with a busy process for a part of the time; return its wall time in seconds.

    Args:
        command: the command with its arguments.
        budget: expected duration of the command, in seconds.
        window: fractions of the budget between which the busy process runs; None: no busy process.
    """
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    environment = os.environ | {"PYTHONPATH": path}
    start = time.monotonic()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if window is not None:
        time.sleep(window[0] * budget)
        busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
        time.sleep((window[1] - window[0]) * budget)
        busy.kill()
        busy.wait()
    _, errors = process.communicate()
    if process.returncode:
        raise SystemExit(f"the command failed with exit status {process.returncode}:\n{errors}")
    return time.monotonic() - start


def _overrun(seconds: float, budget: float) -> float:
    """Return the time above the budget in percent of the budget."""
    return 100 * (seconds / budget - 1)


@dataclass(frozen=True)
class Simulated:
    """The result of a simulated run.

    Attributes:
        overrun: time above the budget, in percent of the budget.
        plan: plan of the run with its changes.
        evaluations: planned number of evaluations.
        evaluated_after: numbers of the steps after which the run was evaluated.
    """

    overrun: float
    plan: StepPlan
    evaluations: int
    evaluated_after: tuple[int, ...]


MACHINES: dict[str, Callable[[float], float]] = {
    "steady": lambda done: 1.0,
    "2x slower from 30 % to 70 % of the time": lambda done: 2.0 if 0.3 < done < 0.7 else 1.0,
    "2x slower in the first half": lambda done: 2.0 if done < 0.5 else 1.0,
    "2x slower in the second half": lambda done: 2.0 if done > 0.5 else 1.0,
    "2x slower in the last fifth": lambda done: 2.0 if done > 0.8 else 1.0,
    "gradually slower, 2x at the end": lambda done: 1.0 + done,
    "2x slower in every other tenth of the time": lambda done: 1.0 + (done * 10) % 2 // 1,
}
"""Name of a machine → function that returns how much slower it is at a time, as a fraction of the budget."""


def simulate(
    slowdown: Callable[[float], float],
    minutes: float,
    seed: int,
    *,
    changes: bool = True,
    noise: float = 0.1,
    pauses: float = 0.01,
) -> Simulated:
    """Simulate a run with a length in minutes: the duration of each step is random, and nothing is trained.

    The durations have a log-normal distribution, some steps take four times as long, and the first step at an
    input size takes twice as long. Reading the data takes 4 seconds, an evaluation about 1.5 seconds.

    Args:
        slowdown: from `MACHINES`.
        minutes: length of the run.
        seed: seed of the durations.
        changes: whether the plan may change.
        noise: standard deviation of the logarithm of the durations.
        pauses: fraction of the steps that take four times as long.
    """
    rng, config, budget = np.random.default_rng(seed), Config(minutes=minutes), minutes * 60
    stages = input_stages(_INPUT_HW, config)
    seen: set[tuple[int, int]] = set()
    clock = 0.0

    def spend(seconds: float) -> float:
        nonlocal clock
        seconds *= slowdown(clock / budget) * float(rng.lognormal(0, noise))
        clock += seconds
        return seconds

    def step(input_hw: tuple[int, int]) -> float:
        factor: float = (1.0 if input_hw in seen else 2.0) * (4.0 if rng.random() < pauses else 1.0)
        factor *= _MIDDLE_FACTOR if input_hw == stages[1].input_hw else 1.0
        seen.add(input_hw)
        return spend(factor * (0.005 + math.prod(input_hw) / 1e6 * _SECONDS_PER_MEGAPIXEL))

    spend(4.0)
    times = [step(input_size_at(_INPUT_HW, index, PLANNING_STEPS, config)) for index in range(PLANNING_STEPS)]
    middle = [step(stages[1].input_hw) for _ in range(6)]
    time_budget = TimeBudget(minutes, expected_times(times, middle, _INPUT_HW, config))
    time_budget.record_evaluation(spend(1.5))
    steps, evaluations = time_budget.first_plan(config, clock)
    plan, done, evaluated = StepPlan.fixed(steps), PLANNING_STEPS, []
    evaluate_after, check_after = plan.evenly_spaced(evaluations), plan.evenly_spaced(CHECKS)
    while done < plan.steps:
        input_hw = input_size_at(_INPUT_HW, done, plan.length_at(done), config)
        time_budget.record_step(input_hw, step(input_hw))
        done += 1
        if done in evaluate_after:
            time_budget.record_evaluation(spend(1.5))
            evaluated.append(done)
        if changes and done < plan.steps and (done in evaluate_after or done in check_after):
            left = sum(after > done for after in evaluate_after)
            change = time_budget.change(plan, done, left, clock)
            plan = change.plan if change else plan
            evaluate_after, check_after = plan.evenly_spaced(evaluations), plan.evenly_spaced(CHECKS)
    spend(0.5)
    return Simulated(_overrun(clock, budget), plan, evaluations, tuple(evaluated))


def _simulate_all(minutes: float, runs: int) -> None:
    """Simulate runs on all machines and print a row for each machine.

    Args:
        minutes: length of each run.
        runs: number of runs per machine, with different seeds.
    """
    print("| machine | overrun: mean (smallest to largest) | changes of the plan | overrun if the plan is fixed |")
    print("| --- | --- | --- | --- |")
    for name, slowdown in MACHINES.items():
        found, fixed = (
            [simulate(slowdown, minutes, seed, changes=changes) for seed in range(runs)] for changes in (True, False)
        )
        columns = [
            f"{np.mean(overruns):+.1f} % ({min(overruns):+.1f} to {max(overruns):+.1f})"
            for overruns in ([run.overrun for run in results] for results in (found, fixed))
        ]
        count = np.mean([len(run.plan.changes) - 1 for run in found])
        print(f"| {name} | {columns[0]} | {count:.1f} | {columns[1]} |", flush=True)


if __name__ == "__main__":
    main()
