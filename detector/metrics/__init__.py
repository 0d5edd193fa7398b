"""Evaluation metrics: average precision (AP) of detections, compared with the ground truth."""
