"""Readers of label formats, one module per format: COCO JSON, YOLO text, Pascal VOC XML."""
