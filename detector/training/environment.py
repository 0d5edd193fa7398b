"""The environment of a run (versions, threads, device, machine), on which the last bits of the weights depend."""

import os
import platform

import cv2
import numpy as np
import torch

from detector.version import VERSION

EFFECTS = {
    "data": "the run would train on other images or boxes than before",
    "unlabeled": "the run would train on other unlabeled images than before",
    "val": "the run would be evaluated on other images, boxes or areas than before",
    "transform": "the images would be augmented in another way than before; restore the file of its module to go on",
    "classes": "the weights would have other class names or category ids than before",
    "weights": "the run would start from other weights than before",
    "detector": "the same settings may have another meaning",
    "torch": "results may differ in their last bits",
    "numpy": "the augmentation may differ",
    "opencv": "the images may differ",
    "threads": "sums are added in another order, so results differ in their last bits",
    "device": "sums are added in another order, so results differ in their last bits",
    "machine": "sums may be added in another order, so results may differ in their last bits",
}
"""Name of a fact → effect on a resumed run if the fact has changed."""

_VARIABLES = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "MKL_CBWR", "MKL_ENABLE_INSTRUCTIONS")
"""Environment variables with which the libraries of torch use other instructions, as on another machine."""


def environment_facts(device: torch.device) -> dict[str, object]:
    """Return the versions of the packages, the number of threads, the device and the machine of this process."""
    variables = [f"{name}={os.environ[name]}" for name in _VARIABLES if name in os.environ]
    return {
        "detector": VERSION,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "opencv": cv2.__version__,
        "threads": torch.get_num_threads(),
        "device": str(device),
        "machine": " ".join([platform.machine(), torch.backends.cpu.get_cpu_capability(), *variables]),
    }
