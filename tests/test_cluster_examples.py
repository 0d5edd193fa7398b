"""The job files in examples/cluster: valid for their scheduler, and with commands that this package accepts."""

import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from detector.cli.parser import make_parser

FOLDER = Path(__file__).parents[1] / "examples" / "cluster"
SLURM, JOB, RAY_JOB = (FOLDER / name for name in ("slurm.sh", "kubernetes-job.yaml", "kuberay-rayjob.yaml"))
SHARD = {"$JOB_COMPLETION_INDEX/$SHARDS": "0/100", "$SLURM_ARRAY_TASK_ID/$shards": "0/100"}


def parse(command: str) -> Any:
    """Parse the command `detector detect` in a shell command, and return its arguments."""
    words = shlex.split(command.replace("\\\n", " "))
    start = words.index("detector")
    end = words.index("||")
    words = ["1" if word.startswith("${SLURM_CPUS") else SHARD.get(word, word) for word in words[start + 1 : end]]
    return make_parser().parse_args(words)


def read(path: Path) -> dict[str, Any]:
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert isinstance(values, dict)
    return values


def test_the_slurm_script_is_valid() -> None:
    text = SLURM.read_text(encoding="utf-8")
    subprocess.run(["bash", "-n", str(SLURM)], check=True)
    arguments = parse(text[text.index("\ndetector detect") :].split("status=$?")[0])
    assert (str(arguments.shard), arguments.skip_done) == ("0/100", True)
    lines = [line.split()[1] for line in text.splitlines() if line.startswith("#SBATCH")]
    assert "--array=0-99" in lines
    assert "\nshards=100 " in text
    assert text.index("#SBATCH") < text.index("set -e")  # Slurm ignores them after the first command


@pytest.mark.posix
@pytest.mark.parametrize(("status", "expected"), [(0, 0), (3, 0), (2, 2), (137, 137)])
def test_the_slurm_script_returns_the_status_of_detect(tmp_path: Path, status: int, expected: int) -> None:
    program = tmp_path / "detector"
    program.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/arguments\nexit {status}\n')
    program.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "SLURM_ARRAY_TASK_ID": "17"}
    assert subprocess.run(["bash", str(SLURM)], env=environment, check=False).returncode == expected
    assert (tmp_path / "arguments").read_text().endswith("--threads 1 --shard 17/100\n")


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="needs shellcheck: tools/test_extra.sh cluster")
def test_shellcheck_finds_nothing() -> None:
    subprocess.run(["shellcheck", *FOLDER.glob("*.sh")], check=True)


def test_the_kubernetes_job_is_valid() -> None:
    job = read(JOB)
    spec = job["spec"]
    assert (job["apiVersion"], job["kind"], spec["completionMode"]) == ("batch/v1", "Job", "Indexed")
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    assert container["env"] == [{"name": "SHARDS", "value": str(spec["completions"])}]
    assert pod["restartPolicy"] == "Never"  # backoffLimitPerIndex needs this
    shell, flag, command = container["command"]
    assert (shell, flag) == ("sh", "-c")
    assert parse(command).skip_done
    check_mounts(pod)


def test_the_kubernetes_job_matches_the_schema() -> None:
    validate = pytest.importorskip(
        "kubernetes_validate", reason="needs kubernetes-validate: tools/test_extra.sh cluster"
    )
    for version in ("1.30", "1.34"):
        validate.validate(read(JOB), version, strict=True)


def test_the_ray_job_is_valid() -> None:
    job = read(RAY_JOB)
    spec = job["spec"]
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    shell, flag, command = shlex.split(spec["entrypoint"])
    assert (shell, flag) == ("sh", "-c")
    arguments = parse(command)
    assert (arguments.engine, arguments.address, arguments.skip_done) == ("ray", "auto", True)
    cluster = spec["rayClusterSpec"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    images = set()
    for group in groups:
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
        check_mounts(group["template"]["spec"])
        images |= {container["image"] for container in group["template"]["spec"]["containers"]}
    assert len(images) == 1  # all machines need the same versions
    assert isinstance(cluster["rayVersion"], str)


def check_mounts(pod: dict[str, Any]) -> None:
    """Check that a pod mounts the shared volume, and only volumes that it has."""
    volumes = {volume["name"] for volume in pod["volumes"]}
    for container in pod["containers"]:
        assert {mount["name"] for mount in container["volumeMounts"]} == volumes
        assert [mount["mountPath"] for mount in container["volumeMounts"]] == ["/shared"]
        assert set(container["resources"]["requests"]) == {"cpu", "memory"}
