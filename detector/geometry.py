"""2D geometry in image coordinates: x points to the right, y points down."""

import numpy as np

from detector.arrays import Doubles


def rotation_matrix(degrees: float) -> Doubles:
    """Return the matrix [2, 2] that rotates points by an angle in degrees, clockwise in the displayed image."""
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[cos, -sin], [sin, cos]])
