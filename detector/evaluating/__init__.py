"""The command `evaluate`: average precision of weights or of COCO results on a split."""
