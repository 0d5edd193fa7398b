"""A long run needs no more memory than a short one, and leaves no files open."""

import os
from pathlib import Path

import pytest
import torch

from detector.config import Config
from detector.data.open_data import open_data
from detector.loader.dataset import DetectionDataset
from detector.loader.loader import training_batches
from detector.model.make_network import make_network
from detector.step_plan import StepPlan
from detector.training.trainer import Trainer

STATM = Path("/proc/self/statm")


def resident_bytes() -> int:
    return int(STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.skipif(not STATM.exists(), reason="reads /proc, which only Linux has")
def test_memory_does_not_grow_with_the_number_of_epochs(tiny_data: Path) -> None:
    split = open_data(tiny_data).read("train")
    config = Config(model="pico", input_size=(64, 96), mosaic_from=0)
    dataset = DetectionDataset(split, (64, 96), config)
    network = make_network(config, len(split.class_names), *dataset.color_statistics())
    trainer = Trainer(network, config, torch.device("cpu"), torch.float32, steps_per_epoch=3)
    steps = 150
    early_bytes = early_files = 0
    for step, batch in training_batches(dataset, 4, StepPlan.fixed(steps), 0, steps):
        trainer.step(step, steps, batch)
        if step == 30:
            early_bytes, early_files = resident_bytes(), open_files()
    assert resident_bytes() < early_bytes * 1.02 + 2**20
    assert open_files() <= early_files
