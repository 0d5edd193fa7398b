"""The `Detector`: preprocessing, inference, postprocessing and tiling."""
