import json
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detector.data.ledger import DropCode, Ledger, LedgerEntry, UnusableImage
from detector.errors import LabelError

FILE = Path("labels/a.txt")


def make_ledger(used: int, clipped: int, dropped: int) -> Ledger:
    entries = [LedgerEntry("clipped", FILE, line + 1, "beyond the image") for line in range(clipped)]
    entries += [LedgerEntry("no_area", FILE, line + 1, "no area") for line in range(dropped)]
    return Ledger(used=used, entries=tuple(entries))


@given(st.tuples(*[st.integers(0, 9)] * 3), st.tuples(*[st.integers(0, 9)] * 3))
def test_adding_ledgers_adds_all_counts(a: tuple[int, int, int], b: tuple[int, int, int]) -> None:
    both = make_ledger(*a) + make_ledger(*b)
    assert (both.used, both.clipped, both.dropped) == (a[0] + b[0], a[1] + b[1], a[2] + b[2])
    assert both.found == sum(a) + sum(b)


def test_entry_text_has_file_line_and_reason() -> None:
    assert [str(entry) for entry in make_ledger(0, 1, 1).entries] == [
        "labels/a.txt:1: clipped: beyond the image",
        "labels/a.txt:1: dropped: no area",
    ]


@pytest.mark.parametrize("code", get_args(DropCode))
def test_every_drop_code_counts_as_dropped(code: DropCode) -> None:
    ledger = Ledger(entries=(LedgerEntry(code, FILE, 1, ""),))
    assert (ledger.clipped, ledger.dropped) == (0, 1)


def test_summary_names_missing_images() -> None:
    assert (
        Ledger(missing=(Path("a.jpg"), Path("b.jpg")))
        .summary()
        .endswith("2 images left out because missing or unusable, first: a.jpg")
    )


def test_control_characters_in_paths_are_escaped_in_texts() -> None:
    path = Path("a\x1b[2J\n\x9b.jpg")
    shown = r"a\x1b[2J\n\x9b.jpg"
    assert Ledger(missing=(path,)).summary().endswith(f"1 image left out because missing or unusable, namely: {shown}")
    assert str(LedgerEntry("no_area", path, 1, "no area\r")) == shown + r":1: dropped: no area\r"


def test_json_has_counts_missing_images_and_entries() -> None:
    ledger = make_ledger(2, 1, 1) + Ledger(missing=(Path("a.jpg"),))
    values = json.loads(json.dumps(ledger.to_json()))
    assert values["found"] == 4
    assert values["missing_images"] == ["a.jpg"]
    assert values["entries"][1] == {
        "action": "dropped",
        "code": "no_area",
        "file": "labels/a.txt",
        "line": 1,
        "reason": "no area",
    }


def test_check_fails_above_the_allowed_fraction_of_dropped_rows() -> None:
    make_ledger(36, 0, 4).check(0.1)
    message = (
        r"^4 of 40 boxes would be dropped, more than the allowed 9\.0% and more than 3 boxes:\n"
        r"  labels/a\.txt:1: dropped: no area \(and 3 more boxes like this\)\nFix .*--allow-dropped"
    )
    with pytest.raises(LabelError, match=message):
        make_ledger(36, 0, 4).check(0.09)


def test_check_gives_one_example_per_kind_of_reason() -> None:
    ledger = make_ledger(5, 0, 2) + Ledger(entries=(LedgerEntry("unknown_class", FILE, 9, "class 7"),) * 4)
    with pytest.raises(LabelError) as caught:
        ledger.check(0.1)
    assert str(caught.value).split("\n")[1:-1] == [
        "  labels/a.txt:1: dropped: no area (and 1 more box like this)",
        "  labels/a.txt:9: dropped: class 7 (and 3 more boxes like this)",
    ]


@pytest.mark.parametrize(("dropped", "text"), [(1, "1 of 1 box would"), (3, "3 of 3 boxes would .*none would be left")])
def test_a_split_that_loses_every_row_is_refused(dropped: int, text: str) -> None:
    with pytest.raises(LabelError, match=text) as caught:
        make_ledger(0, 0, dropped).check(1.0)
    assert "--allow-dropped" not in str(caught.value)


@pytest.mark.parametrize(
    ("used", "dropped", "allowed", "too_many"),
    [
        (1, 3, 0.02, False),
        (1, 4, 0.02, True),
        (196, 4, 0.02, False),
        (195, 5, 0.02, True),
        (1000, 1, 0.0, True),
        (1000, 0, 0.0, False),
    ],
)
def test_three_rows_or_the_fraction_may_be_dropped(used: int, dropped: int, allowed: float, too_many: bool) -> None:
    assert make_ledger(used, 0, dropped).too_many_dropped(allowed) is too_many


def test_check_accepts_a_split_without_rows() -> None:
    Ledger().check(0.0)


counts = st.tuples(*[st.integers(0, 5)] * 3)


@given(lost=counts, kept=counts)
def test_without_image_drops_the_rows_of_that_image_only(
    lost: tuple[int, int, int], kept: tuple[int, int, int]
) -> None:
    """`lost` and `kept` are the numbers of used rows, of crowd regions among the used rows, and of clipped rows."""
    lost_image, kept_image = Path("a.jpg"), Path("b.jpg")
    images = [lost_image] * lost[2] + [kept_image] * kept[2]
    clipped = [
        LedgerEntry("clipped", FILE, line, "beyond the image", image) for line, image in enumerate(images, start=1)
    ]
    before = Ledger(
        used=lost[0] + kept[0],
        crowd=min(lost[:2]) + min(kept[:2]),
        entries=(*clipped, LedgerEntry("no_area", FILE, 99, "no area")),
    )

    after = before.without_images([UnusableImage(lost_image, lost[0] + lost[2], min(lost[:2]), "cut off")])
    assert after.found == before.found
    assert (after.used, after.crowd, after.clipped) == (kept[0], min(kept[:2]), kept[2])
    assert after.dropped == 1 + lost[0] + lost[2]
    assert after.missing == (lost_image,)
    assert all(entry.image == kept_image for entry in after.entries if entry.action == "clipped")
    entries = [entry for entry in after.entries if entry.image == lost_image]
    assert [str(entry) for entry in entries] == ["a.jpg: dropped: cut off"] * (lost[0] + lost[2])
    assert {entry.code for entry in entries} <= {"image_unusable"}


def test_without_a_background_image_there_is_one_background_less() -> None:
    ledger = Ledger(used=3, background=2).without_images([UnusableImage(Path("a.jpg"), 0, 0, "cut off")])
    assert (ledger.background, ledger.found, ledger.entries) == (1, 3, ())
