"""A network with fully connected layers accepts one input size: everything works with it, or says why not."""

import json
import logging
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from detector.checking.check import check
from detector.cli.commands import main
from detector.config import Config
from detector.errors import ConfigError, WeightsError
from detector.evaluating.evaluate import evaluate
from detector.explaining.explain import explain
from detector.exporting.export import export, training_images
from detector.graph.export_format import Format
from detector.images import read_image
from detector.model.checkpoint import copy_weights, load_weights, save_weights
from detector.model.fuse import fuse
from detector.model.make_network import make_network
from detector.model.yolo_v1 import YoloV1Network
from detector.options import DetectOptions
from detector.predict.detector import Detector
from detector.training.train import train
from detector.weights_info import WeightsInfo

DENSE = Config(
    model="pico", head="yolo_v1", cell_output="dense", dense_units=24, input_size=(64, 96), batch=4, evaluations=1,
    precision="fp32", device="cpu",
)  # fmt: skip
NEEDS_NNCF = pytest.mark.skipif(find_spec("nncf") is None, reason="nncf is an optional extra")
SHORT = replace(DENSE, steps=2)


def build(input_hw: tuple[int, int] = (64, 96), config: Config = DENSE) -> YoloV1Network:
    torch.manual_seed(0)
    mean, covariance = np.full(3, 110, np.float32), np.eye(3, dtype=np.float32) * 3600
    network = make_network(config, 2, mean, covariance, input_hw=input_hw)
    assert isinstance(network, YoloV1Network)
    return network.eval()


def noise(*hw: int) -> torch.Tensor:
    return torch.randint(0, 256, (2, 3, *hw), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def weights(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights that were trained with the first part of the run at the full input size."""
    run = train(tiny_data, replace(DENSE, steps=30), out=tmp_path_factory.mktemp("fixed") / "run")
    return run.folder / "weights" / "last.safetensors"


@pytest.mark.parametrize(
    ("input_hw", "settings", "cells"),
    [((64, 96), {}, 6), ((224, 256), {"padding": "valid"}, 2), ((64, 96), {"downsample": "max_pool"}, 6)],
)
@torch.inference_mode()
def test_predictions_exist_for_every_cell(input_hw: tuple[int, int], settings: dict[str, object], cells: int) -> None:
    config = replace(DENSE, **settings)  # type: ignore[arg-type]
    network = build(input_hw, config)
    predictions = network(noise(*input_hw))
    assert predictions.scores().shape == (2, 2 * cells, 2)
    convolution = build(input_hw, replace(config, cell_output="conv"))(noise(*input_hw))
    assert torch.equal(predictions.grid.points, convolution.grid.points)
    # With zero weights, only the initial bias is left: it is the same in all cells, with both kinds of last layers.
    for output in network.outputs:
        output.weight.zero_()
    boxes, centers = network(noise(*input_hw)).boxes()[0].view(-1, 2, 4), predictions.grid.points[:, None]
    torch.testing.assert_close((boxes[..., :2] + boxes[..., 2:]) / 2, centers.expand(-1, 2, -1))
    assert torch.allclose(boxes[:, :, 2:] - boxes[:, :, :2], (boxes[:1, :, 2:] - boxes[:1, :, :2]))


@pytest.mark.parametrize("hw", [(32, 96), (96, 64), (64, 128), (128, 192)])
def test_network_fails_at_another_input_size(hw: tuple[int, int]) -> None:
    with pytest.raises(AssertionError):
        build()(noise(*hw))
    with pytest.raises(AssertionError):
        fuse(build())(noise(*hw))


def test_each_cell_sees_the_whole_image() -> None:
    images = noise(64, 96)
    other = images.clone()
    other[..., -8:, -8:] ^= 255  # in the last cell
    with torch.inference_mode():
        change = build()(images).confidence - build()(other).confidence
    assert (change[:, 0].abs() > 0).all()  # of the first cell


def test_a_single_image_per_batch_can_train(tiny_data: Path, tmp_path: Path) -> None:
    assert train(tiny_data, replace(SHORT, batch=1), out=tmp_path / "run").steps == 2


def test_too_large_layers_are_refused() -> None:
    with pytest.raises(
        ConfigError, match="cell_output: a fully connected layer for 64 x 64 cells would have 402,653,1"
    ):
        build((2048, 2048), replace(DENSE, dense_units=1024))


def test_training_turns_progressive_resizing_off(
    tiny_data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    run = train(tiny_data, SHORT, out=tmp_path / "run")
    assert "progressive resizing is off" in caplog.text
    assert load_weights(run.folder / "weights" / "last.safetensors")[1].config["first_input_size"] == 1
    caplog.clear()
    train(tiny_data, replace(SHORT, first_input_size=1.0), out=tmp_path / "other")
    train(tiny_data, replace(SHORT, cell_output="conv"), out=tmp_path / "conv")
    assert "progressive resizing is off" not in caplog.text


def test_other_input_sizes_are_refused_at_inference(weights: Path, tiny_data: Path, tmp_path: Path) -> None:
    image = tiny_data / "images" / "1.png"
    message = r"accepts only inputs of 96x64 pixels \(width x height\), not 128; leave out --imgsz"
    for runtime in ("torch", "onnxruntime", "openvino"):
        with pytest.raises(WeightsError, match=message):
            Detector.load(weights, device="cpu", runtime=runtime, input_size=128)
    with pytest.raises(WeightsError, match=message):
        evaluate(tiny_data, weights, split="val", input_size=128)
    with pytest.raises(WeightsError, match=message):
        export(weights, tmp_path / "w.onnx", input_size=128)
    assert main(["detect", str(image), "--weights", str(weights), "--imgsz", "128", "--out", str(tmp_path / "o")]) == 2
    assert main(["detect", str(image), "--weights", str(weights), "--imgsz", "96", "--out", str(tmp_path / "o")]) == 0


def test_detector_accepts_images_tiles_and_flips_of_any_size(weights: Path) -> None:
    detector = Detector.load(weights, device="cpu")
    rng = np.random.default_rng(0)
    for hw in ((64, 96), (500, 90), (31, 17)):
        detector.detect(rng.integers(0, 256, (*hw, 3)).astype(np.uint8), tta=True)
    detector.detect(rng.integers(0, 256, (300, 400, 3)).astype(np.uint8), tile=128)


def test_explanation_tries_no_larger_input_size(
    weights: Path, tiny_data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    explain([], weights, data=tiny_data, split="val", out=tmp_path / "explained")
    assert "larger input sizes are not tried" in caplog.text


@pytest.mark.parametrize(
    ("format", "int8", "nms"),
    [
        ("onnx", False, None),
        ("openvino", False, None),
        ("onnx", False, DetectOptions()),
        ("onnx", True, None),
        pytest.param("openvino", True, None, marks=NEEDS_NNCF),
    ],
)
def test_exports_are_certified_and_refuse_other_sizes(
    weights: Path, tiny_data: Path, tmp_path: Path, format: Format, int8: bool, nms: DetectOptions | None
) -> None:
    images = training_images(tiny_data)
    path = tmp_path / ("w.onnx" if format == "onnx" else "w")
    result = export(
        weights, path, format=format, nms=nms, int8_images=images * 2 if int8 else None, certificate_images=images
    )
    assert result.certificate is not None
    assert result.input_hw == (64, 96)
    with pytest.raises(WeightsError, match="accepts only inputs of 96x64"):
        Detector.load(path, device="cpu", input_size=128)
    exported, original = (Detector.load(file, device="cpu") for file in (path, weights))
    image = read_image(tiny_data / "images" / "1.png")
    if nms is None:
        found, expected = (d.runtime.predict([image]) for d in (exported, original))
        largest_mean = (5.0, 0.05) if int8 else (0.01, 1e-4)
        assert np.abs(found.boxes - expected.boxes).mean() < largest_mean[0]
        assert np.abs(found.scores - expected.scores).mean() < largest_mean[1]


def test_dynamic_export_is_refused(weights: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="dynamic: not possible with head=yolo_v1"):
        export(weights, tmp_path / "w.onnx", dynamic=True)


def test_quantization_aware_training_quantizes_the_first_layer(tiny_data: Path, tmp_path: Path) -> None:
    network = build().train()
    before = network(noise(64, 96)).confidence
    network.set_fake_quant(7)
    assert network.cells.hidden is not None
    assert network.cells.hidden.fake_quant_bits == 7
    assert not torch.equal(network(noise(64, 96)).confidence, before)
    assert train(tiny_data, replace(SHORT, qat_start=0.5), out=tmp_path / "run").steps == 2


def test_saved_weights_with_other_layer_sizes_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    info = WeightsInfo("pico", ("a", "b"), (1, 2), (64, 96), asdict(DENSE), {})
    save_weights(path, build(), info)
    assert load_weights(path)[1].has_fixed_input
    wrong = [
        replace(info, input_hw=(4096, 4096)),
        replace(info, input_hw=(96, 64)),
        replace(info, config=asdict(replace(DENSE, dense_units=16384))),
        replace(info, config=asdict(replace(DENSE, padding="valid"))),
    ]
    for other in wrong:
        save_weights(path, build(), other)
        with pytest.raises(WeightsError, match="the file is damaged"):
            load_weights(path)


def test_weights_continue_at_their_input_size_only(weights: Path, tiny_data: Path, tmp_path: Path) -> None:
    auto = replace(SHORT, input_size="auto")
    run = train(tiny_data, auto, out=tmp_path / "auto", weights=weights)
    assert load_weights(run.folder / "weights" / "last.safetensors")[1].input_hw == (64, 96)
    with pytest.raises(
        WeightsError, match=r"fit only inputs of 96x64 pixels \(width x height\), not 128x96; use --set"
    ):
        train(tiny_data, replace(SHORT, input_size=(96, 128)), out=tmp_path / "other", weights=weights)


def test_reuse_backbone_starts_the_last_layers_anew_at_another_size(
    weights: Path, tiny_data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    config = replace(SHORT, input_size=(96, 128), lr=0, lr_adamw=0, ema=0)
    run = train(tiny_data, config, out=tmp_path / "run", weights=weights, reuse_backbone=True)
    assert "the fully connected layers start from random weights" in caplog.text
    network, info = load_weights(run.folder / "weights" / "last.safetensors")
    assert info.input_hw == (96, 128)
    old = dict(load_weights(weights)[0].named_parameters())
    for name, parameter in network.named_parameters():
        if not name.startswith(("cells.hidden", "cells.output")):
            assert torch.equal(parameter, old[name]), name


def test_layers_for_a_turned_input_are_not_copied() -> None:
    torch.manual_seed(1)
    upright, across = build((96, 64)), build((64, 96))
    for parameter in across.parameters():
        torch.nn.init.normal_(parameter)
    before = upright.cells.output.weight.clone()
    assert before.shape == across.cells.output.weight.shape  # so that only the input size tells them apart
    copy_weights(upright, across, all_classes=True)
    assert torch.equal(upright.cells.output.weight, before)
    copied, source = (network.get_parameter("cells.blocks.0.conv.weight") for network in (upright, across))
    assert torch.equal(copied, source)


def test_check_examines_the_network(tiny_data: Path) -> None:
    report = check(tiny_data, replace(DENSE, steps=40))
    findings = {finding.check: finding.verdict for finding in report.findings}
    assert findings["network: initial loss"] == findings["network: gradients"] == "ok"
    assert "stop" not in {verdict for name, verdict in findings.items() if name.startswith("network")}


def test_summary_counts_the_fully_connected_layers(capsys: pytest.CaptureFixture[str]) -> None:
    settings = ["head=yolo_v1", "cell_output=dense", "input_size=[64, 96]", "model=pico", "dense_units=24"]
    assert main(["summary", *(part for setting in settings for part in ("--set", setting))]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line.startswith("cells.")}
    assert "conv 2x3" in lines["cells.hidden"]
    assert f"{96 * 6 * 24 + 24:,}" in lines["cells.hidden"]
    assert f"{24 * 6 * 30 + 6 * 30:,}" in lines["cells.output"]


def test_settings_are_stored_with_the_weights(weights: Path) -> None:
    info = load_weights(weights)[1]
    assert (info.config["cell_output"], info.config["dense_units"]) == ("dense", 24)
    run = json.loads((weights.parents[1] / "run.json").read_text())
    assert "cell_output" in json.dumps(run)
