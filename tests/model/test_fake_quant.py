from dataclasses import asdict

import numpy as np
import pytest
import torch
from torch import Tensor

from detector.config import Config, config_of
from detector.errors import InputError
from detector.model.fake_quant import fake_quantize_activations, fake_quantize_weights
from detector.model.make_network import make_network
from detector.model.network import GridNetwork


@pytest.mark.parametrize(("bits", "largest"), [(7, 64), (8, 127)])
def test_weights_keep_their_maximum_and_get_symmetric_levels(bits: int, largest: int) -> None:
    weight = (
        torch.randn(4, 8, 3, 3, generator=torch.Generator().manual_seed(0))
        * torch.tensor([1, 10, 0.1, 0])[:, None, None, None]
    )
    quantized = fake_quantize_weights(weight, bits)
    for before, after in zip(weight, quantized, strict=True):
        step = before.abs().max() / largest
        torch.testing.assert_close(after.abs().max(), before.abs().max())
        assert (after - before).abs().max() <= step * 0.5001
        levels = after / step.clamp(min=1e-9)
        torch.testing.assert_close(levels, levels.round(), atol=1e-3, rtol=0)
        assert levels.abs().max() <= largest + 1e-3


def test_settings_stored_before_seven_bits_mean_eight_bits() -> None:
    stored = asdict(Config(qat_start=0.5))
    assert config_of(stored).qat_weight_bits == Config().qat_weight_bits == 7
    del stored["qat_weight_bits"]
    assert config_of(stored).qat_weight_bits == 8


@pytest.mark.parametrize(("low", "high"), [(0.0, 6.0), (-3.0, 5.0), (-4.0, -1.0), (2.0, 3.0), (0.0, 0.0)])
def test_feature_maps_get_256_levels_and_zero_stays_zero(low: float, high: float) -> None:
    x = torch.linspace(low, high, 1000).reshape(1, 10, 10, 10)
    x[0, 0, 0, 1] = 0
    quantized = fake_quantize_activations(x)
    step = (max(high, 0) - min(low, 0)) / 255
    assert quantized[0, 0, 0, 1] == 0
    assert len(set(quantized.flatten().tolist())) <= 256
    assert (quantized - x).abs().max() <= step * 0.5001 + 1e-7


def test_activation_range_is_the_mean_over_images() -> None:
    x = torch.tensor([[-1.0, 0.0, 2.0], [-3.0, 0.0, 4.0]])
    torch.testing.assert_close(
        fake_quantize_activations(x), torch.tensor([[-1.0, 0.0, 2.0], [-2.0, 0.0, 3.0]]), atol=0.02, rtol=0
    )


def test_gradients_pass_through_the_rounding() -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(4, 8, 3, 3, generator=generator, requires_grad=True)
    x = torch.randn(1, 8, 6, 6, generator=generator, requires_grad=True)
    gradients = torch.autograd.grad(
        fake_quantize_weights(weight, 7).sum() + fake_quantize_activations(x).sum(), (weight, x)
    )
    for gradient in gradients:
        # Values at the ends of the range may be clipped, because the range is rounded too.
        assert (gradient == 1).float().mean() > 0.98


def network_and_images() -> tuple[GridNetwork, Tensor]:
    """Return a network and random images. Batch norm layers have the running statistics of these images."""
    torch.manual_seed(0)
    generator = np.random.default_rng(0)
    covariance = np.diag([2000, 2000, 2000]).astype(np.float32)
    network = make_network(Config(model="pico"), 3, np.full(3, 120, np.float32), covariance)
    images = torch.from_numpy(generator.integers(0, 256, (4, 3, 64, 96), dtype=np.uint8))
    for _ in range(30):
        network.train()(images)
    return network, images


def test_qat_leaves_batch_norm_statistics_and_evaluation_unchanged() -> None:
    network, images = network_and_images()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    exact = network.eval()(images).scores()
    network.train().set_fake_quant(7)
    network(images)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    torch.testing.assert_close(network.eval()(images).scores(), exact)


def test_qat_predictions_are_close_to_exact_predictions() -> None:
    network, images = network_and_images()
    exact = network.eval()(images).class_logits
    network.train().set_fake_quant(7)
    quantized = network(images).class_logits
    assert not torch.equal(quantized, exact)
    assert (quantized - exact).abs().mean() < 0.2 * exact.std()


def test_qat_with_group_norm_is_refused() -> None:
    with pytest.raises(InputError, match="qat_start: group norm cannot be folded"):
        Config(norm="group", qat_start=0.5)
