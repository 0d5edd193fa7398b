"""The built-in synthetic data set: scenes rendered on demand from a seed."""
