"""An exported file is held to its weights, and noticed where it answers differently."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from detector.cli import main
from detector.detections import Detections
from detector.engine.certify import certificate_path, certify, compare, match, verify
from detector.engine.export import export
from detector.errors import InputError
from detector.model.checkpoint import load_weights, save_weights

NAMES = ("a", "b")


def found(rows: list[tuple[float, float, float, float, float, int]]) -> Detections:
    table = np.array(rows, dtype=np.float32).reshape(-1, 6)
    return Detections(table[:, :4], table[:, 4], table[:, 5].astype(np.int64), NAMES)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("export") / "scenes.onnx"
    export("scenes", path, 160)
    certify("scenes", path, 160)
    return path


def test_the_certificate_says_what_was_compared_with_what(exported: Path) -> None:
    certificate = json.loads(certificate_path(exported).read_text())
    assert certificate["drift"]["unmatched"] == 0
    assert certificate["drift"]["box"] < 0.1
    assert certificate["drift"]["detections"] > 20
    assert certificate["AP"] is None
    assert min(certificate["milliseconds"].values()) > 0


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_a_file_is_held_to_its_certificate_without_its_weights(exported: Path, runtime: str) -> None:
    drift, _ = verify(exported, runtime)  # type: ignore[arg-type]
    assert drift.is_within
    assert drift.detections > 20


def test_a_file_that_answers_differently_fails_and_the_certificate_shows_it(tmp_path: Path) -> None:
    network, info = load_weights("scenes")
    with torch.no_grad():
        network.heads[0].output.bias[-1] += 0.3  # type: ignore[index,operator,union-attr]
    save_weights(tmp_path / "other.safetensors", network, info)
    export(tmp_path / "other.safetensors", tmp_path / "m.onnx", 160)
    with pytest.raises(InputError, match="does not answer like scenes"):
        certify("scenes", tmp_path / "m.onnx", 160)
    assert json.loads(certificate_path(tmp_path / "m.onnx").read_text())["drift"]["box"] > 0.5


def copy_of(exported: Path, folder: Path) -> Path:
    for path in (exported, certificate_path(exported)):
        (folder / path.name).write_bytes(path.read_bytes())
    return folder / exported.name


def test_another_file_than_the_certified_one_is_refused(exported: Path, tmp_path: Path) -> None:
    path = copy_of(exported, tmp_path)
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(InputError, match="is not the file that"):
        verify(path)


@pytest.mark.parametrize("text", ["{}", "[]", "x", '{"format": "detector-certificate-1"}'])
def test_a_damaged_certificate_is_refused(text: str, exported: Path, tmp_path: Path) -> None:
    path = copy_of(exported, tmp_path)
    certificate_path(path).write_text(text)
    with pytest.raises(InputError, match=r"damaged|not readable"):
        verify(path)


def test_without_a_certificate_there_is_nothing_to_hold_it_to(exported: Path, tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(exported.read_bytes())
    with pytest.raises(InputError, match="no such file"):
        verify(tmp_path / "m.onnx")


def test_detections_are_matched_one_to_one_within_their_class() -> None:
    one = found([(0, 0, 10, 10, 0.9, 0), (0, 0, 10, 10, 0.8, 0), (50, 50, 60, 60, 0.7, 1)])
    other = found([(0, 0, 10, 11, 0.9, 0), (50, 50, 60, 60, 0.7, 0), (1, 0, 10, 10, 0.6, 0)])
    assert match(one, other) == [(0, 0), (1, 2)]
    drift = compare([one], [other])
    assert (drift.unmatched, drift.box) == (2, 1)
    assert drift.score == pytest.approx(0.2)


def test_what_hardly_passes_the_threshold_need_not_be_matched() -> None:
    one, none = found([(0, 0, 10, 10, 0.055, 0)]), found([])
    assert compare([one], [none]).unmatched == compare([none], [one]).unmatched == 0
    assert compare([found([(0, 0, 10, 10, 0.07, 0)])], [none]).unmatched == 1
    assert compare([none], [none]).is_within


def test_equal_answers_do_not_drift() -> None:
    one = found([(0, 0, 10, 10, 0.9, 0), (5, 0, 15, 10, 0.8, 0)])
    assert compare([one], [replace(one)]).is_within


def test_the_command_exports_checks_and_verifies(
    tiny_data: Path, tiny_weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "tiny.onnx"
    pictures = str(tiny_data / "images")
    words = ["--weights", str(tiny_weights), "--out", str(path), "--data", str(tiny_data), "--int8", pictures]
    assert main(["export", *words]) == 0
    printed = capsys.readouterr().out
    assert "against the weights" in printed
    assert "with the weights" in printed
    certificate = json.loads(certificate_path(path).read_text())
    assert certificate["int8"]
    assert set(certificate["AP"]) == {"weights", "file", "lost"}
    assert main(["verify", str(path)]) == 0
    assert "as certified" in capsys.readouterr().out
