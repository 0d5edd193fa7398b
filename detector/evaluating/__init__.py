"""The command `evaluate`: average precision (AP) of weights, or of COCO results, on a split."""
