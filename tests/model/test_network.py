import numpy as np
import pytest
import torch
from torch import Tensor

from detector.config import Config
from detector.model.blocks import SpatialPyramidPooling
from detector.model.grid import make_grid
from detector.model.initialize import PRIOR
from detector.model.make_network import make_network, prediction_strides
from detector.model.network import SIZES, GridNetwork, uses_spp

MEAN, STD = np.array([120, 100, 80], np.float32), np.array([60, 50, 40], np.float32)


def build(class_count: int = 3, **settings: object) -> GridNetwork:
    torch.manual_seed(0)
    config = Config(**{"model": "pico"} | settings)  # type: ignore[arg-type]
    return make_network(config, class_count, MEAN, np.diag(STD**2)).eval()


def noise(*shape: int) -> Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("input_hw", [(32, 32), (64, 96), (160, 32), (224, 256)])
@torch.inference_mode()
def test_any_input_size_gives_one_prediction_per_grid_point(input_hw: tuple[int, int]) -> None:
    predictions = build()(noise(2, 3, *input_hw))
    points = len(make_grid(input_hw, torch.device("cpu")).strides)
    assert len(predictions.grid.points) == len(predictions.grid.strides) == points
    assert predictions.class_logits.shape == (2, points, 3)
    assert predictions.distances.shape == (2, points, 4)
    assert predictions.class_logits.dtype == predictions.distances.dtype == torch.float32
    assert (predictions.distances >= 0).all()


@pytest.mark.parametrize("size", SIZES)
@torch.inference_mode()
def test_untrained_scores_are_near_prior_and_boxes_plausible(size: str) -> None:
    predictions = build(model=size).train()(noise(4, 3, 128, 128))
    assert PRIOR / 2 < predictions.class_logits.sigmoid().median() < PRIOR * 2
    assert 1 < predictions.distances.median() < 2
    assert torch.isfinite(predictions.class_logits).all()
    assert torch.isfinite(predictions.distances).all()


@pytest.mark.parametrize("head", ["points", "yolo_v1"])
@torch.inference_mode()
def test_predictions_of_every_head_follow_the_protocol(head: str) -> None:
    config = Config(model="pico", head=head)  # type: ignore[arg-type]
    predictions = build(head=head)(noise(2, 3, 64, 96))
    boxes, scores = predictions.boxes(), predictions.scores()
    assert boxes.shape == (*scores.shape[:2], 4)
    assert scores.shape[2] == 3
    assert set(predictions.grid.strides.tolist()) == set(prediction_strides(config))
    initial = predictions.at_initial_bias(config)
    assert type(initial) is type(predictions)
    assert torch.equal(initial.boxes(), boxes)
    assert initial.scores().max() <= 0.0101
    assert predictions.initial_loss_theory(config)
    assert predictions.with_grid(initial.grid).grid is initial.grid


@torch.inference_mode()
def test_normalization_follows_its_formula() -> None:
    images = noise(2, 3, 32, 64)
    expected = (images.double() - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    torch.testing.assert_close(build()._normalize(images).double(), expected, rtol=1e-5, atol=1e-5)


@torch.inference_mode()
def test_memory_layout_of_images_does_not_matter() -> None:
    network, images = build(), noise(2, 3, 64, 96)
    contiguous = network(images.contiguous())
    channels_last = network(images.contiguous(memory_format=torch.channels_last))
    assert torch.equal(contiguous.class_logits, channels_last.class_logits)
    assert torch.equal(contiguous.distances, channels_last.distances)


@torch.inference_mode()
def test_images_of_a_batch_do_not_influence_each_other() -> None:
    network, images = build(), noise(3, 3, 64, 64)
    together = network(images)
    for index in range(3):
        alone = network(images[index : index + 1])
        torch.testing.assert_close(together.class_logits[index], alone.class_logits[0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(together.distances[index], alone.distances[0], rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_points_predict_for_their_own_part_of_the_image() -> None:
    """Change a small part of an image: the predictions of nearby points of the finest grid change most.

    The test fails if the network swaps rows and columns.
    """
    network = build()
    before = torch.full((1, 3, 256, 128), 110, dtype=torch.uint8)
    after = before.clone()
    after[:, :, 200:208, 24:32] = 255
    change = (network(after).class_logits - network(before).class_logits).abs().sum(dim=-1)[0, : 32 * 16]
    row, column = divmod(int(change.argmax()), 16)
    assert abs(row * 8 + 4 - 204) <= 16
    assert abs(column * 8 + 4 - 28) <= 16


def test_every_parameter_gets_a_finite_gradient() -> None:
    network = build().train()
    predictions = network(noise(2, 3, 64, 64))
    (predictions.class_logits.sum() + predictions.distances.sum()).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name


def test_spp_concatenates_maxima_over_5x5_and_9x9_windows() -> None:
    torch.manual_seed(0)
    pooling = SpatialPyramidPooling(8, Config()).eval()
    merged: list[Tensor] = []
    pooling.merge.register_forward_pre_hook(lambda _, inputs: merged.append(inputs[0]))
    with torch.inference_mode():
        assert pooling(torch.randn(1, 8, 11, 7)).shape == (1, 8, 11, 7)
    original, max_5x5, max_9x9 = merged[0][0].view(3, 4, 11, 7)
    for y in range(11):
        for x in range(7):
            for radius, maxima in ((2, max_5x5), (4, max_9x9)):
                window = original[:, max(0, y - radius) : y + radius + 1, max(0, x - radius) : x + radius + 1]
                assert torch.equal(maxima[:, y, x], window.amax(dim=(1, 2)))


@pytest.mark.parametrize(("input_hw", "spp"), [((256, 320), False), ((384, 384), False), ((320, 416), True)])
def test_networks_for_large_inputs_use_spp(input_hw: tuple[int, int], spp: bool) -> None:
    assert uses_spp(Config(), input_hw) == spp
    assert uses_spp(Config(spp=True), input_hw)
    assert not uses_spp(Config(spp=False), input_hw)
