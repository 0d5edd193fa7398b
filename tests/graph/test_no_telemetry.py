"""Tests that OpenVINO, NNCF and ONNX Runtime run without telemetry, and write no id to the home folder."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from detector.exporting.export import export
from detector.graph.no_telemetry import import_openvino
from detector.graph.to_onnx import to_onnx
from detector.model.checkpoint import load_weights

VARIABLES = ("CI", "NNCF_CI", "NNCF_DEV", "ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME")
"""Variables that turn off a telemetry, or move its files out of the home folder."""


def assert_no_telemetry(code: str, folder: Path) -> None:
    """Run code and check that openvino_telemetry is not imported and that no file is written to the home folder.

    The code runs in a new process with an empty home folder, because NNCF turns off its telemetry under pytest.
    """
    code += "\nimport sys\nassert not [name for name in sys.modules if name.startswith('openvino_telemetry')]"
    home = folder / "home"
    home.mkdir()
    # Remove the variables; they may be set on machines of developers.
    environment = {key: value for key, value in os.environ.items() if key not in VARIABLES}
    homes = {"HOME": str(home), "LOCALAPPDATA": str(home)}
    subprocess.run([sys.executable, "-c", code], cwd=folder, env=environment | homes, check=True)
    assert not list(home.iterdir())


def test_detecting_with_openvino_loads_no_telemetry(tiny_weights: Path, tmp_path: Path) -> None:
    export(tiny_weights, tmp_path / "tiny_openvino", format="openvino", certify=False)
    assert_no_telemetry("import detector\ndetector.Detector.load('tiny_openvino')", tmp_path)


def test_detecting_with_onnxruntime_writes_no_device_id(tiny_weights: Path, tmp_path: Path) -> None:
    network, info = load_weights(tiny_weights)
    (tmp_path / "tiny.onnx").write_bytes(to_onnx(network, info, info.input_hw))
    assert_no_telemetry("import detector\ndetector.Detector.load('tiny.onnx', runtime='onnxruntime')", tmp_path)


@pytest.mark.skipif(find_spec("nncf") is None, reason="nncf is an optional extra; find_spec avoids its telemetry")
def test_int8_export_loads_no_telemetry(tiny_weights: Path, tiny_data: Path, tmp_path: Path) -> None:
    code = (
        "from pathlib import Path\n"
        "from detector.exporting.export import export, training_images\n"
        f"images = training_images({str(tiny_data)!r}) * 2\n"
        f"export({str(tiny_weights)!r}, Path('int8_openvino'), format='openvino', int8_images=images, certify=False)"
    )
    assert_no_telemetry(code, tmp_path)


def test_telemetry_loaded_by_other_code_stays_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded_before = type(sys)("openvino_telemetry")
    monkeypatch.setitem(sys.modules, "openvino_telemetry", loaded_before)
    import_openvino()
    assert sys.modules["openvino_telemetry"] is loaded_before
