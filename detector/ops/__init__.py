"""Box operators without state: IoU and non-maximum suppression (NMS)."""
