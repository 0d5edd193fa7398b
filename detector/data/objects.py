"""Whether a split has objects to learn: crowd regions, which are ignored, do not count."""

from collections.abc import Sequence

from detector.annotation import Annotation
from detector.data.ledger import Ledger
from detector.errors import LabelError
from detector.wording import plural


def has_objects(annotations: Sequence[Annotation]) -> bool:
    """Return True if at least one box is not a crowd region."""
    return any(annotation.has_objects for annotation in annotations)


def check_has_objects(annotations: Sequence[Annotation], ledger: Ledger, name: str) -> None:
    """Raise LabelError if a training split has no object, that is, no box that is not a crowd region.

    Args:
        annotations: annotations of the split.
        ledger: ledger of the split.
        name: name of the split.

    Raises:
        LabelError: there is nothing to learn. The message names the cause.
    """
    if has_objects(annotations):
        return
    start = f"split '{name}': no object to learn from: "
    if not ledger.found:
        raise LabelError(
            f"{start}no label was found for its {plural(len(annotations), 'image')}: all label files are empty or "
            "missing; are the labels in the right place?"
        )
    if ledger.dropped:
        ledger.check(0.0)  # the error has an example of each reason
    marked = "the only box is" if ledger.crowd == 1 else f"all {plural(ledger.crowd, 'box')} are"
    raise LabelError(
        f"{start}{marked} marked as regions to ignore (`iscrowd` or `ignore` in COCO, `difficult` in Pascal VOC), "
        "which are never learned; set these marks to 0 for the objects that are to be learned"
    )
