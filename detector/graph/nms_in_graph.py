"""Add NMS to an ONNX graph: the graph then outputs final detections instead of a prediction for every grid point."""

from detector.errors import ConfigError
from detector.graph.metadata import GraphInfo, graph_info_metadata
from detector.graph.to_onnx import import_onnx
from detector.options import DetectOptions

_MAX_CANDIDATES = 1000
"""Largest number of boxes that enter NMS: the boxes with the highest scores. The cost of NMS grows with the square of
this number."""

_MIN_IOU = 1e-6
"""Smallest IoU threshold of the graph. OpenVINO also removes boxes whose IoU equals the threshold. With a threshold of
0, it would remove boxes that do not overlap at all."""

_NMS_GRAPH = """
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

    unclipped = Gather <axis = 1> (all_boxes, candidates)
    image_shape = Shape (image)
    input_whwh_int = Gather (image_shape, whwh)
    input_whwh = Cast <to = 1> (input_whwh_int)
    not_below = Max (unclipped, no_size)
    candidate_boxes = Min (not_below, input_whwh)

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
"""The graph of NMS in the syntax of `onnx.parser`. The node `NonMaxSuppression` outputs rows (image, class, candidate),
sorted by class."""


def add_nms(graph: bytes, options: DetectOptions) -> bytes:
    """Append NMS to an ONNX graph, and return the new ONNX file.

    The new graph takes one image at a time. Its outputs are `boxes` [N, 4] in input pixels, clipped to the input,
    `scores` [N] and `class_ids` [N], sorted by descending score. Each grid point yields at most one detection, with the
    best class of the grid point. The graph clips the boxes to the network input before NMS. Without NMS in the graph,
    `postprocess` clips the boxes to the image before NMS instead.

    Args:
        graph: bytes of an ONNX file of `to_onnx` or `int8_onnx.quantize`.
        options: the graph uses the score threshold, the IoU threshold and the largest number of detections, and stores
            them in the metadata. It always computes `classic` NMS per class.

    Returns:
        The bytes of the new ONNX file.

    Raises:
        ConfigError: `options` requests a feature that the graph does not implement: another NMS variant than `classic`,
            class-agnostic NMS, several classes per grid point, or a selection of classes.
        MissingPackageError: the package onnx is not installed.
    """
    _check_options(options)
    onnx = import_onnx()
    model = onnx.load_from_string(graph)
    for node in model.graph.node:
        node.output[:] = [f"all_{name}" if name in ("boxes", "scores") else name for name in node.output]
    nms_graph = onnx.parser.parse_graph(_NMS_GRAPH)
    model.graph.node.extend(nms_graph.node)
    model.graph.initializer.extend(nms_graph.initializer)
    int64, float32 = onnx.TensorProto.INT64, onnx.TensorProto.FLOAT
    for name, dtype, value in (
        ("candidate_limit", int64, _MAX_CANDIDATES),
        ("limit", int64, options.max_detections),
        ("iou_threshold", float32, max(options.iou_threshold, _MIN_IOU)),
        ("score_threshold", float32, options.lowest_threshold),
    ):
        model.graph.initializer.append(onnx.helper.make_tensor(name, dtype, [1], [value]))
    del model.graph.output[:]
    model.graph.output.extend(nms_graph.output)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    for key, text in graph_info_metadata(GraphInfo(nms=options)).items():
        model.metadata_props.add(key=key, value=text)
    return bytes(model.SerializeToString())


def _check_options(options: DetectOptions) -> None:
    """Raise ConfigError if `options` requests a feature that NMS inside a graph does not implement."""
    unsupported = {
        f"suppression={options.suppression}": options.suppression not in (None, "classic"),
        "class_agnostic=True": bool(options.class_agnostic),
        "multi_label=True": options.multi_label,
        "classes": options.classes is not None,
    }
    for name, is_set in unsupported.items():
        if is_set:
            raise ConfigError(f"nms: NMS inside a graph does not support {name}; use NMS outside the graph (--nms out)")
