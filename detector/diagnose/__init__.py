"""Findings about data, labels and an untrained network. `short_check` runs at the start of every training run."""
