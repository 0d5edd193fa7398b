"""Evaluation metrics computed from detections and ground truth. NumPy only."""
