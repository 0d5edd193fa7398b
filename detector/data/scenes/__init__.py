"""The built-in synthetic dataset: images of simple objects, rendered on demand from a seed."""
