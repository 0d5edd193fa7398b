"""Options that a format cannot have, and missing packages, are errors before the work begins."""

from pathlib import Path
from typing import Any

import pytest

from detector.errors import ConfigError, FileError, MissingPackageError
from detector.exporting.export import export
from detector.graph.export_format import Format, export_files, format_of_export, format_of_name
from detector.options import DetectOptions, RuntimeName
from detector.predict.detector import Detector

NAMES: dict[Format, str] = {
    "onnx": "a.onnx",
    "openvino": "a_openvino",
    "ncnn": "a_ncnn",
    "litert": "a.tflite",
    "coreml": "a.mlpackage",
}


@pytest.mark.parametrize(
    ("format", "options", "message"),
    [
        ("ncnn", {"int8_images": []}, "--int8, or use --format onnx or openvino or litert"),
        ("ncnn", {"nms": DetectOptions()}, "leave out --nms in, or use --format onnx or openvino"),
        ("ncnn", {"dynamic": True}, "leave out --dynamic"),
        ("litert", {"dynamic": True}, "leave out --dynamic"),
        ("litert", {"int8_images": [], "int8_full_range": True}, "leave out --int8-full-range"),
        ("coreml", {"int8_images": []}, "leave out --int8"),
    ],
)
def test_option_that_the_format_cannot_have_is_refused(
    format: Format, options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        export("missing weights", tmp_path / NAMES[format], format=format, **options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("format", "package"), [("ncnn", "ncnn"), ("litert", "litert-torch"), ("coreml", "coremltools")]
)
def test_missing_package_is_reported_before_the_work(
    format: Format, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("detector.exporting.requirements.find_spec", lambda name: None)
    with pytest.raises(
        MissingPackageError, match=rf"needs the package {package}: pip install 'grid-detector\[{format}\]'"
    ):
        export("missing weights", tmp_path / NAMES[format], format=format)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("options", [{"fp16": True}, {"int8_images": []}])
def test_missing_quantizer_is_reported_before_the_work(
    options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("detector.exporting.requirements.find_spec", lambda name: name != "ai_edge_quantizer" or None)
    with pytest.raises(MissingPackageError, match=r"ai-edge-quantizer: pip install 'grid-detector\[litert\]'"):
        export("missing weights", tmp_path / "a.tflite", format="litert", **options)


@pytest.mark.parametrize(("runtime", "name", "extra"), [("ncnn", "a_ncnn", "ncnn"), ("litert", "a.tflite", "litert")])
def test_missing_runtime_of_an_export_is_reported(
    runtime: RuntimeName, name: str, extra: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if runtime == "ncnn":
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.json").write_text("{}")
    else:
        (tmp_path / name).write_bytes(b"")
    monkeypatch.setattr("detector.runtime.load.find_spec", lambda name: None)
    with pytest.raises(MissingPackageError, match=rf"pip install 'grid-detector\[{extra}\]'"):
        Detector.load(tmp_path / name)


@pytest.mark.parametrize("runtime", ["ncnn", "litert"])
def test_runtime_of_exports_does_not_run_weights(runtime: RuntimeName) -> None:
    with pytest.raises(ConfigError, match=f"--format {runtime}"):
        Detector.load("scenes", runtime=runtime)


def test_runtime_of_another_format_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a_ncnn").mkdir()
    (tmp_path / "a_ncnn/model.json").write_text("{}")
    with pytest.raises(ConfigError, match="openvino cannot run this export"):
        Detector.load(tmp_path / "a_ncnn", runtime="openvino")
    export("scenes", tmp_path / "a.onnx", input_size=64, certify=False)
    with pytest.raises(ConfigError, match="ncnn cannot run this export"):
        Detector.load(tmp_path / "a.onnx", runtime="ncnn")


def test_core_ml_package_cannot_be_loaded(tmp_path: Path) -> None:
    (tmp_path / "a.mlpackage").mkdir()
    with pytest.raises(ConfigError, match="runs only on devices of Apple"):
        Detector.load(tmp_path / "a.mlpackage")


@pytest.mark.parametrize(("format", "name"), NAMES.items())
def test_format_follows_from_the_name(format: Format, name: str, tmp_path: Path) -> None:
    assert format_of_name(tmp_path / name) == format
    assert format_of_name(Path("folder")) == "openvino"
    with pytest.raises(ConfigError, match="expected a name that ends in"):
        format_of_name(Path("a.pt"))


def test_format_of_an_export_follows_from_its_files(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    assert format_of_export(tmp_path / "folder") == "openvino"
    (tmp_path / "folder/model.ncnn.bin").write_bytes(b"")
    assert format_of_export(tmp_path / "folder") == "ncnn"
    assert [path.name for path in export_files(tmp_path / "folder")] == [
        "model.ncnn.param",
        "model.ncnn.bin",
        "model.json",
    ]


@pytest.mark.parametrize(("format", "name"), [("ncnn", "a.onnx"), ("litert", "a.onnx"), ("coreml", "a_coreml")])
def test_name_of_another_format_is_refused(
    format: Format, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("detector.exporting.requirements.find_spec", lambda name: name)
    with pytest.raises(ConfigError, match="expected a"):
        export("scenes", tmp_path / name, format=format)


def test_other_core_ml_package_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("detector.exporting.requirements.find_spec", lambda name: name)
    (tmp_path / "a.mlpackage").mkdir()
    (tmp_path / "a.mlpackage/Manifest.json").write_text("{}")
    with pytest.raises(FileError, match="was not written by this program"):
        export("scenes", tmp_path / "a.mlpackage", format="coreml")
    assert (tmp_path / "a.mlpackage/Manifest.json").read_text() == "{}"
