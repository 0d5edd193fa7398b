"""The version of the package, from which the build takes it, and the name of the package on PyPI."""

VERSION = "0.1.0"

DISTRIBUTION = "grid-detector"
"""The name with which the package is installed. The name `detector` belongs to another project on PyPI."""
