"""Findings about data, labels and an untrained network. The short form runs at the start of training."""
