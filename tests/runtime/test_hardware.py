"""Tests of device and precision, and of `training_process`: it restores threads and random generators."""

import contextlib
from collections.abc import Iterator

import cv2
import pytest
import torch

from detector.errors import ConfigError
from detector.runtime.hardware import choose_device, choose_precision, training_process

CPU = torch.device("cpu")


@pytest.fixture
def two_opencv_threads() -> Iterator[None]:
    """Set the number of OpenCV threads to 2 during a test."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(2)
    yield
    cv2.setNumThreads(before)


@pytest.mark.usefixtures("two_opencv_threads")
def test_training_process_restores_the_threads_of_opencv() -> None:
    with training_process():
        assert cv2.getNumThreads() == 1
        with training_process():
            assert cv2.getNumThreads() == 1
        assert cv2.getNumThreads() == 1
    assert cv2.getNumThreads() == 2


@pytest.mark.usefixtures("two_opencv_threads")
def test_training_process_restores_after_an_error() -> None:
    state = torch.get_rng_state()
    with contextlib.suppress(KeyError), training_process():
        torch.manual_seed(1)
        raise KeyError
    assert torch.equal(torch.get_rng_state(), state)
    assert cv2.getNumThreads() == 2


def test_training_process_restores_the_generators_of_torch() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        torch.rand(3)
        expected = torch.rand(2)
        torch.manual_seed(5)
        torch.rand(3)
        with training_process():
            torch.manual_seed(1)
            inside = torch.rand(2)
        assert torch.equal(torch.rand(2), expected)
        assert torch.initial_seed() == 5
        torch.manual_seed(1)
        assert torch.equal(torch.rand(2), inside)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_training_process_restores_the_generator_of_the_gpu() -> None:
    torch.cuda.manual_seed_all(5)
    state = torch.cuda.get_rng_state()
    with training_process():
        torch.manual_seed(1)
        torch.rand(2, device="cuda")
    assert torch.equal(torch.cuda.get_rng_state(), state)


def test_training_process_works_as_a_decorator() -> None:
    @training_process()
    def opencv_threads() -> int:
        return cv2.getNumThreads()

    assert [opencv_threads(), opencv_threads()] == [1, 1]


@pytest.mark.parametrize("name", ["abacus", "cuda:99", "99"])
def test_unavailable_device_is_an_error(name: str) -> None:
    with pytest.raises(ConfigError, match=r"device '.*' is not available here .*; available: cpu"):
        choose_device(name)


def test_requested_precision_is_used_on_every_device() -> None:
    assert choose_precision("fp32", CPU) == torch.float32
    assert choose_precision("bf16", CPU) == torch.bfloat16
    assert choose_precision("auto", torch.device("mps")) == torch.float32
    assert choose_device("cpu") == CPU
