"""Types of NumPy arrays that the whole package uses."""

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
"""float32: boxes, scores, areas."""

Doubles = npt.NDArray[np.float64]
"""float64: geometry and statistics."""

Ints = npt.NDArray[np.int64]
"""int64: class ids, indices."""

Bools = npt.NDArray[np.bool_]
"""Boolean masks."""

ImageArray = npt.NDArray[np.uint8]
"""uint8: an image [H, W, 3] RGB, or a stack of images [N, H, W, 3]."""
