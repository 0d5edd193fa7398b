"""Certificates record differences between exports and weights, and `verify` detects changed exports."""

import json
import platform
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch

from detector.cli.commands import main
from detector.errors import InputError, WeightsError
from detector.exporting.certificate import (
    ApComparison,
    Certificate,
    certificate_path,
    detections_to_rows,
    read_certificate,
)
from detector.exporting.certify import certify_export
from detector.exporting.export import export, training_images
from detector.exporting.reference_images import builtin_images, comparison_options, detect_one_by_one, image_hash
from detector.exporting.verify import verify
from detector.model.checkpoint import load_weights, save_weights
from detector.options import DetectOptions, RuntimeName
from detector.outputs import without_signature
from detector.predict.detector import Detector
from detector.runtime.instruction_set import instruction_set
from detector.runtime.onnx import OnnxRuntime
from detector.version import VERSION


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Export the shipped weights `scenes` to an ONNX file with a certificate; return the path of the file."""
    path = tmp_path_factory.mktemp("export") / "scenes.onnx"
    export("scenes", path, input_size=160)
    return path


@pytest.fixture(scope="module")
def folder(tiny_weights: Path, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Export to OpenVINO with NMS inside and dynamic input size, with a certificate on data; return the folder."""
    path = tmp_path_factory.mktemp("export") / "tiny_openvino"
    nms = DetectOptions(score_threshold=0.1)
    export(tiny_weights, path, format="openvino", nms=nms, dynamic=True, data=tiny_data)
    return path


def read_json(path: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(certificate_path(path).read_text())
    return values


def copy_of(exported: Path, folder: Path) -> Path:
    """Copy an ONNX file and its certificate to a folder; return the path of the copy."""
    for path in (exported, certificate_path(exported)):
        (folder / path.name).write_bytes(path.read_bytes())
    return folder / exported.name


def test_certificate_records_what_was_compared(exported: Path) -> None:
    certificate = read_json(exported)
    assert certificate["format"] == "detector-certificate-4"
    [parity] = certificate["parity"].values()
    assert parity["unmatched"] == 0
    assert parity["box"] < 0.1
    assert parity["detections"] > 20
    assert certificate["AP"] is None
    assert certificate["exact"]
    assert min(certificate["latency_ms"].values()) > 0
    assert list(certificate["files"]) == ["scenes.onnx"]
    assert certificate["weights"]["name"] == "scenes"
    assert {len(value) for value in (*certificate["files"].values(), certificate["weights"]["sha256"])} == {64}
    assert certificate["versions"]["torch"] == torch.__version__
    assert certificate["versions"]["detector"] == VERSION
    assert certificate["graph"] == {
        "dynamic": False,
        "int8": False,
        "int8_weight_bits": None,
        "fp16": False,
        "nms": None,
        "input_hw": [128, 160],
    }
    assert certificate["instruction_set"].startswith(platform.machine())
    assert certificate["valid_for"] == "every runtime that computes in float32"
    assert certificate["options"] == {"score_threshold": 0.05, "iou_threshold": 0.6, "max_detections": 300}


def test_folder_certificate_includes_user_images_and_larger_input(folder: Path) -> None:
    certificate = json.loads((folder / "certificate.json").read_text())
    assert list(certificate["parity"]) == ["built-in images", "your images", "an input of 160"]
    assert certificate["parity"]["your images"]["images"] == 4
    assert certificate["parity"]["your images"]["detections"] > 4
    assert set(certificate["files"]) == {"model.xml", "model.bin"}
    assert certificate["AP"]["lost"] == pytest.approx(0, abs=1e-3)
    assert certificate["AP"]["options"]["score_threshold"] == 0.1
    assert verify(folder).parity.is_within_rounding


@pytest.mark.parametrize("name", ["exported", "folder"])
def test_certificate_equals_what_is_read_back(name: str, request: pytest.FixtureRequest) -> None:
    path = request.getfixturevalue(name)
    certificate = read_certificate(path)
    assert certificate.to_json() == without_signature(read_json(path))
    assert Certificate.from_json(certificate.to_json(), "test") == certificate


def test_inexact_runtime_is_judged_by_ap(exported: Path, tmp_path: Path) -> None:
    path = copy_of(exported, tmp_path)
    certificate = certify_export("scenes", path, runtime="openvino-fast", images=training_images("scenes")[:3])
    assert not certificate.exact
    assert certificate.runtime.startswith("openvino-fast 20")
    assert certificate.parity["your images"].images == 3
    parity = verify(path, runtime="openvino-fast").parity
    assert parity.detections > 20
    # Verified on the machine of the certificate, which contains the detections of the export itself.
    assert parity.is_within_rounding
    # The default runtime computes with another precision.
    assert not verify(path).parity.unmatched > parity.detections / 4


@pytest.fixture(scope="module")
def int8_exports(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Export the shipped weights `scenes` to int8 ONNX files, with certificates; return bits of the weights → path."""
    folder = tmp_path_factory.mktemp("int8")
    images = training_images("scenes")[:24]
    for bits, name in ((7, "seven.onnx"), (8, "eight.onnx")):
        export(
            "scenes",
            folder / name,
            int8_images=images,
            certificate_images=images,
            int8_full_range=bits == 8,
            runtime="onnxruntime",
        )
    return {7: folder / "seven.onnx", 8: folder / "eight.onnx"}


def certify_exact_sums(path: Path, folder: Path) -> Path:
    """Copy an int8 export to a folder; its certificate has the detections of a machine with exact int8 sums.

    Without optimizations, ONNX Runtime computes an int8 graph in float32, in which all these sums are exact.
    """
    copy = copy_of(path, folder)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    runtime = OnnxRuntime(path.read_bytes(), path.name)
    runtime._session = onnxruntime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
    detector = Detector(runtime, runtime.info)
    values, images = read_json(path), builtin_images(detector)
    found = detect_one_by_one(detector, images, comparison_options(detector))
    values["detections"] = {
        image_hash(image): detections_to_rows(one) for image, one in zip(images, found, strict=True)
    }
    certificate_path(copy).write_text(json.dumps(values))
    return copy


def test_int8_certificate_names_where_it_is_valid(int8_exports: dict[int, Path]) -> None:
    for bits, path in int8_exports.items():
        certificate = read_certificate(path)
        assert certificate.graph.int8_weight_bits == read_json(path)["graph"]["int8_weight_bits"] == bits
        assert certificate.valid_for.startswith(f"onnxruntime {onnxruntime.__version__} on ")
        assert ("every CPU" in certificate.valid_for) == (bits == 7)
        assert Certificate.from_json(certificate.to_json(), "test") == certificate


def test_int8_drift_is_judged_without_labels(int8_exports: dict[int, Path]) -> None:
    assert read_certificate(int8_exports[7]).int8_agrees is True
    if instruction_set().sums_int8_exactly is False:
        assert read_certificate(int8_exports[8]).int8_agrees is False


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_seven_bit_int8_is_verified_on_every_cpu(
    runtime: RuntimeName, int8_exports: dict[int, Path], tmp_path: Path
) -> None:
    parity = verify(certify_exact_sums(int8_exports[7], tmp_path), runtime=runtime).parity
    assert parity.detections > 100
    assert parity.unmatched < parity.detections / 25


@pytest.mark.skipif(instruction_set().sums_int8_exactly is not False, reason="this CPU computes exact int8 sums")
@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_verify_finds_int8_sums_that_overflow(
    runtime: RuntimeName, int8_exports: dict[int, Path], tmp_path: Path
) -> None:
    with pytest.raises(WeightsError, match=r"written with onnxruntime .* on a CPU with .*, this CPU has"):
        verify(certify_exact_sums(int8_exports[8], tmp_path), runtime=runtime)


def test_a_loss_above_half_a_point_of_ap_is_too_much(exported: Path) -> None:
    certificate = read_certificate(exported)
    assert not certificate.loses_too_much
    ap = ApComparison(0.5, 0.495, 0.005, "test", 4, DetectOptions())
    assert not replace(certificate, AP=ap).loses_too_much
    assert replace(certificate, AP=replace(ap, lost=0.0051)).loses_too_much


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_export_is_verified_without_its_weights(exported: Path, runtime: RuntimeName) -> None:
    parity = verify(exported, runtime=runtime).parity
    assert parity.is_within_rounding
    assert parity.detections > 20


def test_file_may_be_renamed_with_its_certificate(exported: Path, tmp_path: Path) -> None:
    path = copy_of(exported, tmp_path)
    renamed = path.rename(tmp_path / "other.onnx")
    certificate_path(path).rename(certificate_path(renamed))
    assert verify(renamed).parity.is_within_rounding


def test_export_of_other_weights_fails_and_is_recorded(tmp_path: Path) -> None:
    network, info = load_weights("scenes")
    with torch.no_grad():
        network.heads[0].output.bias[-1] += 0.3  # type: ignore[index,operator,union-attr]
    save_weights(tmp_path / "other.safetensors", network, info)
    path = tmp_path / "m.onnx"
    export(tmp_path / "other.safetensors", path, input_size=160, certify=False)
    with pytest.raises(WeightsError, match="differ from those of scenes on built-in images"):
        certify_export("scenes", path)
    assert read_json(path)["parity"]["built-in images"]["box"] > 0.5


def test_export_other_than_the_certified_one_is_refused(exported: Path, folder: Path, tmp_path: Path) -> None:
    path = copy_of(exported, tmp_path)
    other = shutil.copytree(folder, tmp_path / "tiny_openvino")
    for changed, export_path in ((path, path), (other / "model.bin", other)):
        changed.write_bytes(changed.read_bytes() + b"\0")
        with pytest.raises(WeightsError, match="the export is damaged, or is not the export that"):
            verify(export_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "damaged"),
        ("[]", "damaged"),
        ("x", "cannot be read as JSON"),
        ('{"format": "detector-certificate-3"}', "written by another version"),
        ('{"format": "detector-certificate-2"}', "written by another version"),
        ('{"format": "detector-certificate-1"}', "written by another version"),
        ('{"format": "detector-certificate-4"}', "damaged"),
    ],
)
def test_damaged_certificate_is_refused(text: str, message: str, exported: Path, tmp_path: Path) -> None:
    path = copy_of(exported, tmp_path)
    certificate_path(path).write_text(text)
    with pytest.raises(InputError, match=rf"certificate\.json: .*{message}"):
        verify(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"parity": {}}, "damaged"),
        ({"parity": {"built-in images": {"images": "many"}}}, "damaged"),
        ({"options": {"score_threshold": 2, "iou_threshold": 0.5, "max_detections": 9}}, "damaged"),
        ({"graph": None}, "damaged"),
        ({"detections": {}}, "nothing can be compared"),
    ],
)
def test_damaged_values_in_a_certificate_are_refused(
    changes: dict[str, Any], message: str, exported: Path, tmp_path: Path
) -> None:
    path = copy_of(exported, tmp_path)
    certificate_path(path).write_text(json.dumps(read_json(path) | changes))
    with pytest.raises(WeightsError, match=message):
        verify(path)


def test_damaged_detections_in_a_certificate_are_refused(exported: Path, tmp_path: Path) -> None:
    path = copy_of(exported, tmp_path)
    values = read_json(path)
    values["detections"] = {key: ["0 0.5 1 2 three 4"] for key in values["detections"]}
    certificate_path(path).write_text(json.dumps(values))
    with pytest.raises(WeightsError, match="damaged"):
        verify(path)


def test_missing_files_are_named(exported: Path, tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(exported.read_bytes())
    with pytest.raises(InputError, match=r"has no certificate, because .*m\.onnx\.certificate\.json is missing"):
        verify(tmp_path / "m.onnx")
    with pytest.raises(InputError, match=r"other\.onnx: no such file or folder"):
        verify(tmp_path / "other.onnx")
    (tmp_path / "w.safetensors").write_bytes(b"")
    with pytest.raises(InputError, match="give an export that `detector export` has written"):
        verify(tmp_path / "w.safetensors")


def test_export_command_certifies_and_verify_command_verifies(
    tiny_data: Path, tiny_weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "tiny.onnx"
    images = str(tiny_data / "images")
    arguments = ["--weights", str(tiny_weights), "--out", str(path), "--data", str(tiny_data), "--int8", images]
    assert main(["export", *arguments]) == 0
    printed = capsys.readouterr().out
    assert "built-in images" in printed
    assert "AP" in printed
    certificate = read_json(path)
    assert certificate["graph"]["int8"]
    assert set(certificate["AP"]) == {"weights", "export", "lost", "split", "images", "options"}
    assert list(certificate["parity"]) == ["built-in images", "your images"]
    assert main(["verify", str(path)]) == 0
    assert certificate["runtime"] in capsys.readouterr().out
