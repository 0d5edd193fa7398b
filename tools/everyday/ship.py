"""Make the shipped weights `everyday` from weights that were trained on the photographs.

    python tools/everyday/ship.py --weights tools/everyday/start.safetensors --out detector/weights/everyday.safetensors

The shipped weights predict COCO's 80 classes. By default they detect only those in `default_classes.txt`, which hold up
in the measurements. The classes of single sources are left out: they were never background in the images of other
sources, so they are detected nearly everywhere.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
from torch import nn

from detector.config import config_of
from detector.model.checkpoint import load_weights, save_weights
from detector.model.make_network import make_network
from detector.model.network import GridNetwork

_COCO_CLASSES = 80

_ATTRIBUTION = (
    "The weights 'everyday' of the Python package detector were trained on images of 32 public datasets under CC BY "
    "4.0, MIT and Apache-2.0 and in the public domain; docs/weights.md of the package names sources and licences."
)


def first_classes(network: GridNetwork, count: int, like: GridNetwork) -> None:
    """Copy a network into `like`, which has only the first `count` classes.

    Args:
        network: a network with the head `points`.
        count: number of classes of `like`.
        like: a network of the same architecture.
    """
    tensors = network.state_dict()
    names = {id(module): name for name, module in network.named_modules() if isinstance(module, nn.Conv2d)}
    for output in network.outputs:
        for part in ("weight", "bias"):
            name = f"{names[id(output)]}.{part}"
            kept = [*range(count), *range(network.class_count, network.class_count + 4)]
            tensors[name] = tensors[name][kept]
    like.load_state_dict(tensors)


def main() -> None:
    """Write the weights."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", required=True, help="weights with COCO's 80 classes first")
    parser.add_argument("--out", type=Path, required=True, help="the weights to write")
    options = parser.parse_args()
    network, info = load_weights(options.weights)
    shown = Path(__file__).with_name("default_classes.txt").read_text().split("\n")
    names = info.class_names[:_COCO_CLASSES]
    settings = config_of(dict(info.config) | {"model": info.model})
    shipped = make_network(settings, len(names), np.zeros(3, np.float32), np.eye(3, dtype=np.float32)).eval()
    first_classes(network, len(names), shipped)
    facts = dict(info.facts) | {
        "data": "everyday: 8,677 photographs of 32 public datasets, with own and proposed boxes",
        "val": None,  # it was measured with all classes
        "attribution": _ATTRIBUTION,
    }
    info = replace(
        info,
        class_names=names,
        category_ids=info.category_ids[:_COCO_CLASSES],
        facts=facts,
        default_classes=tuple(names.index(name) for name in shown if name),
    )
    save_weights(options.out, shipped, info, float16=True)


if __name__ == "__main__":
    main()
