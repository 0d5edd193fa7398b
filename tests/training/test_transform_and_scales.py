"""Runs with an own transform and with multi-scale training: exact resume, changes are refused, several processes."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from detector.cli.commands import main
from detector.config import Config
from detector.errors import ConfigError, TransformError
from detector.loader.loader import training_batch
from detector.training.run_state import read_state
from detector.training.train import resume, train

MODULE = """
from dataclasses import replace

import numpy as np


def fog(sample, rng):
    amount = rng.uniform(0, 0.5)
    image = sample.image * (1 - amount) + 220 * amount
    return replace(sample, image=image.astype(np.uint8))


def fails_later(sample, rng):
    if sample.image.mean() > 0 and rng.random() < 0.2:
        raise ValueError("out of fog")
    return sample
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """Name of a module with transforms in the working directory; each test has its own module."""
    name = re.sub(r"\W", "_", f"module_{request.node.name}")
    (tmp_path / f"{name}.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return name


@pytest.fixture
def short(tiny_config: Config) -> Config:
    return replace(tiny_config, steps=30, evaluations=3, workers=2)


def tensors_of(folder: Path) -> dict[str, bytes]:
    state = read_state(folder / "state")
    assert state is not None
    return {name: tensor.numpy().tobytes() for name, tensor in state[1].items()}


def interrupt(folder: Path, copy: Path, after: int) -> None:
    """Copy a finished run as if it had been killed after step `after`."""
    shutil.copytree(folder, copy)
    for path in (copy / "state").iterdir():
        if int(path.name.split("-")[0]) > after:
            path.unlink()


@pytest.mark.parametrize("kind", ["transform", "multi_scale"])
def test_run_resumes_bit_exactly(
    kind: str, tiny_data: Path, short: Config, tmp_path: Path, module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("detector.training.run_state._KEPT", 99)
    name = f"{module}:fog" if kind == "transform" else None
    config = replace(short, multi_scale=0.5, input_size=(96, 128)) if kind == "multi_scale" else short
    plain = train(tiny_data, replace(config, multi_scale=0.0), out=tmp_path / "plain")
    run = train(tiny_data, config, transform=name, out=tmp_path / "run")
    interrupt(run.folder, tmp_path / "killed", 20)
    resume(tmp_path / "killed")
    assert tensors_of(tmp_path / "killed") == tensors_of(run.folder)
    assert tensors_of(run.folder) != tensors_of(plain.folder)


def test_unlabeled_images_with_all_other_options_resume_bit_exactly(
    tiny_data: Path, tiny_weights: Path, short: Config, tmp_path: Path, module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("detector.training.run_state._KEPT", 99)
    (tmp_path / "unlabeled").mkdir()
    for number in range(17, 21):
        shutil.copy(tiny_data / "images" / f"{number}.png", tmp_path / "unlabeled")
    config = replace(
        short, steps=12, evaluations=4, multi_scale=0.5, input_size=(96, 128), repeat_factor=1.0,
        class_balance="inverse", unlabeled_score=0.1, workers=1,
    )  # fmt: skip
    run = train(
        tiny_data, config, out=tmp_path / "run", weights=tiny_weights, unlabeled=tmp_path / "unlabeled",
        classes=["blue", "red"], transform=f"{module}:fog",
    ).folder  # fmt: skip
    labels = (run / "unlabeled.json").read_text()
    assert json.loads(labels)["images"]
    for after in (3, 9):  # before and after the labeling
        killed = tmp_path / f"killed-{after}"
        interrupt(run, killed, after)
        if after == 3:
            (killed / "unlabeled.json").unlink()
        resume(killed)
        assert tensors_of(killed) == tensors_of(run)
        assert (killed / "unlabeled.json").read_text() == labels


def test_changed_transform_is_refused_with_what_changed(
    tiny_data: Path, short: Config, tmp_path: Path, module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("detector.training.run_state._KEPT", 99)
    run = train(tiny_data, short, transform=f"{module}:fog", out=tmp_path / "run")
    saved = json.loads((run.folder / "run.json").read_text())
    assert saved["transform"] == f"{module}:fog"
    assert re.fullmatch(rf"source [0-9a-f]{{16}} of {module}:fog", saved["facts"]["transform"])
    interrupt(run.folder, tmp_path / "killed", 10)
    source = tmp_path / f"{module}.py"
    source.write_text(MODULE.replace("220", "120"))
    del sys.modules[module]
    hashes = r"transform: source [0-9a-f]{16} of .* before, source [0-9a-f]{16} of .* now: "
    with pytest.raises(ConfigError, match=rf"(?s){hashes}.*augmented in another way.*--resume-anyway"):
        resume(tmp_path / "killed")
    source.unlink()
    del sys.modules[module]
    with pytest.raises(TransformError, match=f"no module {module}"):
        resume(tmp_path / "killed")
    source.write_text(MODULE)
    resume(tmp_path / "killed")
    assert tensors_of(tmp_path / "killed") == tensors_of(run.folder)


def test_failing_transform_stops_the_run_with_the_image(
    tiny_data: Path, short: Config, tmp_path: Path, module: str
) -> None:
    with pytest.raises(
        TransformError, match=rf"transform {module}:fails_later: .*\.png: raised ValueError: out of fog"
    ):
        train(tiny_data, short, transform=f"{module}:fails_later", out=tmp_path / "run")


def test_command_line_trains_and_resumes_with_a_transform(
    tiny_data: Path, tmp_path: Path, module: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["train", "--data", str(tiny_data), "--model", "pico", "--imgsz", "96", "--set", "steps=8", "--set",
                 "batch=4", "--weights", "none", "--no-report", "--out", "run"]  # fmt: skip
    assert main([*arguments, "--transform", f"{module}:fog"]) == 0
    assert json.loads(Path("run/config.json").read_text())["transform"].endswith(f" of {module}:fog")
    assert main(["train", "--resume", "run", "--transform", f"{module}:fog"]) == 2
    assert "leave out --transform" in capsys.readouterr().err
    assert main(["train", "--resume", "run"]) == 2
    assert f"--transform {module}:fog" in capsys.readouterr().err  # the command that trains longer
    assert main([*arguments[:-1], "other", "--transform", f"{module}:fogg"]) == 2
    assert "did you mean 'fog'?" in capsys.readouterr().err


def test_program_with_its_own_transform_can_resume(tiny_data: Path, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "import sys\nimport detector\n"
        f"{MODULE}\n"
        "if __name__ == '__main__':\n"
        "    config = detector.Config(model='pico', steps=60, batch=4, input_size=96, save_every=1e-3)\n"
        "    if sys.argv[1:]:\n"
        "        print(detector.resume('run').steps)\n"
        "    else:\n"
        f"        detector.train({str(tiny_data)!r}, config, transform=fog, weights=None, out='run')\n"
    )
    process = subprocess.Popen([sys.executable, str(program)], cwd=tmp_path)
    while process.poll() is None and not list((tmp_path / "run" / "state").glob("*")):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) != 0
    command = [sys.executable, "-m", "detector", "train", "--resume", "run"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "resume it in that program" in done.stderr
    command = [sys.executable, str(program), "resume"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "60"


def test_torchrun_processes_load_the_transform_and_agree_on_sizes(tiny_data: Path, tmp_path: Path, module: str) -> None:
    arguments = ["train", "--data", str(tiny_data), "--model", "pico", "--imgsz", "128", "--set", "steps=24", "--set",
                 "batch=4", "--set", "multi_scale=0.5", "--weights", "none", "--no-report", "--device", "cpu",
                 "--transform", f"{module}:fog"]  # fmt: skip
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "detector"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([*command, *arguments, "--out", "two"], cwd=tmp_path, env=environment, timeout=120, check=True)
    facts = json.loads((tmp_path / "two" / "run.json").read_text())["facts"]
    assert facts["transform"].endswith(f" of {module}:fog")


def test_multi_scale_batches_have_the_same_size_in_all_processes(tiny_data: Path, tiny_config: Config) -> None:
    from detector.data.open_data import open_data
    from detector.loader.dataset import DetectionDataset

    config = replace(tiny_config, multi_scale=0.5, input_size=(96, 128))
    dataset = DetectionDataset(open_data(tiny_data).read("train"), (96, 128), config)
    sizes = set()
    for step in range(20, 40):
        parts = [training_batch(dataset, step, 4, 40, part=slice(start, start + 2)).images.shape for start in (0, 2)]
        assert parts[0] == parts[1]
        sizes.add(tuple(parts[0][2:]))
    assert len(sizes) > 3


def test_multi_scale_run_with_a_length_in_minutes_is_planned(
    tiny_data: Path, tiny_config: Config, tmp_path: Path
) -> None:
    config = replace(tiny_config, multi_scale=0.5, input_size=(96, 128), steps=None, minutes=0.15)
    run = train(tiny_data, config, out=tmp_path / "run")
    state = read_state(run.folder / "state")
    assert state is not None
    assert len(state[0].step_seconds) == 4
    assert run.steps >= 21
    assert (run.folder / "weights" / "best.safetensors").is_file()
