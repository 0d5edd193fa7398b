import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detector.comparing.table import Run, add_run, mean_and_margin, read_runs, summarize, to_markdown, to_text
from detector.comparing.variations import BASE_LINE, Variation
from detector.config import Config
from detector.errors import InputError

COMMON = ("mine, and yours", "12ab34cd steps=9", 2)
BASE = Variation((), Config(steps=9))
SWISH = Variation(("activation=swish",), Config(steps=9, activation="swish"), "Activation", "smooth | dearer")
SGD = Variation(("optimizer=sgd", "lr=9"), Config(steps=9, optimizer="sgd", lr=9), "Optimizer", "")


def run(variation: Variation, seed: int, ap: float, error: str = "") -> Run:
    return Run(*COMMON, variation.name, seed, 9, math.nan if error else ap, ap / 2, 10 + 20 * ap, 7.0, 300.5, error)


def runs(variation: Variation, *scores: float) -> list[Run]:
    return [run(variation, seed, ap) for seed, ap in enumerate(scores)]


# --- the CSV


def test_runs_come_back_from_the_file_as_they_went_in(tmp_path: Path) -> None:
    path = tmp_path / "compare.csv"
    assert read_runs(path, COMMON) == []
    odd = Run(*COMMON, 'scale=[0.5, 2] device="cpu"', 3, 0, 0.1234, 0.5, 1.25, 2.5, 300.0, "went 'wrong', said \"it\"")
    for wanted in (run(BASE, 0, 0.5), odd):
        add_run(path, wanted)
    assert read_runs(path, COMMON) == [run(BASE, 0, 0.5), odd]
    add_run(path, run(SGD, 1, 0, "failed"))
    assert math.isnan(read_runs(path, COMMON)[2].AP)


def test_an_empty_file_gets_its_head(tmp_path: Path) -> None:
    path = tmp_path / "compare.csv"
    path.touch()
    assert read_runs(path, COMMON) == []
    add_run(path, run(BASE, 0, 0.5))
    assert len(read_runs(path, COMMON)) == 1


@pytest.mark.parametrize(
    ("common", "message"),
    [
        (("other", *COMMON[1:]), "data was 'mine, and yours' and is now 'other'"),
        ((COMMON[0], "ffff steps=8", 2), "base was '12ab34cd steps=9' and is now 'ffff steps=8'"),
        ((*COMMON[:2], 1), "threads was '2' and is now '1'"),
    ],
)
def test_a_file_of_another_comparison_is_refused_and_left_alone(
    tmp_path: Path, common: tuple[str, str, int], message: str
) -> None:
    path = tmp_path / "compare.csv"
    add_run(path, run(BASE, 0, 0.5))
    before = path.read_bytes()
    with pytest.raises(InputError, match=rf"compare\.csv:2: {message}.*another --out"):
        read_runs(path, common)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: "image,score\n1,2\n", r"compare\.csv:1: not the runs of a comparison"),
        (lambda text: text[:-10], r"compare\.csv:3: cut off in writing"),
        (lambda text: text + "a,b\n", r"compare\.csv:4: not a run"),
        (lambda text: text.replace(",1,9,", ",one,9,"), r"compare\.csv:3: not a run \(.*'one'"),
    ],
)
def test_a_file_that_is_damaged_is_refused_with_the_line(tmp_path: Path, change: object, message: str) -> None:
    assert callable(change)
    path = tmp_path / "compare.csv"
    for each in runs(BASE, 0.5, 0.6):
        add_run(path, each)
    path.write_text(change(path.read_text()))
    with pytest.raises(InputError, match=message):
        read_runs(path, COMMON)


# --- what the runs say


def t_density(t: np.ndarray, freedom: int) -> np.ndarray:
    scale = math.gamma((freedom + 1) / 2) / (math.sqrt(freedom * math.pi) * math.gamma(freedom / 2))
    return np.asarray(scale * (1 + t**2 / freedom) ** (-(freedom + 1) / 2))


@pytest.mark.parametrize("count", range(2, 12))
def test_the_margin_is_that_of_a_95_percent_interval_by_students_t(count: int) -> None:
    numbers = np.random.default_rng(count).normal(0.01, 0.02, count)
    mean, margin = mean_and_margin(numbers.tolist())
    variance = sum((number - sum(numbers) / count) ** 2 for number in numbers) / (count - 1)
    assert mean == pytest.approx(sum(numbers) / count)
    quantile = margin / math.sqrt(variance / count)
    t = np.linspace(-quantile, quantile, 20_001)
    assert np.trapezoid(t_density(t, count - 1), t) == pytest.approx(0.95, abs=5e-4)


def test_beyond_the_table_the_margin_is_wider_than_it_had_to_be() -> None:
    _, margin = mean_and_margin([0.0, 1.0] * 50)
    assert 1.98 < margin / (np.std([0, 1] * 50, ddof=1) / 10) < 2.3


def test_too_few_numbers_have_no_margin() -> None:
    mean, margin = mean_and_margin([0.25])
    assert (mean, math.isnan(margin)) == (0.25, True)
    assert all(math.isnan(value) for value in mean_and_margin([]))


@pytest.mark.parametrize(
    ("scores", "verdict"),
    [
        ((0.60, 0.71, 0.80), "better"),
        ((0.40, 0.49, 0.60), "worse"),
        ((0.60, 0.70, 0.60), "within the noise"),
        ((0.50, 0.60, 0.70), "the same"),
        ((0.60,), "one seed: no verdict"),
        ((), "not run"),
    ],
)
def test_the_verdict_goes_by_the_differences_seed_by_seed(scores: tuple[float, ...], verdict: str) -> None:
    rows = summarize([BASE, SWISH], [*runs(BASE, 0.5, 0.6, 0.7), *runs(SWISH, *scores)])
    assert rows[0].verdict == "the base line"
    assert rows[1].verdict == verdict


def test_a_spread_that_is_the_same_for_both_hides_no_difference() -> None:
    # Each seed lies far from the others, but the variation is always a little above the base line.
    base, ours = (0.1, 0.5, 0.9), (0.121, 0.52, 0.919)
    row = summarize([BASE, SWISH], [*runs(BASE, *base), *runs(SWISH, *ours)])[1]
    assert row.spread > 0.3
    assert row.difference == pytest.approx(0.02)
    assert row.margin == pytest.approx(4.30 * 0.001 / math.sqrt(3))
    assert row.verdict == "better"


@given(st.permutations(runs(BASE, 0.5, 0.6, 0.7) + runs(SWISH, 0.4, 0.7, 0.8)))
def test_the_order_of_the_runs_does_not_matter(shuffled: list[Run]) -> None:
    rows = summarize([BASE, SWISH], shuffled)
    plain = summarize([BASE, SWISH], runs(BASE, 0.5, 0.6, 0.7) + runs(SWISH, 0.4, 0.7, 0.8))
    for row, wanted in zip(rows, plain, strict=True):
        assert pytest.approx(wanted.AP) == row.AP
        assert row.margin == pytest.approx(wanted.margin, nan_ok=True)
        assert row.verdict == wanted.verdict


def test_failed_runs_are_counted_with_their_reason_and_left_out_of_the_means() -> None:
    half = [run(SWISH, 0, 0.6), run(SWISH, 1, 0, "out of luck"), run(SGD, 0, 0, "a|b"), run(SGD, 1, 0, "c")]
    rows = summarize([BASE, SWISH, SGD], [*runs(BASE, 0.5, 0.4), *half])
    assert rows[1].AP == 0.6
    assert rows[1].difference == pytest.approx(0.1)
    assert rows[1].verdict == "one seed: no verdict; 1 of 2 failed: out of luck"
    assert math.isnan(rows[2].AP)
    assert rows[2].verdict == "2 of 2 failed: a|b"


def test_without_a_base_line_there_is_nothing_to_compare_with() -> None:
    rows = summarize([BASE, SWISH], [run(BASE, 0, 0, "broken"), *runs(SWISH, 0.5)])
    assert [row.verdict for row in rows] == ["1 of 1 failed: broken", "no base line to compare with"]
    assert "nan" not in to_text(rows) + to_markdown(rows)


def test_the_table_in_markdown_has_groups_remarks_relative_costs_and_as_many_cells_in_each_line() -> None:
    rows = summarize([BASE, SWISH, SGD], [*runs(BASE, 0.5, 0.6), *runs(SWISH, 0.6, 0.9), run(SGD, 0, 0, "a|b")])
    table, note = to_markdown(rows).split("\n\n")
    lines = table.splitlines()
    assert len({line.replace(r"\|", "").count("|") for line in lines}) == 1
    assert lines[0].endswith("| verdict | expected |")
    assert lines[2] == f"| `{BASE_LINE}` | 0.550 ± 0.071 | 0.275 |  | 21 s | 300 MB | the base line |  |"
    assert lines[3].startswith("| **Activation** |")
    numbers = "0.750 ± 0.212 | 0.375 | +0.200 ± 1.271 | 1.19 | 1.00"
    assert lines[4] == rf"| `activation=swish` | {numbers} | within the noise | smooth \| dearer |"
    assert lines[6] == r"| `optimizer=sgd lr=9` |  |  |  |  |  | 1 of 1 failed: a\|b |  |"
    assert "95 %" in note
    plain = [replace(row, variation=replace(row.variation, remark="")) for row in rows]
    assert to_markdown(plain).splitlines()[0].endswith("| verdict |")


def test_the_table_for_the_terminal_is_in_columns_and_names_the_highest() -> None:
    rows = summarize([BASE, SWISH], [*runs(BASE, 0.5, 0.6), *runs(SWISH, 0.6, 0.8)])
    head, base, group, swish, empty, highest, *_ = to_text(rows).splitlines()
    assert (group, empty) == ("[Activation]", "")
    assert head.index("verdict") == base.index("the base line") == swish.index("within the noise")
    assert highest.startswith("Highest AP: activation=swish, 0.700")
