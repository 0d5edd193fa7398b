"""Why objects were missed, and why false positives were detected, from the raw predictions of the network."""
