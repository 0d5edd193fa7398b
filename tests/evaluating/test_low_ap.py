"""Advice for a low AP: the most likely cause, and no false alarm."""

import logging
import re
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from detector.annotation import Annotation
from detector.cli.commands import main
from detector.config import Config
from detector.data.ledger import Ledger
from detector.data.split import Split
from detector.evaluating.low_ap import Trained, low_ap_advice
from detector.metrics.average_precision import AveragePrecision
from detector.training.train import train

GOOD = Trained(steps=2000, objects=500, of_class={"red": 400, "blue": 100})
HW = (64, 64)


def split_of(side: float, count: int = 30) -> Split:
    """A split with objects of one size, every second one of the class blue."""
    boxes = np.array([[4, 4, 4 + side, 4 + side]] * count, np.float32)
    ids, areas = np.arange(count) % 2, np.full(count, side**2, np.float32)
    annotation = Annotation(1, Path("a.png"), HW, boxes, ids, np.zeros(count, np.bool_), areas)
    return Split("val", ("red", "blue"), (1, 2), (annotation,), Ledger())


def ap_of(ap50: float, blue: float, objects: int = 20) -> AveragePrecision:
    rows = {"red": {"AP": ap50, "AP50": ap50, "objects": 50.0}, "blue": {"AP": 0.0, "AP50": blue, "objects": objects}}
    names = [f.name for f in fields(AveragePrecision)][:12]
    return AveragePrecision(**dict.fromkeys(names, ap50), per_class=rows)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("ap", "trained", "side", "cause"),
    [
        (
            ap_of(0.1, 0.1),
            replace(GOOD, steps=40),
            20,
            "AP50 on val is only 0.100; most likely cause: only 40 steps of",
        ),
        (ap_of(0.1, 0.1), replace(GOOD, of_class={"red": 9, "blue": 3}), 20, r"few training objects \(red 9, blue 3\)"),
        (ap_of(0.1, 0.1), Trained(2000, 30), 20, "only 30 training objects"),
        (ap_of(0.1, 0.1), GOOD, 6, r"100% of these objects are smaller than 10 pixels in the network input \(64x64\)"),
        (ap_of(0.1, 0.1), replace(GOOD, val_ap50=0.8), 20, r"differ from the training images \(AP50 on val was 0.800"),
        (ap_of(0.1, 0.1), GOOD, 20, "start with `detector check`"),
        (ap_of(0.1, 0.1), Trained(), 20, "start with `detector check`"),
        (ap_of(0.5, 0.0), replace(GOOD, of_class={"red": 90, "blue": 3}), 20, r"class blue on val is 0; .*\(blue 3\)"),
        (ap_of(0.5, 0.0), GOOD, 6, "of the class blue on val is 0; .*smaller than"),
    ],
)
def test_low_ap_names_the_most_likely_cause(ap: AveragePrecision, trained: Trained, side: float, cause: str) -> None:
    advice = low_ap_advice(ap, split_of(side), HW, trained)
    assert advice is not None
    assert re.search(cause, advice), advice
    assert advice.endswith("see docs/how-to/low-ap.md (AP is low)")


@pytest.mark.parametrize(
    "ap", [ap_of(0.2, 0.1), ap_of(0.5, 0.01), ap_of(0.5, 0.0, objects=19), ap_of(0.5, -1, objects=0), ap_of(-1, -1)]
)
def test_no_advice_if_ap_is_not_low(ap: AveragePrecision) -> None:
    nothing = Trained(steps=1, objects=1, of_class={"red": 1, "blue": 0}, val_ap50=1.0)
    assert low_ap_advice(ap, split_of(2), HW, nothing) is None


@pytest.mark.parametrize("facts", [{}, {"steps": "many", "boxes": None, "val": [1]}, {"val": {"AP50": "high"}}])
def test_metadata_of_any_form_are_no_error(facts: dict[str, object]) -> None:
    assert Trained.from_facts(facts) == Trained()


def test_commands_give_advice_only_for_a_low_ap(
    tiny_data: Path, tiny_config: Config, tiny_weights: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    caplog.set_level(logging.INFO)
    poor = train(tiny_data, replace(tiny_config, steps=2), out=tmp_path / "run", weights="none").weights
    assert "most likely cause: only 2 steps of training" in caplog.text
    for weights, is_low in ((poor, True), (tiny_weights, False)):
        assert main(["evaluate", "--data", str(tiny_data), "--weights", str(weights), "--no-intervals"]) == 0
        assert ("docs/how-to/low-ap.md" in capsys.readouterr().out) is is_low
