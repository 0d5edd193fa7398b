import json
from itertools import permutations

import pytest

from detector.diagnose.finding import Finding, Verdict, worst


def finding(verdict: Verdict, advice: str = "") -> Finding:
    return Finding("data: rows", verdict, "3 of 7", "none", advice)


@pytest.mark.parametrize("order", [*permutations(["ok", "look", "stop"])])
def test_the_worst_verdict_counts_in_any_order(order: tuple[Verdict, ...]) -> None:
    assert worst(map(finding, order)) == "stop"
    assert worst(finding(verdict) for verdict in order if verdict != "stop") == "look"


def test_no_finding_at_all_is_well() -> None:
    assert worst([]) == "ok"


@pytest.mark.parametrize("verdict", ["ok", "look", "stop"])
def test_a_finding_is_one_line_with_all_it_holds(verdict: Verdict) -> None:
    line = str(finding(verdict, "Do this."))
    assert line.startswith(verdict)
    assert "\n" not in line
    assert all(part in line for part in ("data: rows", "3 of 7", "none", "Do this."))


def test_where_all_is_well_nothing_stands_behind_the_expectation() -> None:
    assert str(finding("ok")).endswith("(expected: none)")


def test_a_finding_survives_json() -> None:
    one = finding("look", "Do this.")
    assert Finding(**json.loads(json.dumps(one.to_json()))) == one
