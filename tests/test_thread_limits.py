"""Tests of the limits of threads: environment, CPU affinity, container quota, and the threads that runtimes start."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from detector import threads
from detector.cli.parser import make_parser
from detector.exporting.export import export
from detector.threads import available_cpus, default_limit


@pytest.fixture(autouse=True)
def _no_limits(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Remove the limits of this machine: eight CPUs, no cgroup, no environment variable."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(threads, "_CGROUP_2", tmp_path / "cpu.max")
    monkeypatch.setattr(threads, "_CGROUP_1", (tmp_path / "quota", tmp_path / "period"))
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)


@pytest.mark.parametrize(
    ("value", "expected"), [("3", 3), ("12", 12), ("2,4", 2), ("", None), ("0", None), ("-1", None), ("many", None)]
)
def test_omp_num_threads_is_the_default(value: str, expected: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", value)
    assert default_limit() == expected


def test_affinity_limits_the_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    assert default_limit() is None
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {1, 5, 6}, raising=False)
    assert (available_cpus(), default_limit()) == (3, 3)


@pytest.mark.parametrize(
    ("content", "expected"),
    [("150000 100000\n", 2), ("50000 100000", 1), ("max 100000", 8), ("900000 100000", 8), ("", 8), ("1 0", 8)],
)
def test_quota_of_a_container_is_rounded_up(content: str, expected: int, tmp_path: Path) -> None:
    (tmp_path / "cpu.max").write_text(content)
    assert available_cpus() == expected


@pytest.mark.parametrize(("quota", "expected"), [("250000", 3), ("-1", 8)])
def test_quota_of_the_older_cgroups_is_used(quota: str, expected: int, tmp_path: Path) -> None:
    (tmp_path / "quota").write_text(quota)
    (tmp_path / "period").write_text("100000")
    assert available_cpus() == expected


COUNT_THREADS = """
import os, sys
import numpy as np
from detector import Detector
runtime, option = sys.argv[2:]
before = len(os.listdir("/proc/self/task"))
detector = Detector.load(sys.argv[1], runtime=runtime, device="cpu", threads=int(option) or None)
image = np.zeros((64, 96, 3), np.uint8)
for _ in range(5):
    detector.detect(image)
print(len(os.listdir("/proc/self/task")) - before)
"""


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs Linux")
@pytest.mark.parametrize("how", ["option", "environment"])
def test_onnxruntime_starts_no_more_threads_than_allowed(how: str, tiny_weights: Path, tmp_path: Path) -> None:
    graph = tmp_path / "tiny.onnx"  # an export: converting weights would start threads of torch too
    export(tiny_weights, graph, certify=False)
    counts = []
    for limit in (1, 3):
        option = limit if how == "option" else 0
        environment = os.environ | ({} if option else {"OMP_NUM_THREADS": str(limit)})
        command = [sys.executable, "-c", COUNT_THREADS, str(graph), "onnxruntime", str(option)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=True)
        counts.append(int(done.stdout))
    assert counts[1] - counts[0] == 2


def test_commands_that_run_a_network_have_the_flag() -> None:
    for command in (
        "detect a.jpg --weights cells",
        "evaluate --data d --weights cells",
        "serve --weights cells",
        "export --weights cells --out x.onnx",
        "verify x.onnx",
        "train --data d",
        "check --data d",
    ):
        assert make_parser().parse_args([*command.split(), "--threads", "2"]).threads == 2
        with pytest.raises(SystemExit):
            make_parser().parse_args([*command.split(), "--threads", "0"])
