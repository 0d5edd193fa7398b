import pytest
import torch

from detector.checking.cost import diagnose_cost
from detector.config import Config
from detector.data.split import Split
from detector.loader.dataset import DetectionDataset
from detector.model.make_network import make_network
from detector.training.trainer import Trainer


@pytest.mark.parametrize(
    ("settings", "verdict", "epochs"),
    [({"epochs": 10}, "ok", "10.0 epochs"), ({"steps": 2}, "look", "0.7 epochs"), ({"minutes": 0.05}, "ok", "epochs")],
)
def test_cost_of_a_run_is_predicted(tiny_split: Split, settings: dict[str, object], verdict: str, epochs: str) -> None:
    config = Config(model="pico", **settings)  # type: ignore[arg-type]
    dataset = DetectionDataset(tiny_split, (64, 96), config)
    network = make_network(config, len(tiny_split.class_names), *dataset.color_statistics())
    trainer = Trainer(network, config, torch.device("cpu"), torch.float32)
    finding = diagnose_cost(trainer, dataset, 4, config, len(dataset))
    assert finding.verdict == verdict
    assert epochs in finding.measured
