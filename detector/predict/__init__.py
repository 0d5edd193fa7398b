"""The `Detector` and its parts: postprocessing, tiling, and merging of detections."""
