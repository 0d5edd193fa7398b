"""Short texts for the causes of missed objects and for false positives."""

from collections.abc import Sequence

from detector.analysis.counterfactuals import Setting
from detector.analysis.false_positives import FalsePositive
from detector.analysis.misses import LEAST_SCORE, Miss, Prediction
from detector.analysis.outcome import Outcome
from detector.annotation import Annotation
from detector.explaining.prices import Prices
from detector.options import DetectOptions


def miss_sentence(miss: Miss, class_names: Sequence[str], options: DetectOptions, input_hw: tuple[int, int]) -> str:
    """Return the cause of a missed object as a short text.

    Args:
        miss: the missed object.
        class_names: class names of the detector.
        options: thresholds and NMS with which the object was missed.
        input_hw: height and width of the network input in pixels.
    """
    prediction, threshold = miss.prediction, options.lowest_threshold
    if miss.cause == "too_small":
        width, height = miss.input_wh
        best = "" if prediction is None else f", best score {_score(prediction.score)}"
        return f"too small: {width:.0f} x {height:.0f} pixels of the input {input_hw[1]}x{input_hw[0]}{best}"
    if prediction is None:
        return f"no grid point responds: all scores are below {min(LEAST_SCORE, threshold):g}"
    if miss.cause == "max_det":
        return f"cut by max_det: score {_score(prediction.score)} is number {miss.rank} of {options.max_detections}"
    if miss.suppressor is not None:
        return (
            f"score {_score(prediction.score)}, suppressed by {_named(miss.suppressor, class_names)}, IoU "
            f"{miss.suppressor.iou:.2f}"
        )
    below = "" if prediction.score > threshold else f", below the threshold {threshold:g}"
    if miss.cause == "confused":
        return f"confused with {_named(prediction, class_names)}{below}"
    if miss.cause == "localization":
        return f"badly localized: best IoU {prediction.iou:.2f}, score {_score(prediction.score)}{below}"
    return f"score {prediction.score:.3f} is not above the threshold {threshold:g}"


def wrong_sentence(wrong: FalsePositive, outcome: Outcome, truth: Annotation, class_names: Sequence[str]) -> str:
    """Return what is wrong with a false positive as a short text.

    Args:
        wrong: the false positive.
        outcome: the detections of the image.
        truth: the objects of the image.
        class_names: class names of the detector.
    """
    if wrong.kind == "background" or wrong.nearest is None:
        return "background: no labeled object here"
    name = class_names[truth.class_ids[wrong.nearest]]
    iou = f"IoU {wrong.iou:.2f}"
    match wrong.kind:
        case "duplicate":
            return f"duplicate of a found {name}, {iou}"
        case "confusion":
            return f"in the place of a {name}, {iou}"
        case "localization":
            return f"badly localized {name}, {iou}"
        case _:
            return f"near a {name}, {iou}"


def remedy(settings: Sequence[Setting], prices: Prices) -> str:
    """Return the best setting that finds an object, and its price on val, as text.

    Args:
        settings: the settings that find the object, the best first.
        prices: the prices.
    """
    if not settings:
        return "no single setting finds it"
    change = prices.change(settings[0])
    if change is None:
        return f"{settings[0]} finds it"
    lost = f", {change.found:+.2f} found objects" if change.found < 0 else ""
    return f"{settings[0]} finds it ({change.false_positives:+.2f} false positives{lost} per image)"


def _named(prediction: Prediction, class_names: Sequence[str]) -> str:
    """Return class and score of a prediction as text."""
    return f"{class_names[prediction.class_id]} {_score(prediction.score)}"


def _score(score: float) -> str:
    """Return a score with two digits, or with three if it is small.

    >>> _score(0.254), _score(0.0123)
    ('0.25', '0.012')
    """
    return f"{score:.2f}" if score >= 0.1 else f"{score:.3f}"
