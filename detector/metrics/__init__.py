"""Detections and annotations to numbers; NumPy only."""
