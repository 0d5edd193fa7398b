"""Tests of pickling and copying a detector: it is loaded again from its file, which must be there and unchanged."""

import copy
import multiprocessing
import pickle
import shutil
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

from detector.errors import ConfigError, FileError, WeightsError
from detector.exporting.export import export
from detector.images import find_images
from detector.options import RuntimeName
from detector.predict.detector import Detector


@pytest.fixture(scope="module")
def files(tiny_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The tiny weights as a .safetensors file, an ONNX file and an OpenVINO IR."""
    folder = tmp_path_factory.mktemp("files")
    shutil.copy(tiny_weights, folder / "w.safetensors")
    export(tiny_weights, folder / "w.onnx", certify=False)
    export(tiny_weights, folder / "w_openvino", format="openvino", certify=False)
    return {path.name: path for path in folder.iterdir()}


KINDS: list[tuple[str, RuntimeName]] = [
    ("w.safetensors", "torch"),
    ("w.safetensors", "onnxruntime"),
    ("w.onnx", "auto"),
    ("w.onnx", "onnxruntime"),
    ("w_openvino", "openvino-fast"),
]

COPIES: dict[str, Callable[[Detector], Detector]] = {
    "pickle": lambda detector: pickle.loads(pickle.dumps(detector)),
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
}


@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize(("name", "runtime"), KINDS)
def test_copy_detects_the_same_bits(
    how: str, name: str, runtime: RuntimeName, files: dict[str, Path], tiny_data: Path
) -> None:
    detector = Detector.load(files[name], device="cpu", runtime=runtime, threads=1)
    detector.suppression, detector.class_agnostic = "soft", True
    found = COPIES[how](detector)
    assert found is not detector
    assert (found.suppression, found.class_agnostic, found.info) == ("soft", True, detector.info)
    assert found.runtime.name == detector.runtime.name
    for image in find_images(tiny_data / "images")[:4]:
        expected, result = (one.detect(image, score_threshold=0.05) for one in (detector, found))
        assert len(expected)
        assert expected.boxes.tobytes() == result.boxes.tobytes()
        assert expected.scores.tobytes() == result.scores.tobytes()


def test_options_of_loading_are_used_again(files: dict[str, Path]) -> None:
    detector = Detector.load(files["w.safetensors"], runtime="openvino", input_size=192, threads=1, cache=False)
    found = pickle.loads(pickle.dumps(detector))
    assert (found.input_hw, found.runtime.name) == ((128, 192), "openvino")
    assert pickle.dumps(found) == pickle.dumps(detector)  # that is, all options are the same
    assert len(pickle.dumps(detector)) < 1000


def test_relative_path_works_in_another_folder(
    files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(files["w.onnx"].parent)
    content = pickle.dumps(Detector.load("w.onnx"))
    monkeypatch.chdir(tmp_path)
    assert pickle.loads(content).class_names == ("red", "blue")


def test_shipped_weights_are_found_by_name() -> None:
    content = pickle.dumps(Detector.load("scenes", device="cpu"))
    assert b"safetensors" not in content
    assert pickle.loads(content).class_names


@pytest.mark.parametrize("name", ["w.safetensors", "w.onnx", "w_openvino"])
def test_moved_file_is_named(name: str, files: dict[str, Path], tmp_path: Path) -> None:
    path = files[name].rename(tmp_path / name)
    content = pickle.dumps(Detector.load(path, device="cpu"))
    path.rename(files[name])
    with pytest.raises(
        FileError, match=f"{name}: a pickled detector cannot be loaded, because its weights are not there"
    ):
        pickle.loads(content)


@pytest.mark.parametrize("name", ["w.safetensors", "w.onnx", "w_openvino/model.bin", "w_openvino/model.xml"])
def test_changed_file_is_refused(name: str, files: dict[str, Path], tmp_path: Path) -> None:
    top = name.split("/")[0]
    copied = tmp_path / top
    shutil.copytree(files[top], copied) if files[top].is_dir() else shutil.copy(files[top], copied)
    content = pickle.dumps(Detector.load(copied, device="cpu"))
    changed = tmp_path / name
    changed.write_bytes(changed.read_bytes() + b" ")
    with pytest.raises(
        WeightsError, match=f"{top}: a pickled detector cannot be loaded, because this file has changed"
    ):
        pickle.loads(content)


def test_detector_made_from_a_runtime_cannot_be_pickled(files: dict[str, Path]) -> None:
    loaded = Detector.load(files["w.onnx"])
    detector = Detector(loaded.runtime, loaded.info)
    with pytest.raises(ConfigError, match=r"use Detector\.load with the path"):
        pickle.dumps(detector)
    assert copy.deepcopy(detector).runtime is loaded.runtime


def test_spawned_process_detects_the_same_bits(files: dict[str, Path], tiny_data: Path) -> None:
    detector = Detector.load(files["w.onnx"], runtime="onnxruntime", threads=1)
    paths = find_images(tiny_data / "images")[:4]
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        found = list(pool.map(detector.detect, paths))
    assert [one.boxes.tobytes() for one in found] == [detector.detect(path).boxes.tobytes() for path in paths]
