"""Detect the objects in an image with an exported ONNX file. Requires only numpy, opencv-python and onnxruntime.

    python python_onnxruntime.py model.onnx image.jpg [--json]

The input of the file is `image` [1, H, W, 3] uint8 RGB, the letterboxed image. The outputs are, for P grid points,
`boxes` [1, P, 4] (x1, y1, x2, y2 in input pixels) and `scores` [1, P, C], 0..1. The metadata contains H, W and the
names of the C classes.
"""

import argparse
import json

import cv2
import numpy as np
import onnxruntime

SCORE_THRESHOLD = 0.25  # lowest confidence score
IOU_THRESHOLD = 0.6  # NMS: two boxes of a class that overlap by more are the same object
MAX_DETECTIONS = 300


def detect(
    session: onnxruntime.InferenceSession, input_hw: tuple[int, int], image: np.ndarray
) -> list[tuple[int, float, np.ndarray]]:
    """Return (class id, score, box in image pixels) of each object, best first.

    Args:
        session: the loaded file.
        input_hw: H and W, the input size.
        image: [h, w, 3] RGB.
    """
    # Letterbox: scale to fit, in whole pixels, and center on an input filled with gray 114.
    (h, w), (input_h, input_w) = image.shape[:2], input_hw
    scale = min(input_h / h, input_w / w)
    inner_h, inner_w = min(input_h, max(1, round(h * scale))), min(input_w, max(1, round(w * scale)))
    top, left = (input_h - inner_h) // 2, (input_w - inner_w) // 2
    mode = cv2.INTER_AREA if inner_h < h else cv2.INTER_LINEAR  # when shrinking, average the area of a pixel
    letterboxed = np.full((input_h, input_w, 3), 114, np.uint8)
    letterboxed[top : top + inner_h, left : left + inner_w] = cv2.resize(image, (inner_w, inner_h), interpolation=mode)

    boxes, scores = (output[0] for output in session.run(["boxes", "scores"], {"image": letterboxed[None]}))

    # Each grid point predicts its best class. Map its box back to the image and clip it.
    class_ids, scores = scores.argmax(axis=1), scores.max(axis=1)
    boxes = (boxes - [left, top, left, top]) / np.array([inner_w / w, inner_h / h] * 2)
    boxes = boxes.clip(0, [w, h, w, h])
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])

    # NMS: best first, keep a box unless it overlaps a kept box of the same class too much.
    kept: list[int] = []
    for i in np.argsort(-scores, kind="stable"):
        if scores[i] <= SCORE_THRESHOLD or len(kept) == MAX_DETECTIONS:
            break
        same_class = [k for k in kept if class_ids[k] == class_ids[i]]
        sides = np.minimum(boxes[same_class, 2:], boxes[i, 2:]) - np.maximum(boxes[same_class, :2], boxes[i, :2])
        intersection = sides.clip(0).prod(axis=1)
        if area[i] > 0 and not (intersection > IOU_THRESHOLD * (area[same_class] + area[i] - intersection)).any():
            kept.append(i)
    return [(int(class_ids[i]), float(scores[i]), boxes[i]) for i in kept]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Detect the objects in an image with an exported ONNX file.")
    parser.add_argument("model")
    parser.add_argument("image")
    parser.add_argument("--json", action="store_true", help="print a JSON object per line")
    options = parser.parse_args()
    session = onnxruntime.InferenceSession(options.model, providers=["CPUExecutionProvider"])
    metadata = session.get_modelmeta().custom_metadata_map  # key -> JSON text
    class_names, input_hw = json.loads(metadata["class_names"]), json.loads(metadata["input_hw"])
    if len(session.get_outputs()) != 2:
        raise SystemExit(f"{options.model}: exported with --nms in; export it without")
    image = cv2.imread(options.image)  # BGR, EXIF orientation applied
    if image is None:
        raise SystemExit(f"{options.image}: not a readable image")
    for class_id, score, box in detect(session, input_hw, np.ascontiguousarray(image[..., ::-1])):
        x1, y1, x2, y2 = (round(float(side), 3) for side in box)
        if options.json:
            print(json.dumps({"class": class_names[class_id], "score": round(score, 5), "box": [x1, y1, x2, y2]}))
        else:
            print(f"{class_names[class_id]} {score:.3f} from ({x1:.1f}, {y1:.1f}) to ({x2:.1f}, {y2:.1f})")
