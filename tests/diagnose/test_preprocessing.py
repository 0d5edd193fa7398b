from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from detector.annotation import Annotation
from detector.arrays import ImageArray
from detector.config import Config
from detector.data.open_data import open_data
from detector.data.scenes import scenes
from detector.data.split import Split
from detector.diagnose.preprocessing import diagnose_preprocessing
from detector.loader.dataset import DetectionDataset

INPUT_HW = (64, 96)


@pytest.fixture(scope="module")
def split(tiny_data: Path) -> Split:
    return open_data(tiny_data).read("train")


def test_training_and_detection_process_the_same_images(split: Split) -> None:
    assert diagnose_preprocessing(DetectionDataset(split, INPUT_HW, Config()), split).verdict == "ok"


def test_built_in_scenes_need_no_files() -> None:
    split = scenes.read_split("val")
    split = replace(split, annotations=split.annotations[:3])
    assert diagnose_preprocessing(DetectionDataset(split, INPUT_HW, Config()), split).verdict == "ok"


def test_swapped_red_and_blue_in_training_stop(split: Split) -> None:
    swapped = replace(split, read_image=lambda a: np.ascontiguousarray(split.read_image(a)[..., ::-1]))
    finding = diagnose_preprocessing(DetectionDataset(swapped, INPUT_HW, Config()), swapped)
    assert finding.verdict == "stop"
    assert "BGR" in finding.advice


def test_different_images_in_training_and_detection_stop(split: Split) -> None:
    def read_shifted(annotation: Annotation) -> ImageArray:
        return np.roll(split.read_image(annotation), 24, axis=1)

    shifted = replace(split, read_image=read_shifted)
    assert diagnose_preprocessing(DetectionDataset(shifted, INPUT_HW, Config()), shifted).verdict == "stop"
