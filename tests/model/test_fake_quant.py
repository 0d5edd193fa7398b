import numpy as np
import pytest
import torch
from torch import Tensor

from detector.config import Config
from detector.errors import InputError
from detector.model.fake_quant import fake_quantize_activations, fake_quantize_weights
from detector.model.network import GridNetwork


def test_weights_keep_their_largest_and_get_255_levels_per_channel() -> None:
    weight = (
        torch.randn(4, 8, 3, 3, generator=torch.Generator().manual_seed(0))
        * torch.tensor([1, 10, 0.1, 0])[:, None, None, None]
    )
    rounded = fake_quantize_weights(weight)
    for before, after in zip(weight, rounded, strict=True):
        step = before.abs().max() / 127
        torch.testing.assert_close(after.abs().max(), before.abs().max())
        assert (after - before).abs().max() <= step * 0.5001
        levels = after / step.clamp(min=1e-9)
        torch.testing.assert_close(levels, levels.round(), atol=1e-3, rtol=0)


@pytest.mark.parametrize(("least", "most"), [(0.0, 6.0), (-3.0, 5.0), (-4.0, -1.0), (2.0, 3.0), (0.0, 0.0)])
def test_a_map_gets_256_levels_and_zero_stays_zero(least: float, most: float) -> None:
    x = torch.linspace(least, most, 1000).reshape(1, 10, 10, 10)
    x[0, 0, 0, 1] = 0
    rounded = fake_quantize_activations(x)
    step = (max(most, 0) - min(least, 0)) / 255
    assert rounded[0, 0, 0, 1] == 0
    assert len(set(rounded.flatten().tolist())) <= 256
    assert (rounded - x).abs().max() <= step * 0.5001 + 1e-7


def test_the_range_is_the_mean_of_those_of_the_images() -> None:
    x = torch.tensor([[-1.0, 0.0, 2.0], [-3.0, 0.0, 4.0]])
    torch.testing.assert_close(
        fake_quantize_activations(x), torch.tensor([[-1.0, 0.0, 2.0], [-2.0, 0.0, 3.0]]), atol=0.02, rtol=0
    )


def test_gradients_pass_as_if_nothing_were_rounded() -> None:
    weight, x = torch.randn(4, 8, 3, 3, requires_grad=True), torch.randn(1, 8, 6, 6, requires_grad=True)
    gradients = torch.autograd.grad(
        fake_quantize_weights(weight).sum() + fake_quantize_activations(x).sum(), (weight, x)
    )
    for gradient in gradients:
        # What lies at the ends of the range may be cut off, since the range itself is rounded.
        assert (gradient == 1).float().mean() > 0.98


def trained_a_little() -> tuple[GridNetwork, Tensor]:
    """A network whose batch norms have seen images, and the images."""
    torch.manual_seed(0)
    generator = np.random.default_rng(0)
    covariance = np.diag([2000, 2000, 2000]).astype(np.float32)
    network = GridNetwork(Config(model="pico"), 3, np.full(3, 120, np.float32), covariance)
    images = torch.from_numpy(generator.integers(0, 256, (4, 3, 64, 96), dtype=np.uint8))
    for _ in range(30):
        network.train()(images)
    return network, images


def test_batch_norm_stands_still_and_evaluation_is_exact() -> None:
    network, images = trained_a_little()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    exact = network.eval()(images).scores()
    network.train().set_fake_quant(True)
    network(images)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    torch.testing.assert_close(network.eval()(images).scores(), exact)


def test_group_norm_is_refused() -> None:
    with pytest.raises(InputError, match="qat_start: group norm cannot be folded"):
        Config(norm="group", qat_start=0.5)
