from pathlib import Path

import pytest

from detector.data.open_data import open_data
from detector.data.split import Split


@pytest.fixture(scope="session")
def tiny_split(tiny_data: Path) -> Split:
    """The training split of the tiny data set: 12 images of 96 x 64 pixels."""
    return open_data(tiny_data).read("train")
