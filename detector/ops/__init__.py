"""Functions on boxes: IoU and non-maximum suppression (NMS)."""
