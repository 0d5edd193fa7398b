"""The report at the end of a training run: about the best weights, on the images of val."""

import logging
import time

from detector.data.objects import has_objects
from detector.errors import InputError
from detector.evaluating.evaluate import evaluate_split
from detector.evaluating.report.subject import weights_subject
from detector.evaluating.report.write import REPORT_FILES, write_report
from detector.predict.detector import Detector
from detector.training.run_folder import RunFolder
from detector.training.run_inputs import RunInputs

log = logging.getLogger(__name__)

_FOLDER = "report/"


def claim_report(folder: RunFolder, *, resumed: bool) -> None:
    """Raise FileError if a file of the report must not be written; called before the run starts.

    Args:
        folder: folder of the run.
        resumed: whether the run is resumed, so that it can write to no other folder.
    """
    folder.files.claim((f"{_FOLDER}{name}" for name in REPORT_FILES), only_here=resumed)


def write_training_report(folder: RunFolder, inputs: RunInputs) -> None:
    """Evaluate the best weights of a finished run on val, and write a report with the curves of the run.

    Without objects in val, there is no report. A report that cannot be written is a warning: the weights are saved.

    Args:
        folder: folder of the run.
        inputs: inputs of the run.
    """
    val = inputs.val
    if val is None or not has_objects(val.annotations):
        log.info("no report, because there is no val split with objects")
        return
    start = time.monotonic()
    try:
        detector = Detector.load(folder.best, device=str(inputs.device), runtime="torch")
        evaluation = evaluate_split(detector, val).with_intervals()
        subject = weights_subject(folder.best, detector, inputs.description, folder.read_results())
        page = write_report(folder.files, subject, evaluation, prefix=_FOLDER)
    except InputError as error:
        log.warning("the report was not written: %s", error)
        return
    log.info("report: %s (%.1f s, after the end of the run)", page, time.monotonic() - start)
