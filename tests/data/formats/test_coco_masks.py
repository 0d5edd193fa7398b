from typing import Any

import numpy as np
import pytest
from faster_coco_eval.core import mask as coco_mask
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hypothesis_numpy

from detector.data.formats.coco_masks import mask_box

masks = hypothesis_numpy.arrays(np.uint8, st.tuples(st.integers(1, 12), st.integers(1, 12)), elements=st.integers(0, 1))


def counts_of(mask: "np.ndarray[Any, Any]") -> list[int]:
    """Return the lengths of the runs of a mask, column by column; the first run is background."""
    pixels = [0, *mask.T.ravel().tolist()]
    changes = [i for i in range(1, len(pixels)) if pixels[i] != pixels[i - 1]]
    ends = [change - 1 for change in changes] + [len(pixels) - 1]
    return [end - start for start, end in zip([0, *ends[:-1]], ends, strict=True)]


@given(masks)
def test_the_box_of_a_run_length_encoding_contains_exactly_the_mask(mask: "np.ndarray[Any, Any]") -> None:
    compressed = coco_mask.encode(np.asfortranarray(mask))
    rows, columns = np.nonzero(mask)
    expected = None
    if len(rows):
        expected = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    for counts in (counts_of(mask), compressed["counts"]):
        text = counts.decode() if isinstance(counts, bytes) else counts
        box = mask_box({"size": list(mask.shape), "counts": text})
        # In a column, two runs have background between them, so the box of the runs is the box of the mask.
        assert box == expected


def test_the_box_of_polygons_contains_all_points() -> None:
    assert mask_box([[2, 3, 8, 3.5, 8, 9], [1, 4, 2, 2, 3, 3]]) == (1, 2, 8, 9)


@pytest.mark.parametrize(
    "segmentation",
    [
        None, [], "x", [[1, 2, 3]], [["a", "b"]], [[10**400, 1]], {}, {"size": [2, 2]}, {"size": [2], "counts": [4]},
        {"size": [2, 2], "counts": [5]}, {"size": [2, 2], "counts": [1, -1]}, {"size": [2, 2], "counts": "P"},
        {"size": [2, 2], "counts": "\u1234"}, {"size": [0, 2], "counts": [0]}, {"size": ["2", 2], "counts": [4]},
    ],
)  # fmt: skip
def test_an_invalid_mask_has_no_box(segmentation: Any) -> None:
    assert mask_box(segmentation) is None
