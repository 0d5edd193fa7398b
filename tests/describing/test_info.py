"""`detector info`: what a bug report needs, and nothing private."""

import getpass
import hashlib
import json
import platform
import socket
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import pytest

from detector.cli.commands import main
from detector.graph.to_onnx import to_onnx
from detector.model.checkpoint import load_weights, save_weights


@pytest.fixture
def private_weights(tiny_weights: Path, tmp_path: Path) -> Path:
    """Weights in a folder, and from data in a folder, whose names are private."""
    network, info = load_weights(tiny_weights)
    path = tmp_path / "alice" / "mine.safetensors"
    path.parent.mkdir()
    facts = {"data": "YOLO folder /home/alice/cells: train, val", "images": 7, "val": {"AP": 0.25, "AP50": 0.5}}
    save_weights(path, network, replace(info, facts=facts))
    return path


def test_info_reports_weights_versions_and_machine(private_weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(private_weights), "--json"]) == 0
    info = json.loads(capsys.readouterr().out)
    weights = info["weights"]
    assert weights["sha256"] == hashlib.sha256(private_weights.read_bytes()).hexdigest()
    assert (weights["file"], weights["classes"]) == ("mine.safetensors", ["red", "blue"])
    assert (weights["data"], weights["ap"]) == ("YOLO folder cells: train, val", {"AP": 0.25, "AP50": 0.5})
    assert weights["export"] == {}
    assert info["packages"]["torch"] == version("torch")
    assert info["machine"]["python"].endswith(platform.python_version())
    assert set(info["runtimes"]) == {"torch", "onnxruntime", "openvino"}


@pytest.mark.parametrize("arguments", [[], ["--json"]])
def test_info_contains_nothing_private(
    private_weights: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["/home/alice/bin/detector"])
    assert main(["info", str(private_weights), *arguments]) == 0
    out = capsys.readouterr().out
    words = {word for part in out.split() for word in part.replace("/", " / ").split()}
    assert not words & {"alice", getpass.getuser(), socket.gethostname(), "home", "Users"}
    assert str(Path.home()) not in out
    assert str(Path(__file__).parents[2]) not in out


def test_info_of_an_export_names_its_properties(
    tiny_weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "tiny.onnx"
    network, info = load_weights(tiny_weights)
    path.write_bytes(to_onnx(network, info, info.input_hw, dynamic=True))
    assert main(["info", str(path)]) == 0
    assert "exported graph: dynamic True" in capsys.readouterr().out
