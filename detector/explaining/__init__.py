"""The command `explain`: why the objects of labeled images were missed, and why false positives were detected."""
