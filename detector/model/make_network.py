"""Creates the network that a configuration defines, for all kinds of heads."""

from detector.arrays import Floats
from detector.config import ArchitectureConfig, NetworkConfig
from detector.errors import ConfigError
from detector.model.network import GridNetwork
from detector.model.yolo_v1 import YoloV1Network
from detector.weights_info import MAX_CLASSES


def make_network(
    config: NetworkConfig,
    class_count: int,
    color_mean: Floats,
    color_covariance: Floats,
    input_hw: tuple[int, int] | None = None,
) -> GridNetwork:
    """Create and return a network with the head `config.head` and random initial weights.

    Args:
        config: settings of the size, the blocks, the head and the initial weights.
        class_count: number of classes C.
        color_mean: [3] mean of the RGB levels of the training images, 0..255.
        color_covariance: [3, 3] covariance of the RGB levels of the training images.
        input_hw: height and width of the network input, in pixels; see `GridNetwork`.

    Raises:
        ConfigError: there are more than `MAX_CLASSES` classes, or the fully connected layers would be too large.
    """
    if class_count > MAX_CLASSES:
        raise ConfigError(f"{class_count:,} classes: a detector can have at most {MAX_CLASSES:,}")
    return _network_class(config)(config, class_count, color_mean, color_covariance, input_hw)


def prediction_strides(config: ArchitectureConfig) -> tuple[int, ...]:
    """Return the strides at which a network with these settings predicts, in input pixels, finest level first."""
    return _network_class(config).strides


def _network_class(config: ArchitectureConfig) -> type[GridNetwork]:
    """Return the network class for the head `config.head`."""
    return YoloV1Network if config.head == "yolo_v1" else GridNetwork
