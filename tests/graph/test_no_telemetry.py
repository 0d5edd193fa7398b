"""OpenVINO and NNCF report to nobody that they are used: not even the package for that is loaded."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from detector.exporting.export import export
from detector.graph.no_telemetry import import_openvino


def run_quietly(code: str, folder: Path) -> None:
    """Run code in a process of its own, with an empty home folder and without pytest, for which NNCF keeps still."""
    code += "\nimport sys\nassert not [name for name in sys.modules if name.startswith('openvino_telemetry')]"
    home = folder / "home"
    home.mkdir()
    # What says that this is a machine of developers would keep them still too.
    plain = {key: value for key, value in os.environ.items() if key not in ("CI", "NNCF_CI", "NNCF_DEV")}
    own = {"HOME": str(home), "LOCALAPPDATA": str(home)}
    subprocess.run([sys.executable, "-c", code], cwd=folder, env=plain | own, check=True)
    assert not list(home.iterdir())


def test_detecting_with_openvino_reports_to_nobody(tiny_weights: Path, tmp_path: Path) -> None:
    export(tiny_weights, tmp_path / "tiny_openvino", "openvino")
    run_quietly("import detector\ndetector.Detector.load('tiny_openvino')", tmp_path)


@pytest.mark.skipif(find_spec("nncf") is None, reason="an extra of its own; importing it here would report it")
def test_exporting_in_eight_bits_reports_to_nobody(tiny_weights: Path, tiny_data: Path, tmp_path: Path) -> None:
    code = (
        "from pathlib import Path\n"
        "from detector.exporting.export import export, training_images\n"
        f"images = training_images({str(tiny_data)!r}) * 2\n"
        f"export({str(tiny_weights)!r}, Path('int8_openvino'), 'openvino', int8_images=images)"
    )
    run_quietly(code, tmp_path)


def test_who_has_the_telemetry_loaded_keeps_it(monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = type(sys)("openvino_telemetry")
    monkeypatch.setitem(sys.modules, "openvino_telemetry", theirs)
    import_openvino()
    assert sys.modules["openvino_telemetry"] is theirs
