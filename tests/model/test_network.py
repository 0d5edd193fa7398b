import numpy as np
import pytest
import torch
from torch import Tensor

from detector.config import Config
from detector.model.blocks import SpatialPyramidPooling
from detector.model.grid import make_grid
from detector.model.initialize import PRIOR
from detector.model.network import SIZES, GridNetwork, uses_spp

MEAN, STD = np.array([120, 100, 80], np.float32), np.array([60, 50, 40], np.float32)


def build(size: str = "pico", class_count: int = 3) -> GridNetwork:
    torch.manual_seed(0)
    return GridNetwork(Config(model=size), class_count, MEAN, np.diag(STD**2)).eval()  # type: ignore[arg-type]


def noise(*shape: int) -> Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("input_hw", [(32, 32), (64, 96), (160, 32), (224, 256)])
@torch.inference_mode()
def test_any_canvas_that_divides_by_32_gives_one_answer_per_point_of_the_grid(input_hw: tuple[int, int]) -> None:
    predictions = build()(noise(2, 3, *input_hw))
    points = len(make_grid(input_hw, torch.device("cpu")).strides)
    assert len(predictions.grid.points) == len(predictions.grid.strides) == points
    assert predictions.class_logits.shape == (2, points, 3)
    assert predictions.distances.shape == (2, points, 4)
    assert predictions.class_logits.dtype == predictions.distances.dtype == torch.float32
    assert (predictions.distances >= 0).all()


@pytest.mark.parametrize("size", SIZES)
@torch.inference_mode()
def test_before_training_the_scores_are_near_the_prior_and_the_boxes_of_a_plausible_size(size: str) -> None:
    predictions = build(size).train()(noise(4, 3, 128, 128))
    assert PRIOR / 2 < predictions.class_logits.sigmoid().median() < PRIOR * 2
    assert 1 < predictions.distances.median() < 2
    assert torch.isfinite(predictions.class_logits).all()
    assert torch.isfinite(predictions.distances).all()


@torch.inference_mode()
def test_the_normalization_is_that_of_its_formula() -> None:
    images = noise(2, 3, 32, 64)
    wanted = (images.double() - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    torch.testing.assert_close(build()._normalize(images).double(), wanted, rtol=1e-5, atol=1e-5)


@torch.inference_mode()
def test_the_layout_of_the_images_in_memory_does_not_matter() -> None:
    network, images = build(), noise(2, 3, 64, 96)
    one = network(images.contiguous())
    other = network(images.contiguous(memory_format=torch.channels_last))
    assert torch.equal(one.class_logits, other.class_logits)
    assert torch.equal(one.distances, other.distances)


@torch.inference_mode()
def test_images_of_a_batch_do_not_see_each_other() -> None:
    network, images = build(), noise(3, 3, 64, 64)
    together = network(images)
    for index in range(3):
        alone = network(images[index : index + 1])
        torch.testing.assert_close(together.class_logits[index], alone.class_logits[0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(together.distances[index], alone.distances[0], rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_a_point_answers_for_the_part_of_the_image_that_it_lies_in() -> None:
    """A change at one place changes the answers of the finest grid most around it: rows and columns are not mixed."""
    network = build()
    before = torch.full((1, 3, 256, 128), 110, dtype=torch.uint8)
    after = before.clone()
    after[:, :, 200:208, 24:32] = 255
    change = (network(after).class_logits - network(before).class_logits).abs().sum(dim=-1)[0, : 32 * 16]
    row, column = divmod(int(change.argmax()), 16)
    assert abs(row * 8 + 4 - 204) <= 16
    assert abs(column * 8 + 4 - 28) <= 16


def test_every_parameter_takes_part_in_the_answer() -> None:
    network = build().train()
    predictions = network(noise(2, 3, 64, 64))
    (predictions.class_logits.sum() + predictions.distances.sum()).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name


def test_context_is_the_map_beside_its_maxima_over_5x5_and_9x9_cells() -> None:
    torch.manual_seed(0)
    pool = SpatialPyramidPooling(8, Config()).eval()
    seen: list[Tensor] = []
    pool.merge.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.inference_mode():
        assert pool(torch.randn(1, 8, 11, 7)).shape == (1, 8, 11, 7)
    own, near, far = seen[0][0].view(3, 4, 11, 7)
    for y in range(11):
        for x in range(7):
            for reach, maxima in ((2, near), (4, far)):
                window = own[:, max(0, y - reach) : y + reach + 1, max(0, x - reach) : x + reach + 1]
                assert torch.equal(maxima[:, y, x], window.amax(dim=(1, 2)))


@pytest.mark.parametrize(("input_hw", "spp"), [((256, 320), False), ((384, 384), False), ((320, 416), True)])
def test_large_canvases_get_a_network_with_context(input_hw: tuple[int, int], spp: bool) -> None:
    assert uses_spp(input_hw) == spp
