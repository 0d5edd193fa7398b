"""Evaluation metrics computed from detections and annotations. NumPy only."""
