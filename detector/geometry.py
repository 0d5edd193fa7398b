"""Plane geometry in image coordinates: x to the right, y downwards."""

import numpy as np

from detector.arrays import Doubles


def rotation_matrix(degrees: float) -> Doubles:
    """Return the rotation matrix [2, 2] of an angle, clockwise as seen on the screen."""
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[cos, -sin], [sin, cos]])
