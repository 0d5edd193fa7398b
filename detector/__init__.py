"""Train, evaluate and run a YOLO-style object detector: from a folder of labeled images to a detector you can deploy.

>>> import detector
>>> detector.__all__  # doctest: +NORMALIZE_WHITESPACE
['Annotation', 'AveragePrecision', 'Config', 'DetectOptions', 'Detections', 'Detector', 'Ensemble', 'InputError',
 'Sample', 'TrainingEvaluation', 'TrainingResult', 'TrainingStep', 'average', 'check', 'choose_thresholds', 'compare',
 'convert', 'cross_validate', 'draw', 'evaluate', 'explain', 'export', 'open_data', 'read_config', 'read_image',
 'restyle', 'resume', 'review', 'train', 'tune', 'verify', 'write_image']
"""

from detector.version import VERSION

TYPE_CHECKING = False  # as in `typing`, whose import takes longer than everything else here
if TYPE_CHECKING:
    from detector.annotation import Annotation
    from detector.averaging.average import average
    from detector.checking.check import check
    from detector.comparing.compare import compare
    from detector.config import Config, read_config
    from detector.converting.convert import convert
    from detector.cross_validating.cross_validate import cross_validate
    from detector.data.open_data import open_data
    from detector.detections import Detections, draw
    from detector.errors import InputError
    from detector.evaluating.decisions import choose_thresholds
    from detector.evaluating.evaluate import evaluate
    from detector.explaining.explain import explain
    from detector.exporting.export import export
    from detector.exporting.verify import verify
    from detector.images import read_image, write_image
    from detector.metrics.average_precision import AveragePrecision
    from detector.options import DetectOptions
    from detector.predict.detector import Detector
    from detector.predict.ensemble import Ensemble
    from detector.restyling.restyle import restyle
    from detector.reviewing.review import review
    from detector.sample import Sample
    from detector.training.events import TrainingEvaluation, TrainingStep
    from detector.training.run import TrainingResult
    from detector.training.train import resume, train
    from detector.tuning.tune import tune

__version__ = VERSION

__all__ = [
    "Annotation",
    "AveragePrecision",
    "Config",
    "DetectOptions",
    "Detections",
    "Detector",
    "Ensemble",
    "InputError",
    "Sample",
    "TrainingEvaluation",
    "TrainingResult",
    "TrainingStep",
    "average",
    "check",
    "choose_thresholds",
    "compare",
    "convert",
    "cross_validate",
    "draw",
    "evaluate",
    "explain",
    "export",
    "open_data",
    "read_config",
    "read_image",
    "restyle",
    "resume",
    "review",
    "train",
    "tune",
    "verify",
    "write_image",
]

_LAZY = {
    "Annotation": "detector.annotation",
    "AveragePrecision": "detector.metrics.average_precision",
    "Config": "detector.config",
    "DetectOptions": "detector.options",
    "Detections": "detector.detections",
    "Detector": "detector.predict.detector",
    "Ensemble": "detector.predict.ensemble",
    "InputError": "detector.errors",
    "Sample": "detector.sample",
    "TrainingEvaluation": "detector.training.events",
    "TrainingResult": "detector.training.run",
    "TrainingStep": "detector.training.events",
    "average": "detector.averaging.average",
    "check": "detector.checking.check",
    "choose_thresholds": "detector.evaluating.decisions",
    "compare": "detector.comparing.compare",
    "convert": "detector.converting.convert",
    "cross_validate": "detector.cross_validating.cross_validate",
    "draw": "detector.detections",
    "evaluate": "detector.evaluating.evaluate",
    "explain": "detector.explaining.explain",
    "export": "detector.exporting.export",
    "open_data": "detector.data.open_data",
    "read_config": "detector.config",
    "read_image": "detector.images",
    "restyle": "detector.restyling.restyle",
    "resume": "detector.training.train",
    "review": "detector.reviewing.review",
    "train": "detector.training.train",
    "tune": "detector.tuning.tune",
    "verify": "detector.exporting.verify",
    "write_image": "detector.images",
}
"""Public name → module that defines the name. It is imported on first use, because importing torch takes seconds, and
because the command line must handle Ctrl-C before anything large is imported."""


def __getattr__(name: str) -> object:
    from importlib import import_module
    from importlib.util import find_spec

    if name in _LAZY:
        value = getattr(import_module(_LAZY[name]), name)
        globals()[name] = value
        return value
    if name.isidentifier() and not name.startswith("_") and find_spec(f"detector.{name}"):
        return import_module(f"detector.{name}")  # such as `detector.errors`
    raise AttributeError(f"module 'detector' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
