"""The public names of the package: discoverable, with signatures an editor can show, and without side effects."""

import csv
import functools
import inspect
import json
import operator
import random
import signal
import subprocess
import sys
import typing
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

import detector
from detector import Config, DetectOptions, Detector
from detector.options import AllClasses
from detector.runtime.hardware import choose_device, choose_precision

LARGEST_POSITIONAL = 3

FUNCTIONS = {name: getattr(detector, name) for name in detector.__all__ if not inspect.isclass(getattr(detector, name))}
CLASSES = {name: getattr(detector, name) for name in detector.__all__ if inspect.isclass(getattr(detector, name))}
METHODS = {
    f"{name}.{method}": getattr(kind, method)
    for name, kind in CLASSES.items()
    for method in vars(kind)
    if not method.startswith("_") and callable(getattr(kind, method))
}
CALLABLES = FUNCTIONS | METHODS


def parameters(function: Callable[..., Any]) -> list[inspect.Parameter]:
    """Return the parameters of a function or method, without `self`."""
    return [parameter for name, parameter in inspect.signature(function).parameters.items() if name != "self"]


def test_dir_shows_every_public_name_without_torch() -> None:
    code = (
        "import sys, detector\n"
        "assert set(detector.__all__) <= set(dir(detector)), dir(detector)\n"
        "assert 'torch' not in sys.modules\n"
        "names = dir(detector)\n"
        "for name in detector.__all__: getattr(detector, name)\n"
        "assert set(names) <= set(dir(detector))\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_the_expected_functions_are_public() -> None:
    commands = {"check", "compare", "convert", "evaluate", "explain", "export", "restyle", "resume", "review"}
    commands |= {
        "average",
        "train",
        "tune",
        "verify",
        "choose_thresholds",
        "cross_validate",
    }  # `evaluate` on the command line
    assert set(FUNCTIONS) == commands | {"draw", "open_data", "read_config", "read_image", "write_image"}
    assert {"Detector.load", "Detector.detect", "Detector.detect_each", "Detections.draw"} <= set(METHODS)


@pytest.mark.parametrize("name", CALLABLES)
def test_options_of_public_functions_are_keyword_only(name: str) -> None:
    kinds = [parameter.kind for parameter in parameters(CALLABLES[name])]
    assert inspect.Parameter.VAR_KEYWORD not in kinds
    assert inspect.Parameter.VAR_POSITIONAL not in kinds
    assert sum(kind != inspect.Parameter.KEYWORD_ONLY for kind in kinds) <= LARGEST_POSITIONAL


@pytest.mark.parametrize("name", CALLABLES)
def test_parameters_of_public_functions_have_types(name: str) -> None:
    signature = inspect.signature(CALLABLES[name])
    assert signature.return_annotation is not inspect.Signature.empty
    for parameter in parameters(CALLABLES[name]):
        assert parameter.annotation is not inspect.Parameter.empty, parameter
        if not name.endswith("from_supervision"):  # a type of an optional package
            assert parameter.annotation not in (Any, "Any"), parameter


@pytest.mark.parametrize("name", FUNCTIONS)
def test_parameters_of_public_functions_are_documented(name: str) -> None:
    names = [parameter.name for parameter in parameters(FUNCTIONS[name])]
    documented = inspect.getdoc(FUNCTIONS[name])
    assert documented is not None
    if len(names) > 1:
        assert [one for one in names if f"    {one}: " not in documented] == []


@pytest.mark.parametrize("function", [Detector.detect, Detector.detect_each], ids=["detect", "detect_each"])
def test_detect_has_exactly_the_detect_options(function: Callable[..., Any]) -> None:
    hints = typing.get_type_hints(DetectOptions)
    public = [kind for kind in typing.get_args(hints["classes"]) if kind is not AllClasses]  # `ALL_CLASSES` is internal
    hints["classes"] = functools.reduce(operator.or_, public)
    options = {option.name: (option.default, hints[option.name]) for option in fields(DetectOptions)}
    _, *keywords = parameters(function)
    types = typing.get_type_hints(function)
    assert {keyword.name: (keyword.default, types[keyword.name]) for keyword in keywords} == options


def test_paths_may_be_strings(tmp_path: Path) -> None:
    image = np.full((5, 8, 3), 90, np.uint8)
    detector.write_image(str(tmp_path / "a.png"), image)
    np.testing.assert_array_equal(detector.read_image(str(tmp_path / "a.png")), image)
    (tmp_path / "run.yaml").write_text("seed: 3")
    assert detector.read_config(str(tmp_path / "run.yaml")) == Config(seed=3)


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("a.xyz", (5, 8, 3), r"a\.xyz: no image format has the suffix '\.xyz'"),
        ("a.psd", (5, 8, 3), r"a\.psd: no image format has the suffix '\.psd'"),
        ("a", (5, 8, 3), "a: no image format has the suffix ''"),
        ("a.png", (5, 8), r"expected an RGB image as uint8 \[H, W, 3\], got uint8 \[5, 8\]"),
    ],
)
def test_image_that_cannot_be_written_is_refused(
    tmp_path: Path, name: str, shape: tuple[int, ...], message: str
) -> None:
    with pytest.raises(detector.InputError, match=message):
        detector.write_image(tmp_path / name, np.zeros(shape, np.uint8))
    assert not list(tmp_path.iterdir())


def test_misspelled_parameter_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'epochs'"):
        detector.train("scenes", epochs=3)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="unexpected keyword argument 'conf'"):
        detector.evaluate("scenes", "scenes", conf=0.5)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="unexpected keyword argument 'imgsz'"):
        Detector.load("cells", imgsz=320)  # type: ignore[call-arg]


# --- train


@pytest.fixture
def three_opencv_threads() -> Iterator[None]:
    """Set a number of threads that differs from the default of OpenCV and from the one used in training."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(3)
    yield
    cv2.setNumThreads(before)


def process_state() -> dict[str, Any]:
    """Return what a library call must not change in the process of its caller."""
    return {
        "torch": torch.get_rng_state().tolist(),
        "torch threads": torch.get_num_threads(),
        "opencv threads": cv2.getNumThreads(),
        "default dtype": torch.get_default_dtype(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "numpy": repr(np.random.get_state()),  # noqa: NPY002 (a caller may use the old generator)
        "random": random.getstate(),
        "signals": [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)],
    }


@pytest.mark.usefixtures("three_opencv_threads")
def test_train_and_resume_restore_the_process(tiny_data: Path, tiny_config: Config, tmp_path: Path) -> None:
    config = replace(tiny_config, steps=4, optimizer="momentum", lr=0.3, dropout=0.1)
    with torch.random.fork_rng():
        torch.manual_seed(7)
        before = process_state()
        result = detector.train(tiny_data, config, out=tmp_path / "run")
        assert process_state() == before
        with pytest.raises(detector.InputError, match="already holds a run"):
            detector.train(tiny_data, config, out=tmp_path / "run")
        assert process_state() == before
        for path in (tmp_path / "run" / "state").glob("00000004-*"):
            path.unlink()
        assert detector.resume(tmp_path / "run").steps == 4
        assert process_state() == before
    assert result.weights == tmp_path / "run" / "weights" / "best.safetensors"
    assert result.weights.is_file()
    assert Detector.load(result.weights, device="cpu").class_names == ("red", "blue")


def learning_rates(folder: Path) -> dict[int, float]:
    """Return the learning rate in results.csv by step."""
    with (folder / "results.csv").open(newline="") as file:
        return {int(row["step"]): float(row["lr"]) for row in csv.DictReader(file)}


def test_results_contain_the_learning_rate_itself(
    tiny_run: Path, tiny_data: Path, tiny_config: Config, tmp_path: Path
) -> None:
    # The default of muon is 0.05; it is constant until step 40 of 80 and then falls to 2 %.
    assert learning_rates(tiny_run) == {40: 0.05, 80: 0.001}
    # In the first 20 steps it rises to a fifth of the peak.
    config = replace(tiny_config, steps=4, optimizer="momentum", lr=0.3)
    detector.train(tiny_data, config, out=tmp_path)
    assert learning_rates(tmp_path) == {2: 0.006, 4: 0.012}


def test_config_json_says_what_auto_was_resolved_to(tiny_data: Path, tmp_path: Path) -> None:
    config = Config(model="pico", steps=1)
    automatic = {setting.name for setting in fields(Config) if getattr(config, setting.name) == "auto"}
    assert automatic == {
        "lr",
        "lr_backbone",
        "spp",
        "batch",
        "copy_paste",
        "input_size",
        "evaluations",
        "precision",
        "device",
    }
    detector.train(tiny_data, config, out=tmp_path)
    settings = json.loads((tmp_path / "config.json").read_text())
    device = choose_device("auto")
    assert settings["device"] == str(device)
    is_bf16 = choose_precision("auto", device) == torch.bfloat16
    assert settings["precision"] == ("bf16" if is_bf16 else "fp32")
    assert (settings["lr"], settings["batch"], settings["evaluations"]) == (0.05, 8, 1)
    assert (settings["lr_backbone"], settings["spp"], settings["copy_paste"]) == (1, False, 0.5)
    model = Detector.load(tmp_path / "weights" / "best.safetensors", device="cpu")
    assert settings["input_size"] == list(model.input_hw)
    assert "auto" not in settings.values()
    assert {setting.name for setting in fields(Config)} <= set(settings)
