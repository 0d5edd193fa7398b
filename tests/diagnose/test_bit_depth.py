from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from detector.annotation import Annotation
from detector.boxes import area
from detector.data.ledger import Ledger
from detector.data.split import Split
from detector.diagnose.bit_depth import diagnose_bit_depth


def split_of(folder: Path, values: npt.NDArray[np.uint16] | npt.NDArray[np.uint8]) -> Split:
    """Write four equal images, and return a split of them."""
    boxes = np.array([[1, 1, 9, 9]], dtype=np.float32)
    annotations = []
    for i in range(4):
        path = folder / f"{i}.png"
        Image.fromarray(values).save(path)
        shape = (values.shape[0], values.shape[1])
        annotations.append(Annotation(i, path, shape, boxes, np.zeros(1, np.int64), np.zeros(1, np.bool_), area(boxes)))
    return Split("train", ("ant",), (0,), tuple(annotations), Ledger(used=4))


def ramp(low: int, high: int) -> npt.NDArray[np.uint16]:
    """Return an image with all values from low to high."""
    return np.linspace(low, high, 64 * 64).reshape(64, 64).astype(np.uint16)


@pytest.mark.parametrize(
    ("low", "high", "verdict"), [(0, 65535, "ok"), (0, 32767, "ok"), (7000, 12000, "look"), (7400, 7900, "stop")]
)
def test_verdict_follows_the_used_gray_levels(tmp_path: Path, low: int, high: int, verdict: str) -> None:
    finding = diagnose_bit_depth(split_of(tmp_path, ramp(low, high)))
    assert finding.verdict == verdict, finding
    if verdict != "ok":
        assert f"their values are {low} to {high}" in finding.measured
        assert f"(value - {low}) * 255 / {high - low}" in finding.advice


def test_mask_with_two_values_loses_nothing(tmp_path: Path) -> None:
    mask = np.where(ramp(0, 65535) > 30000, 65535, 0).astype(np.uint16)
    assert diagnose_bit_depth(split_of(tmp_path, mask)).verdict == "ok"


def test_eight_bit_images_are_accepted(tmp_path: Path) -> None:
    finding = diagnose_bit_depth(split_of(tmp_path, np.full((8, 8), 3, dtype=np.uint8)))
    assert finding.verdict == "ok"
    assert "0 of 4 images" in finding.measured
