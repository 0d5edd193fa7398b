"""A small, exact detector: from a folder of labeled images to boxes, on the computer you have.

>>> import detector
>>> sorted(detector.__all__)
['Annotation', 'AveragePrecision', 'Config', 'Detections', 'Detector', 'InputError', 'draw', 'evaluate', 'train']
"""

from typing import TYPE_CHECKING, Any

from detector.annotation import Annotation
from detector.config import Config
from detector.detections import Detections, draw
from detector.errors import InputError
from detector.version import VERSION

if TYPE_CHECKING:
    from detector.evaluating.evaluate import evaluate
    from detector.metrics.average_precision import AveragePrecision
    from detector.predict.detector import Detector
    from detector.training.train import train

__version__ = VERSION

__all__ = [
    "Annotation",
    "AveragePrecision",
    "Config",
    "Detections",
    "Detector",
    "InputError",
    "draw",
    "evaluate",
    "train",
]

_LATE = {
    "AveragePrecision": "detector.metrics.average_precision",
    "Detector": "detector.predict.detector",
    "evaluate": "detector.evaluating.evaluate",
    "train": "detector.training.train",
}


def __getattr__(name: str) -> Any:
    # Torch takes seconds to import; `detector --help` and the vocabulary must not wait for it.
    if name in _LATE:
        from importlib import import_module

        return getattr(import_module(_LATE[name]), name)
    raise AttributeError(f"module 'detector' has no attribute {name!r}")
