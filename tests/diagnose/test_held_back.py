from dataclasses import replace
from pathlib import Path

from detector.config import Config
from detector.data.open_data import open_data
from detector.diagnose.data import diagnose_data


def test_held_back_split_causes_no_alarm_about_splits(tiny_data: Path) -> None:
    train = open_data(tiny_data).read("train")
    copy = replace(train, name="val")
    names = {"data: shared files", "data: leakage"}
    for held_back, expected in ((False, {"stop"}), (True, {"ok"})):
        findings = diagnose_data([train, replace(copy, held_back=held_back)], (64, 96), Config())
        assert {finding.verdict for finding in findings if finding.check in names} == expected
