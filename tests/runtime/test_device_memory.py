"""Too little memory of a GPU: smaller batches where possible, else a message with what to set."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from detector.cli.commands import main
from detector.errors import ConfigError
from detector.predict.detector import Detector

MESSAGE = "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 2.00 GiB."
"""The text of torch, shortened."""


def limit_batches(monkeypatch: pytest.MonkeyPatch, largest: int) -> None:
    """Let convolutions of more than `largest` images fail as on a GPU without memory."""
    convolve: Callable[..., torch.Tensor] = torch.nn.functional.conv2d

    def limited(images: torch.Tensor, *arguments: torch.Tensor) -> torch.Tensor:
        if len(images) > largest:
            raise torch.OutOfMemoryError(MESSAGE)
        return convolve(images, *arguments)

    monkeypatch.setattr(torch.nn.functional, "conv2d", limited)


def test_batches_that_do_not_fit_are_halved(
    monkeypatch: pytest.MonkeyPatch, tiny_weights: Path, caplog: pytest.LogCaptureFixture
) -> None:
    images = list(np.random.default_rng(0).integers(0, 256, (7, 64, 96, 3), dtype=np.uint8))
    detector = Detector.load(tiny_weights, device="cpu")
    expected = [detector.detect(image, score_threshold=0.01) for image in images]
    assert max(map(len, expected)) > 0
    limit_batches(monkeypatch, 2)
    found = detector.detect(images, score_threshold=0.01)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one.boxes, other.boxes, atol=1e-3)
        np.testing.assert_allclose(one.scores, other.scores, atol=1e-5)
    assert "not have enough memory for a batch of 7 images" in caplog.text


def test_image_that_does_not_fit_names_the_input_size(monkeypatch: pytest.MonkeyPatch, tiny_weights: Path) -> None:
    detector = Detector.load(tiny_weights, device="cpu")
    limit_batches(monkeypatch, 0)
    with pytest.raises(ConfigError, match=r"not have enough memory \(CUDA out of memory\); .*--imgsz"):
        detector.detect(np.zeros((64, 96, 3), np.uint8))


def test_training_batch_that_does_not_fit_names_a_smaller_one(
    monkeypatch: pytest.MonkeyPatch, tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    limit_batches(monkeypatch, 3)
    settings = ["--model", "pico", "--set", "input_size=[64, 96]", "--set", "steps=2", "--batch", "4"]
    assert main(["train", "--data", str(tiny_data), *settings, "--device", "cpu", "--out", str(tmp_path / "run")]) == 2
    errors = capsys.readouterr().err
    assert "--batch 2; now 4" in errors
    assert "--imgsz; now 96" in errors
