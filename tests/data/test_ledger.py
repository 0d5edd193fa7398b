import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detector.data.ledger import Ledger
from detector.errors import InputError

FILE = Path("labels/a.txt")


def ledger_of(used: int, clipped: int, dropped: int) -> Ledger:
    ledger = Ledger(used=used)
    for line in range(clipped):
        ledger.clip(FILE, line + 1, "reaches out")
    for line in range(dropped):
        ledger.drop(FILE, line + 1, "no area")
    return ledger


@given(st.tuples(*[st.integers(0, 9)] * 3), st.tuples(*[st.integers(0, 9)] * 3))
def test_found_is_the_sum_of_the_outcomes_also_when_ledgers_are_added(
    a: tuple[int, int, int], b: tuple[int, int, int]
) -> None:
    both = ledger_of(*a) + ledger_of(*b)
    assert (both.used, both.clipped, both.dropped) == (a[0] + b[0], a[1] + b[1], a[2] + b[2])
    assert both.found == sum(a) + sum(b)


def test_an_entry_names_file_line_and_reason() -> None:
    assert [str(entry) for entry in ledger_of(0, 1, 1).entries] == [
        "labels/a.txt:1: clipped: reaches out",
        "labels/a.txt:1: dropped: no area",
    ]


def test_the_summary_names_missing_images() -> None:
    assert Ledger(missing=[Path("a.jpg"), Path("b.jpg")]).summary().endswith("2 images missing, first: a.jpg")


def test_the_json_account_survives_a_round_trip_through_text() -> None:
    ledger = ledger_of(2, 1, 1)
    ledger.missing.append(Path("a.jpg"))
    account = json.loads(json.dumps(ledger.to_json()))
    assert account["found"] == 4
    assert account["missing_images"] == ["a.jpg"]
    assert account["entries"][1] == {"action": "dropped", "file": "labels/a.txt", "line": 1, "reason": "no area"}


def test_check_passes_up_to_the_allowed_share_and_names_the_first_losses_above_it() -> None:
    ledger_of(9, 0, 1).check(0.1)
    with pytest.raises(InputError, match=r"1 of 10 boxes .*allowed 9\.0%:\n  labels/a\.txt:1: dropped: no area"):
        ledger_of(9, 0, 1).check(0.09)


def test_check_accepts_a_split_without_rows() -> None:
    Ledger().check(0.0)


counts = st.tuples(*[st.integers(0, 5)] * 3)


@given(lost=counts, kept=counts)
def test_losing_a_image_turns_its_rows_into_dropped_ones_and_touches_no_other(
    lost: tuple[int, int, int], kept: tuple[int, int, int]
) -> None:
    """Each count: rows used, of those crowd, rows clipped."""
    lost_image, kept_image = Path("a.jpg"), Path("b.jpg")
    ledger = Ledger(used=lost[0] + kept[0], crowd=min(lost[:2]) + min(kept[:2]))
    for line, image in enumerate([lost_image] * lost[2] + [kept_image] * kept[2], start=1):
        ledger.clip(FILE, line, "reaches out", image)
    ledger.drop(FILE, 99, "no area")
    found = ledger.found

    ledger.lose_image(lost_image, lost[0] + lost[2], min(lost[:2]), "cut off")
    assert ledger.found == found
    assert (ledger.used, ledger.crowd, ledger.clipped) == (kept[0], min(kept[:2]), kept[2])
    assert ledger.dropped == 1 + lost[0] + lost[2]
    assert ledger.missing == [lost_image]
    assert all(entry.image == kept_image for entry in ledger.entries if entry.action == "clipped")
    reasons = [str(entry) for entry in ledger.entries if entry.image == lost_image]
    assert reasons == ["a.jpg: dropped: cut off"] * (lost[0] + lost[2])


def test_losing_a_image_without_objects_makes_one_background_image_less() -> None:
    ledger = Ledger(used=3, background=2)
    ledger.lose_image(Path("a.jpg"), 0, 0, "cut off")
    assert (ledger.background, ledger.found, ledger.entries) == (1, 3, [])
