"""An export is held to its weights, and noticed where it answers differently."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from detector.cli.commands import main
from detector.detections import Detections
from detector.errors import InputError
from detector.exporting.certify import certificate_path, certify, loses_too_much, verify
from detector.exporting.export import export, training_images
from detector.exporting.parity import Drift, compare, match
from detector.graph.metadata import NmsSettings
from detector.model.checkpoint import load_weights, save_weights

NAMES = ("a", "b")


def found(rows: list[tuple[float, float, float, float, float, int]]) -> Detections:
    table = np.array(rows, dtype=np.float32).reshape(-1, 6)
    return Detections(table[:, :4], table[:, 4], table[:, 5].astype(np.int64), NAMES)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("export") / "scenes.onnx"
    export("scenes", path, long_side=160)
    certify("scenes", path)
    return path


@pytest.fixture(scope="module")
def folder(tiny_weights: Path, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With everything: suppression inside, any canvas, the user's data."""
    path = tmp_path_factory.mktemp("export") / "tiny_openvino"
    export(tiny_weights, path, "openvino", nms=NmsSettings(0.1), dynamic=True)
    certify(tiny_weights, path, data=tiny_data)
    return path


def test_the_certificate_says_what_was_compared_with_what(exported: Path) -> None:
    certificate = json.loads(certificate_path(exported).read_text())
    [drift] = certificate["drift"].values()
    assert drift["unmatched"] == 0
    assert drift["box"] < 0.1
    assert drift["detections"] > 20
    assert certificate["AP"] is None
    assert certificate["exact"]
    assert min(certificate["milliseconds"].values()) > 0
    assert list(certificate["files"]) == ["scenes.onnx"]
    assert certificate["weights"]["name"] == "scenes"
    assert {len(value) for value in (*certificate["files"].values(), certificate["weights"]["sha256"])} == {64}
    assert certificate["versions"]["torch"] == torch.__version__
    assert certificate["form"] == {"dynamic": False, "int8": False, "nms": None, "input_hw": [128, 160]}


def test_the_certificate_of_a_folder_stands_in_it_and_tells_of_the_users_images_and_another_canvas(
    folder: Path,
) -> None:
    certificate = json.loads((folder / "certificate.json").read_text())
    assert list(certificate["drift"]) == ["built-in images", "your images", "an input of 160"]
    assert certificate["drift"]["your images"]["images"] == 4
    assert certificate["drift"]["your images"]["detections"] > 4
    assert set(certificate["files"]) == {"model.xml", "model.bin"}
    assert certificate["AP"]["lost"] == pytest.approx(0, abs=1e-3)
    assert certificate["AP"]["score_threshold"] == 0.1
    assert verify(folder)[0].is_within


def test_arithmetic_that_is_not_exact_is_judged_by_ap(exported: Path, tmp_path: Path) -> None:
    path = copy_of(exported, tmp_path)
    certificate = certify("scenes", path, "openvino-fast", images=training_images("scenes")[:3])
    assert not certificate["exact"]
    assert certificate["runtime"].startswith("openvino-fast 20")
    assert certificate["drift"]["your images"]["images"] == 3
    drift, _ = verify(path, "openvino-fast")
    assert drift.detections > 20
    assert drift.is_within  # of the same machine: the answers of the export itself
    assert not verify(path)[0].unmatched > drift.detections / 4  # another arithmetic


def test_half_a_point_of_ap_is_worth_a_word() -> None:
    assert not loses_too_much({"AP": None})
    assert not loses_too_much({"AP": {"lost": 0.005}})
    assert loses_too_much({"AP": {"lost": 0.0051}})


def test_what_is_not_exact_may_differ_elsewhere_but_not_by_any_amount() -> None:
    before = Drift(24, 100, 10, 9.0, 0.1)
    assert Drift(24, 100, 15, 9.0, 0.1).is_like(before)
    assert not Drift(24, 100, 16, 9.0, 0.1).is_like(before)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_a_file_is_held_to_its_certificate_without_its_weights(exported: Path, runtime: str) -> None:
    drift, _ = verify(exported, runtime)  # type: ignore[arg-type]
    assert drift.is_within
    assert drift.detections > 20


def test_a_file_may_be_renamed_with_its_certificate(exported: Path, tmp_path: Path) -> None:
    path = copy_of(exported, tmp_path)
    renamed = path.rename(tmp_path / "other.onnx")
    certificate_path(path).rename(certificate_path(renamed))
    assert verify(renamed)[0].is_within


def test_a_file_that_answers_differently_fails_and_the_certificate_shows_it(tmp_path: Path) -> None:
    network, info = load_weights("scenes")
    with torch.no_grad():
        network.heads[0].output.bias[-1] += 0.3  # type: ignore[index,operator,union-attr]
    save_weights(tmp_path / "other.safetensors", network, info)
    export(tmp_path / "other.safetensors", tmp_path / "m.onnx", long_side=160)
    with pytest.raises(InputError, match="does not answer like scenes on built-in images"):
        certify("scenes", tmp_path / "m.onnx")
    assert json.loads(certificate_path(tmp_path / "m.onnx").read_text())["drift"]["built-in images"]["box"] > 0.5


def copy_of(exported: Path, folder: Path) -> Path:
    for path in (exported, certificate_path(exported)):
        (folder / path.name).write_bytes(path.read_bytes())
    return folder / exported.name


def test_another_export_than_the_certified_one_is_refused(exported: Path, folder: Path, tmp_path: Path) -> None:
    path = copy_of(exported, tmp_path)
    other = shutil.copytree(folder, tmp_path / "tiny_openvino")
    for changed, where in ((path, path), (other / "model.bin", other)):
        changed.write_bytes(changed.read_bytes() + b"\0")
        with pytest.raises(InputError, match="is not what"):
            verify(where)


@pytest.mark.parametrize(
    "text", ["{}", "[]", "x", '{"format": "detector-certificate-2"}', '{"format": "detector-certificate-1"}']
)
def test_a_damaged_certificate_is_refused(text: str, exported: Path, tmp_path: Path) -> None:
    path = copy_of(exported, tmp_path)
    certificate_path(path).write_text(text)
    with pytest.raises(InputError, match=r"damaged|not readable|of another version"):
        verify(path)


def test_without_a_certificate_there_is_nothing_to_hold_it_to(exported: Path, tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(exported.read_bytes())
    with pytest.raises(InputError, match=r"m\.onnx\.certificate\.json: no such file"):
        verify(tmp_path / "m.onnx")
    with pytest.raises(InputError, match=r"other\.onnx: no such file or folder"):
        verify(tmp_path / "other.onnx")
    (tmp_path / "w.safetensors").write_bytes(b"")
    with pytest.raises(InputError, match="expected what `detector export` made of them"):
        verify(tmp_path / "w.safetensors")


def test_detections_are_matched_one_to_one_within_their_class() -> None:
    one = found([(0, 0, 10, 10, 0.9, 0), (0, 0, 10, 10, 0.8, 0), (50, 50, 60, 60, 0.7, 1)])
    other = found([(0, 0, 10, 11, 0.9, 0), (50, 50, 60, 60, 0.7, 0), (1, 0, 10, 10, 0.6, 0)])
    assert match(one, other) == [(0, 0), (1, 2)]
    drift = compare([one], [other], 0.05)
    assert (drift.unmatched, drift.box) == (2, 1)
    assert drift.score == pytest.approx(0.2)


def test_what_hardly_passes_the_threshold_need_not_be_matched() -> None:
    one, none = found([(0, 0, 10, 10, 0.055, 0)]), found([])
    assert compare([one], [none], 0.05).unmatched == compare([none], [one], 0.05).unmatched == 0
    assert compare([found([(0, 0, 10, 10, 0.07, 0)])], [none], 0.05).unmatched == 1
    assert compare([none], [none], 0.05).is_within


def test_equal_answers_do_not_drift() -> None:
    one = found([(0, 0, 10, 10, 0.9, 0), (5, 0, 15, 10, 0.8, 0)])
    assert compare([one], [replace(one)], 0.05).is_within


def test_the_command_exports_checks_and_verifies(
    tiny_data: Path, tiny_weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "tiny.onnx"
    images = str(tiny_data / "images")
    words = ["--weights", str(tiny_weights), "--out", str(path), "--data", str(tiny_data), "--int8", images]
    assert main(["export", *words]) == 0
    printed = capsys.readouterr().out
    assert "against the weights" in printed
    assert "with the weights" in printed
    certificate = json.loads(certificate_path(path).read_text())
    assert certificate["form"]["int8"]
    assert set(certificate["AP"]) == {"weights", "export", "lost", "split", "images"}
    assert list(certificate["drift"]) == ["built-in images", "your images"]
    assert main(["verify", str(path)]) == 0
    assert "as certified" in capsys.readouterr().out
