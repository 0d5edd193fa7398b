"""Checks of data, labels and an untrained network; each check returns a `Finding`.

`short_check` runs at the start of every training run.
"""
