"""From grid predictions to detections: threshold, suppression, back to the picture. The only way out of torch."""

from collections.abc import Sequence

from detector.boxes import area
from detector.detections import Detections
from detector.letterbox import Letterbox
from detector.model.grid import GridPredictions
from detector.ops.nms import nms


def postprocess(
    predictions: GridPredictions,
    letterboxes: Sequence[Letterbox],
    class_names: tuple[str, ...],
    score_threshold: float,
    iou_threshold: float,
    max_detections: int,
    class_agnostic: bool = False,
    every_class: bool = False,
) -> list[Detections]:
    """Turn the predictions of a batch into one `Detections` per picture.

    Args:
        predictions: of B pictures.
        letterboxes: how each of them came onto the canvas.
        class_names: C names.
        score_threshold: lowest score that counts, 0..1.
        iou_threshold: overlap above which the lower of two boxes goes, 0..1.
        max_detections: most detections per picture.
        class_agnostic: let boxes suppress each other whatever their class.
        every_class: let a point answer with every class above the threshold, which the ranking of an evaluation
            gains from, and not with its best alone, which is what one wants to see.
    """
    scores = predictions.class_logits.sigmoid()
    boxes = predictions.boxes()
    found = []
    for index, letterbox in enumerate(letterboxes):
        answers = scores[index] > score_threshold
        if not every_class:
            answers &= scores[index] == scores[index].amax(dim=1, keepdim=True)
        point, class_id = answers.nonzero(as_tuple=True)
        candidate_scores = scores[index, point, class_id].cpu().numpy()
        candidate_boxes = letterbox.to_image(boxes[index, point].cpu().numpy())
        class_ids = class_id.cpu().numpy()
        # Answers in the grey beside the picture are cut down to nothing.
        shown = area(candidate_boxes) > 0
        candidate_boxes, candidate_scores, class_ids = candidate_boxes[shown], candidate_scores[shown], class_ids[shown]
        kept = nms(
            candidate_boxes, candidate_scores, None if class_agnostic else class_ids, iou_threshold, max_detections
        )
        found.append(Detections(candidate_boxes[kept], candidate_scores[kept], class_ids[kept], class_names))
    return found
