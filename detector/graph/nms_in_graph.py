"""Suppression inside an ONNX graph: objects come out, best first, instead of an answer for every point."""

from detector.graph.metadata import GraphInfo, NmsSettings, graph_info_metadata
from detector.graph.to_onnx import import_onnx

_MOST_CANDIDATES = 1000
"""Doubles that come before the suppression, the best: its cost grows with their square."""

_LEAST_IOU = 1e-6
"""OpenVINO drops what is at the IoU threshold too: at 0 it would drop what does not overlap at all."""

_SUPPRESSION = """
suppress (float[1, P, 4] all_boxes, float[1, P, C] all_scores, uint8[1, H, W, 3] image, int64[1] candidate_limit,
          int64[1] limit, float[1] iou_threshold, float[1] score_threshold)
    => (float[N, 4] boxes, float[N] scores, int64[N] class_ids)
<int64[1] zero = {0}, int64[1] one = {1}, int64[1] two = {2}, int64[4] whwh = {2, 1, 2, 1}, float no_size = {0}>
{
    best = ReduceMax <axes = [2], keepdims = 0> (all_scores)
    point_count = Shape <start = 1> (best)
    candidate_count = Min (point_count, candidate_limit)
    candidate_scores, candidates_1 = TopK <axis = 1> (best, candidate_count)
    candidates = Squeeze (candidates_1, zero)

    reaching = Gather <axis = 1> (all_boxes, candidates)
    image_shape = Shape (image)
    canvas_whole = Gather (image_shape, whwh)
    canvas = Cast <to = 1> (canvas_whole)
    not_below = Max (reaching, no_size)
    candidate_boxes = Min (not_below, canvas)

    class_scores = Gather <axis = 1> (all_scores, candidates)
    is_best = Hardmax <axis = 2> (class_scores)
    best_only = Mul (class_scores, is_best)
    by_class = Transpose <perm = [0, 2, 1]> (best_only)
    selected = NonMaxSuppression (candidate_boxes, by_class, limit, iou_threshold, score_threshold)
    selected_class_1 = Gather <axis = 1> (selected, one)
    selected_class = Squeeze (selected_class_1, one)
    selected_candidate_1 = Gather <axis = 1> (selected, two)
    selected_candidate = Squeeze (selected_candidate_1, one)

    boxes_of_candidates = Squeeze (candidate_boxes, zero)
    scores_of_candidates = Squeeze (candidate_scores, zero)
    selected_boxes = Gather (boxes_of_candidates, selected_candidate)
    selected_scores = Gather (scores_of_candidates, selected_candidate)
    selected_count = Shape (selected_scores)
    final_count = Min (selected_count, limit)
    scores, order = TopK (selected_scores, final_count)
    boxes = Gather (selected_boxes, order)
    class_ids = Gather (selected_class, order)
}
"""
"""In the language of `onnx.parser`; `NonMaxSuppression` gives rows (image, class, candidate), class by class."""


def suppress_inside(graph: bytes, nms: NmsSettings) -> bytes:
    """Return a graph written by `to_onnx` that ends with the suppression.

    Its outputs are `boxes` [N, 4] canvas pixels within the canvas, `scores` [N] and `class_ids` [N], best first; it
    takes one image at a time. Each point comes as its best class, as when one looks at an image; boxes are cut to
    the canvas first, while without the suppression inside they are cut to the image.

    Args:
        graph: the ONNX file's bytes, perhaps quantized.
        nms: its settings, which go into the metadata.

    Raises:
        InputError: the package onnx is not installed.
    """
    onnx = import_onnx()
    model = onnx.load_from_string(graph)
    for node in model.graph.node:
        node.output[:] = [f"all_{name}" if name in ("boxes", "scores") else name for name in node.output]
    end = onnx.parser.parse_graph(_SUPPRESSION)
    model.graph.node.extend(end.node)
    model.graph.initializer.extend(end.initializer)
    whole, real = onnx.TensorProto.INT64, onnx.TensorProto.FLOAT
    for name, kind, value in (
        ("candidate_limit", whole, _MOST_CANDIDATES),
        ("limit", whole, nms.max_detections),
        ("iou_threshold", real, max(nms.iou_threshold, _LEAST_IOU)),
        ("score_threshold", real, nms.score_threshold),
    ):
        model.graph.initializer.append(onnx.helper.make_tensor(name, kind, [1], [value]))
    del model.graph.output[:]
    model.graph.output.extend(end.output)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    for key, text in graph_info_metadata(GraphInfo(nms=nms)).items():
        model.metadata_props.add(key=key, value=text)
    return bytes(model.SerializeToString())
