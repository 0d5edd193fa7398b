"""Label formats, one module each: COCO JSON, YOLO text, Pascal VOC XML."""
