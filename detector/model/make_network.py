"""Constructs the network that a configuration defines."""

from detector.arrays import Floats
from detector.config import ArchitectureConfig, NetworkConfig
from detector.model.network import GridNetwork
from detector.model.yolo_v1 import YoloV1Network


def make_network(
    config: NetworkConfig,
    class_count: int,
    color_mean: Floats,
    color_covariance: Floats,
    spp: bool = False,
) -> GridNetwork:
    """Return a new network with the head `config.head` and random initial weights.

    Args:
        config: size, blocks, head, initial weights.
        class_count: number of classes C.
        color_mean: [3] mean of the RGB levels of the training images, 0..255.
        color_covariance: [3, 3] covariance of these levels.
        spp: append spatial pyramid pooling (SPP) to the backbone; see `uses_spp`.
    """
    return _network_class(config)(config, class_count, color_mean, color_covariance, spp)


def prediction_strides(config: ArchitectureConfig) -> tuple[int, ...]:
    """Return the strides of the levels at which the network predicts, finest first, in input pixels."""
    return _network_class(config).strides


def _network_class(config: ArchitectureConfig) -> type[GridNetwork]:
    return YoloV1Network if config.head == "yolo_v1" else GridNetwork
