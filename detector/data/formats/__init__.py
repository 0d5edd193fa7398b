"""One module per label format: COCO JSON, YOLO text, Pascal VOC XML."""
