"""The built-in synthetic data set: images of simple objects, rendered on demand from a seed."""
