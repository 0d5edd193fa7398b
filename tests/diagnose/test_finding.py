import json
from itertools import permutations

import pytest

from detector.diagnose.finding import Finding, Verdict, worst


def finding(verdict: Verdict, advice: str = "") -> Finding:
    return Finding("data: label rows", verdict, "3 of 7", "none", advice)


@pytest.mark.parametrize("order", [*permutations(["ok", "look", "stop"])])
def test_worst_verdict_does_not_depend_on_the_order(order: tuple[Verdict, ...]) -> None:
    assert worst(map(finding, order)) == "stop"
    assert worst(finding(verdict) for verdict in order if verdict != "stop") == "look"


def test_no_finding_is_ok() -> None:
    assert worst([]) == "ok"


@pytest.mark.parametrize("verdict", ["ok", "look", "stop"])
def test_finding_is_one_line_with_all_its_fields(verdict: Verdict) -> None:
    line = str(finding(verdict, "Do this."))
    assert line.startswith(verdict)
    assert "\n" not in line
    assert all(part in line for part in ("data: label rows", "3 of 7", "none", "Do this."))


def test_finding_without_advice_ends_with_the_expectation() -> None:
    assert str(finding("ok")).endswith("(expected: none)")


def test_finding_survives_json() -> None:
    original = finding("look", "Do this.")
    assert Finding(**json.loads(json.dumps(original.to_json()))) == original
