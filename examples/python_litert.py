"""Detect the objects in an image with an exported LiteRT file. Requires only numpy, opencv-python and ai-edge-litert.

    python python_litert.py model.tflite image.jpg [--json]

The file has one input: `image` [1, H, W, 3] uint8 RGB, the letterboxed image. It has two outputs: `boxes` [1, P, 4]
(x1, y1, x2, y2 in input pixels) and `scores` [1, P, C] from 0 to 1, for P grid points and C classes. The end of the
file is a zip archive with `detector.json`, which contains the input size (H, W) and the C class names as JSON texts.
"""

import argparse
import json
import zipfile

import cv2
import numpy as np
from ai_edge_litert.interpreter import Interpreter

SCORE_THRESHOLD = 0.25  # detections have a higher score than this
IOU_THRESHOLD = 0.6  # NMS: two boxes of the same class with a higher IoU than this belong to the same object
MAX_DETECTIONS = 300  # largest number of detections per image


def detect(
    interpreter: Interpreter, input_hw: tuple[int, int], image: np.ndarray
) -> list[tuple[int, float, np.ndarray]]:
    """Return (class id, score, box) of each object, sorted by descending score; box is x1, y1, x2, y2 in image pixels.

    Args:
        interpreter: LiteRT interpreter that has loaded the file.
        input_hw: input size (H, W) of the graph.
        image: [h, w, 3] uint8 RGB, of any size.
    """
    # Letterbox: scale the image to fit into the input, round its size to whole pixels, and center it on gray 114.
    (h, w), (input_h, input_w) = image.shape[:2], input_hw
    scale = min(input_h / h, input_w / w)
    inner_h, inner_w = min(input_h, max(1, round(h * scale))), min(input_w, max(1, round(w * scale)))
    top, left = (input_h - inner_h) // 2, (input_w - inner_w) // 2
    mode = cv2.INTER_AREA if inner_h < h else cv2.INTER_LINEAR  # INTER_AREA averages the covered pixels
    letterboxed = np.full((input_h, input_w, 3), 114, np.uint8)
    letterboxed[top : top + inner_h, left : left + inner_w] = cv2.resize(image, (inner_w, inner_h), interpolation=mode)

    outputs = interpreter.get_signature_runner()(image=letterboxed[None])
    boxes, scores = outputs["boxes"][0], outputs["scores"][0]

    # Each grid point predicts its best class. Map each box from the input to the image and clip it to the image.
    class_ids, scores = scores.argmax(axis=1), scores.max(axis=1)
    boxes = (boxes - [left, top, left, top]) / np.array([inner_w / w, inner_h / h] * 2)
    boxes = boxes.clip(0, [w, h, w, h])
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])

    # NMS: process the boxes by descending score. Keep a box unless it overlaps a kept box of its class too much.
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
    parser = argparse.ArgumentParser(description="Detect the objects in an image with an exported LiteRT file.")
    parser.add_argument("model", help="path of the .tflite file")
    parser.add_argument("image", help="path of the image")
    parser.add_argument("--json", action="store_true", help="print one JSON object per detected object")
    parser.add_argument("--threads", type=int, default=1, help="number of threads (default: 1)")
    options = parser.parse_args()
    interpreter = Interpreter(model_path=options.model, num_threads=options.threads)
    with zipfile.ZipFile(options.model) as archive:
        metadata = json.loads(archive.read("detector.json"))  # key -> JSON text
    class_names, input_hw = json.loads(metadata["class_names"]), json.loads(metadata["input_hw"])
    image = cv2.imread(options.image)  # BGR, EXIF orientation applied
    if image is None:
        raise SystemExit(f"{options.image}: missing, or not a readable image")
    for class_id, score, box in detect(interpreter, input_hw, np.ascontiguousarray(image[..., ::-1])):
        x1, y1, x2, y2 = (round(float(side), 3) for side in box)
        if options.json:
            print(json.dumps({"class": class_names[class_id], "score": round(score, 5), "box": [x1, y1, x2, y2]}))
        else:
            print(f"{class_names[class_id]} {score:.3f} from ({x1:.1f}, {y1:.1f}) to ({x2:.1f}, {y2:.1f})")
