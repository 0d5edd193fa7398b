from pathlib import Path

import pytest

from detector.data.open_data import open_data
from detector.data.split import Split


@pytest.fixture(scope="session")
def tiny_split(tiny_data: Path) -> Split:
    """Return the training split of the tiny dataset: 12 images, 96 pixels wide and 64 pixels high."""
    return open_data(tiny_data).read("train")
