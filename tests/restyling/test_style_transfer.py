"""Style transfer: slow references, the loss decreases, and the style of the image itself changes almost nothing."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from detector.arrays import ImageArray
from detector.errors import ConfigError, WeightsError
from detector.model.checkpoint import load_weights
from detector.model.network import GridNetwork
from detector.options import StyleOptions
from detector.restyling.style_transfer import CONTENT_STRIDE, STYLE_STRIDES, StyleTransfer, gram_matrix, match_colors

QUICK = StyleOptions(steps=4)


@pytest.fixture(scope="module")
def network() -> GridNetwork:
    return load_weights("scenes")[0]


@pytest.fixture(scope="module")
def transfer(network: GridNetwork) -> StyleTransfer:
    return StyleTransfer(network, QUICK)


def smooth_image(seed: int, size: tuple[int, int] = (72, 96)) -> ImageArray:
    """An image with a gradient, a rectangle, and a little noise."""
    rng = np.random.default_rng(seed)
    height, width = size
    image = np.linspace(40, 200, width)[None, :, None] * rng.uniform(0.5, 1, 3) + rng.normal(0, 3, (height, width, 3))
    image[height // 4 : height // 2, width // 4 : width // 2] = rng.uniform(0, 255, 3)
    return np.clip(image, 0, 255).astype(np.uint8)


def stripes(size: tuple[int, int] = (80, 60)) -> ImageArray:
    """A texture of strong stripes."""
    rows = np.where(np.arange(size[0]) // 3 % 2, 230, 30)
    return np.repeat(np.repeat(rows[:, None, None], size[1], axis=1), 3, axis=2).astype(np.uint8)


def pixels_of(image: ImageArray) -> torch.Tensor:
    return torch.from_numpy(image).permute(2, 0, 1)[None].float()


def errors(transfer: StyleTransfer, image: ImageArray, content: ImageArray, style: ImageArray) -> tuple[float, float]:
    """Content and style loss of an image."""
    target = transfer.target(pixels_of(content), [pixels_of(style)])
    with torch.no_grad():
        features = transfer.features(pixels_of(image))
        return target.content_loss(features).item(), target.style_loss(features).item()


def test_gram_matrix_equals_a_slow_reference() -> None:
    features = np.random.default_rng(0).normal(size=(5, 4, 3)).astype(np.float32)
    expected = np.zeros((5, 5))
    for a in range(5):
        for b in range(5):
            for y in range(4):
                for x in range(3):
                    expected[a, b] += features[a, y, x] * features[b, y, x] / 12
    found = gram_matrix(torch.from_numpy(features)[None]).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_features_are_those_of_the_network(network: GridNetwork, transfer: StyleTransfer) -> None:
    image = torch.from_numpy(smooth_image(1, (64, 96))).permute(2, 0, 1)[None]
    with torch.no_grad():
        expected, found = network.features(image), transfer.features(image.float())
    assert tuple(found) == STYLE_STRIDES
    for stride, own in zip((8, 16), expected[:2], strict=True):
        np.testing.assert_allclose(found[stride], own, rtol=1e-3, atol=1e-3)
        assert found[stride].shape[-1] == 96 // stride


def test_loss_gradient_equals_differences(transfer: StyleTransfer) -> None:
    pixels = pixels_of(smooth_image(1, (32, 32))).requires_grad_()
    target = transfer.target(pixels_of(smooth_image(2, (32, 32))), [pixels_of(stripes())])
    (gradient,) = torch.autograd.grad(transfer.loss(pixels, target), pixels)
    # Along the gradient itself, the difference is largest, and rounding matters least.
    direction = gradient / gradient.norm()
    with torch.no_grad():
        ahead, behind = (transfer.loss(pixels + step * direction, target).item() for step in (0.5, -0.5))
    assert ahead - behind == pytest.approx(gradient.norm().item(), rel=0.1)


def test_loss_decreases_and_the_style_comes_closer(transfer: StyleTransfer) -> None:
    content, style = smooth_image(1), smooth_image(2)
    restyled = transfer.apply(content, [style])
    assert restyled.shape == content.shape
    assert restyled.dtype == np.uint8
    colored = np.rint(match_colors(content, [style])).astype(np.uint8)
    _, before = errors(transfer, colored, colored, style)
    content_error, after = errors(transfer, restyled, colored, style)
    assert after < 0.7 * before
    assert content_error < 0.1


def test_more_steps_give_a_lower_loss(network: GridNetwork) -> None:
    content, style = smooth_image(1), smooth_image(2)
    colored = np.rint(match_colors(content, [style])).astype(np.uint8)
    losses = []
    for steps in (1, 10):
        own = StyleTransfer(network, replace(QUICK, steps=steps))
        content_error, style_error = errors(own, own.apply(content, [style]), colored, style)
        losses.append(content_error + QUICK.style_weight * style_error)
    assert losses[1] < losses[0]


def test_style_weight_zero_changes_only_the_colors(network: GridNetwork) -> None:
    content, style = smooth_image(1), stripes()
    restyled = StyleTransfer(network, replace(QUICK, style_weight=0)).apply(content, [style])
    assert np.abs(restyled - match_colors(content, [style])).max() <= 1


@pytest.mark.parametrize("max_side", [512, 64])
def test_its_own_style_changes_almost_nothing(network: GridNetwork, max_side: int) -> None:
    image = smooth_image(3)
    restyled = StyleTransfer(network, replace(QUICK, max_side=max_side)).apply(image, [image])
    assert np.abs(restyled.astype(int) - image).max() <= (1 if max_side == 512 else 8)


def test_kept_colors_keep_the_mean_color(network: GridNetwork) -> None:
    content, style = smooth_image(1), stripes()
    free, kept = (
        StyleTransfer(network, replace(QUICK, keep_colors=keep)).apply(content, [style]) for keep in (False, True)
    )

    def color(image: ImageArray) -> float:
        """Mean difference of red and blue, which brightness does not change."""
        return float((image[..., 0].astype(int) - image[..., 2]).mean())

    assert abs(color(kept) - color(content)) < 5 < abs(color(free) - color(content))


def test_several_styles_count_equally(transfer: StyleTransfer) -> None:
    styles = [smooth_image(4, (40, 64)), stripes()]
    both = transfer.target(pixels_of(smooth_image(1)), [pixels_of(style) for style in styles])
    for stride in STYLE_STRIDES:
        grams = [gram_matrix(transfer.features(pixels_of(style))[stride]) for style in styles]
        torch.testing.assert_close(both.grams[stride], (grams[0] + grams[1]) / 2)
    assert both.content.shape[-2:] == (72 // CONTENT_STRIDE, 96 // CONTENT_STRIDE)


def test_matched_colors_have_the_mean_and_covariance_of_the_style() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(100, 160, (40, 50, 3)).astype(np.uint8)
    style = (
        (128 + rng.normal(0, 20, (30, 70, 3)) @ [[1, 0.5, 0], [0, 1, 0.3], [0, 0, 0.8]]).clip(0, 255).astype(np.uint8)
    )
    found, wanted = match_colors(image, [style]).reshape(-1, 3), style.reshape(-1, 3).astype(float)
    np.testing.assert_allclose(found.mean(axis=0), wanted.mean(axis=0), atol=0.5)
    np.testing.assert_allclose(np.cov(found.T), np.cov(wanted.T), rtol=0.05, atol=5)


def test_matching_its_own_colors_changes_nothing() -> None:
    image = smooth_image(5)
    np.testing.assert_allclose(match_colors(image, [image]), image, atol=0.01)


@pytest.mark.parametrize("level", [0, 128, 255])
def test_images_of_one_color_are_possible(transfer: StyleTransfer, level: int) -> None:
    flat = np.full((40, 40, 3), level, np.uint8)
    image = smooth_image(1)
    assert transfer.apply(image, [flat]).std() > 1  # the content is not erased
    assert transfer.apply(flat, [image]).shape == flat.shape


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (5, 7), (33, 31)])
def test_images_of_any_size_are_possible(transfer: StyleTransfer, size: tuple[int, int]) -> None:
    image = smooth_image(1)[: size[0]] if size[0] == 1 and size[1] > 96 else smooth_image(1)[: size[0], : size[1]]
    image = np.resize(image, (*size, 3))
    assert transfer.apply(image, [stripes()]).shape == (*size, 3)
    assert transfer.apply(smooth_image(1, (40, 40)), [image]).shape == (40, 40, 3)


def test_weights_that_are_not_finite_are_refused(network: GridNetwork) -> None:
    own = StyleTransfer(network, QUICK)
    next(own._network.backbone.parameters()).data.fill_(float("nan"))
    with pytest.raises(WeightsError, match="not finite"):
        own.apply(smooth_image(1), [stripes()])


@pytest.mark.parametrize(
    ("name", "value"),
    [("steps", 0), ("max_side", 0.5), ("style_weight", -1), ("style_weight", float("nan")), ("keep_colors", "no")],
)
def test_invalid_options_are_refused(name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=name):
        StyleOptions(**{name: value})  # type: ignore[arg-type]
