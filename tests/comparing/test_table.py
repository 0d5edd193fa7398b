import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detector.comparing.table import (
    Conditions,
    RunRecord,
    read_runs,
    summarize,
    to_csv,
    to_markdown,
    to_text,
)
from detector.comparing.variations import BASELINE, Variation
from detector.config import Config
from detector.errors import InputError
from detector.metrics.seeds import ApHalves

CONDITIONS = Conditions("mine, and yours", "12ab34cd steps=9", 2)
BASE = Variation((), Config(steps=9))
SWISH = Variation(("activation=swish",), Config(steps=9, activation="swish"), "Activation", "smooth | slower")
SGD = Variation(("optimizer=sgd", "lr=9"), Config(steps=9, optimizer="sgd", lr=9), "Optimizer", "")


def make_run(settings: str, seed: int, ap: float, error: str = "") -> RunRecord:
    return RunRecord(
        data=CONDITIONS.data,
        base=CONDITIONS.base,
        threads=CONDITIONS.threads,
        settings=settings,
        seed=seed,
        steps=9,
        AP=math.nan if error else ap,
        AP50=ap / 2,
        cpu_seconds=10 + 20 * ap,
        wall_seconds=7.0,
        peak_mb=300.5,
        error=error,
    )


def run(variation: Variation, seed: int, ap: float, error: str = "") -> RunRecord:
    return make_run(variation.name, seed, ap, error)


def runs(variation: Variation, *scores: float) -> list[RunRecord]:
    """Return one run of the variation per AP in `scores`, with the seeds 0, 1, ..."""
    return [run(variation, seed, ap) for seed, ap in enumerate(scores)]


# --- the CSV


def test_runs_read_from_the_file_equal_those_written(tmp_path: Path) -> None:
    path = tmp_path / "compare.csv"
    assert read_runs(path, CONDITIONS) == []
    unusual = replace(
        make_run('scale=[0.5, 2] device="cpu"', 3, 0.1234),
        steps=0,
        AP50=0.5,
        cpu_seconds=1.25,
        wall_seconds=2.5,
        peak_mb=300.0,
        error="an 'error' with \"quotes\", and a comma",
    )
    records = [run(BASE, 0, 0.5), unusual]
    path.write_bytes(to_csv(records))
    assert read_runs(path, CONDITIONS) == records
    path.write_bytes(to_csv([*records, run(SGD, 1, 0, "failed")]))
    assert math.isnan(read_runs(path, CONDITIONS)[2].AP)


def test_empty_file_has_no_runs(tmp_path: Path) -> None:
    path = tmp_path / "compare.csv"
    path.touch()
    assert read_runs(path, CONDITIONS) == []


@pytest.mark.parametrize(
    ("conditions", "message"),
    [
        (replace(CONDITIONS, data="other"), "data was 'mine, and yours' and is now 'other'"),
        (replace(CONDITIONS, base="ffff steps=8"), "base was '12ab34cd steps=9' and is now 'ffff steps=8'"),
        (replace(CONDITIONS, threads=1), "threads was '2' and is now '1'"),
    ],
)
def test_file_of_another_comparison_is_refused_and_unchanged(
    tmp_path: Path, conditions: Conditions, message: str
) -> None:
    path = tmp_path / "compare.csv"
    path.write_bytes(to_csv([run(BASE, 0, 0.5)]))
    before = path.read_bytes()
    with pytest.raises(InputError, match=rf"compare\.csv:2: {message}.*another --out"):
        read_runs(path, conditions)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: "image,score\n1,2\n", r"compare\.csv:1: the first line is not the header"),
        (lambda text: text[:-10], r"compare\.csv:3: the line is incomplete"),
        (lambda text: text + "a,b\n", r"compare\.csv:4: the line is not a valid run"),
        (lambda text: text.replace(",1,9,", ",one,9,"), r"compare\.csv:3: the line is not a valid run \(.*'one'"),
        (lambda text: text.replace(",0.6,", ",inf,"), r"compare\.csv:3: the line is not a valid run \(AP inf"),
        (lambda text: text.replace(",0.6,", ",nan,"), r"compare\.csv:3: the line is not a valid run \(AP nan"),
        (lambda text: text.replace(",300.5,", ",-1,"), r"compare\.csv:2: the line is not a valid run \(a negative"),
        (lambda text: "x" * 200_000, r"compare\.csv: not a table that"),
    ],
)
def test_damaged_file_is_refused_with_its_line(tmp_path: Path, change: object, message: str) -> None:
    assert callable(change)
    path = tmp_path / "compare.csv"
    path.write_bytes(to_csv(runs(BASE, 0.5, 0.6)))
    path.write_text(change(path.read_text()))
    with pytest.raises(InputError, match=message):
        read_runs(path, CONDITIONS)


# --- the summary


def t_density(t: np.ndarray, freedom: int) -> np.ndarray:
    scale = math.gamma((freedom + 1) / 2) / (math.sqrt(freedom * math.pi) * math.gamma(freedom / 2))
    return np.asarray(scale * (1 + t**2 / freedom) ** (-(freedom + 1) / 2))


@pytest.mark.parametrize("count", range(2, 12))
def test_interval_of_seeds_is_the_95_percent_t_interval(count: int) -> None:
    numbers = np.random.default_rng(count).normal(0.01, 0.02, count)
    rows = summarize([BASE, SWISH], [*runs(BASE, *[0.5] * count), *runs(SWISH, *(0.5 + numbers))])
    interval = rows[1].difference.seeds_only
    assert interval is not None
    mean, margin = (interval.low + interval.high) / 2, (interval.high - interval.low) / 2
    variance = sum((number - sum(numbers) / count) ** 2 for number in numbers) / (count - 1)
    assert mean == pytest.approx(sum(numbers) / count)
    quantile = margin / math.sqrt(variance / count)
    t = np.linspace(-quantile, quantile, 20_001)
    assert np.trapezoid(t_density(t, count - 1), t) == pytest.approx(0.95, abs=5e-4)


def halves(*scores: float, seed: int = 0) -> dict[tuple[str, int], ApHalves]:
    """Return AP on halves of images that vary by about 0.02, for runs of SWISH with these AP and of BASE with 0.5."""
    noise = np.concatenate([[0.0], np.random.default_rng(seed).normal(0, 0.02, 200)])
    own = {(SWISH.name, seed): ApHalves("val", 80, ap + noise) for seed, ap in enumerate(scores)}
    return own | {(BASELINE, seed): ApHalves("val", 80, np.full(201, 0.5)) for seed in range(len(scores))}


def test_intervals_for_seeds_and_for_images_are_in_the_table() -> None:
    scores = (0.520, 0.521, 0.522)
    records = [*runs(BASE, 0.5, 0.5, 0.5), *runs(SWISH, *scores)]
    row = summarize([BASE, SWISH], records, halves(*scores))[1]
    assert row.difference.covers == "seeds and images"
    assert row.verdict.startswith("cannot tell; about ")
    assert row.verdict.endswith("val images would, more seeds would not")
    table = to_markdown(summarize([BASE, SWISH], records, halves(*scores)))
    assert "| +0.021 | [+0.019, +0.023] | [-0.0" in table
    row = summarize([BASE, SWISH], records)[1]
    assert (row.difference.covers, row.verdict) == ("seeds", "better, on these val images")
    assert "| +0.021 | [+0.019, +0.023] |  |" in to_markdown([row, row])


def test_interval_of_one_seed_covers_images_only() -> None:
    rows = summarize([BASE, SWISH], [*runs(BASE, 0.5), *runs(SWISH, 0.7)], halves(0.7))
    assert rows[1].verdict == "cannot tell from one seed"
    assert "| +0.200 |  | [+0.1" in to_markdown(rows)
    assert "] (images only) |" in to_markdown(rows)


@pytest.mark.parametrize(
    ("scores", "verdict"),
    [
        ((0.60, 0.71, 0.80), "better, on these val images"),
        ((0.40, 0.49, 0.60), "worse, on these val images"),
        ((0.60, 0.70, 0.60), "cannot tell; about 96 seeds would, on these val images"),
        ((0.50, 0.60, 0.70), "the same"),
        ((0.60,), "cannot tell from one seed"),
        ((), "not run"),
    ],
)
def test_verdict_follows_the_differences_with_equal_seeds(scores: tuple[float, ...], verdict: str) -> None:
    rows = summarize([BASE, SWISH], [*runs(BASE, 0.5, 0.6, 0.7), *runs(SWISH, *scores)])
    assert rows[0].verdict == "baseline"
    assert rows[1].verdict == verdict


def test_seed_effects_common_to_both_hide_no_difference() -> None:
    # AP differs a lot between seeds, but with each seed the variation is slightly better than the baseline.
    baseline, variation = (0.1, 0.5, 0.9), (0.121, 0.52, 0.919)
    row = summarize([BASE, SWISH], [*runs(BASE, *baseline), *runs(SWISH, *variation)])[1]
    assert row.std > 0.3
    margin = 4.3027 * 0.001 / math.sqrt(3)
    assert row.difference.value == pytest.approx(0.02)
    assert row.difference.seeds_only is not None
    assert row.difference.seeds_only.to_json() == pytest.approx([0.02 - margin, 0.02 + margin])
    assert row.verdict == "better, on these val images"


@given(st.permutations(runs(BASE, 0.5, 0.6, 0.7) + runs(SWISH, 0.4, 0.7, 0.8)))
def test_order_of_the_runs_does_not_matter(shuffled: list[RunRecord]) -> None:
    rows = summarize([BASE, SWISH], shuffled)
    in_order = summarize([BASE, SWISH], runs(BASE, 0.5, 0.6, 0.7) + runs(SWISH, 0.4, 0.7, 0.8))
    for row, expected in zip(rows, in_order, strict=True):
        assert pytest.approx(expected.AP) == row.AP
        assert row.difference.value == pytest.approx(expected.difference.value, nan_ok=True)
        assert row.verdict == expected.verdict


def test_failed_runs_are_counted_but_not_averaged() -> None:
    half = [run(SWISH, 0, 0.6), run(SWISH, 1, 0, "out of luck"), run(SGD, 0, 0, "a|b"), run(SGD, 1, 0, "c")]
    rows = summarize([BASE, SWISH, SGD], [*runs(BASE, 0.5, 0.4), *half])
    assert rows[1].AP == 0.6
    assert rows[1].difference.value == pytest.approx(0.1)
    assert rows[1].verdict == "cannot tell from one seed; 1 of 2 failed: out of luck"
    assert math.isnan(rows[2].AP)
    assert rows[2].verdict == "2 of 2 failed: a|b"


def test_without_objects_in_val_nothing_is_the_same() -> None:
    row = summarize([BASE, SWISH], [*runs(BASE, -1, -1), *runs(SWISH, -1, -1)])[1]
    assert row.verdict == "cannot tell, because val has no objects"
    assert math.isnan(row.difference.value)


def test_without_a_baseline_nothing_is_compared() -> None:
    rows = summarize([BASE, SWISH], [run(BASE, 0, 0, "broken"), *runs(SWISH, 0.5)])
    assert [row.verdict for row in rows] == ["1 of 1 failed: broken", "no baseline to compare with"]
    assert "nan" not in to_text(rows) + to_markdown(rows)


def test_markdown_table_has_groups_remarks_and_relative_costs() -> None:
    rows = summarize([BASE, SWISH, SGD], [*runs(BASE, 0.5, 0.6), *runs(SWISH, 0.6, 0.9), run(SGD, 0, 0, "a|b")])
    table, note = to_markdown(rows).split("\n\n")
    lines = table.splitlines()
    assert len({line.replace(r"\|", "").count("|") for line in lines}) == 1
    assert lines[0].endswith("| verdict | expected |")
    assert lines[2] == f"| `{BASELINE}` | 0.550 ± 0.071 | 0.275 |  |  |  | 21 s | 300 MB | baseline |  |"
    assert lines[3].startswith("| **Activation** |")
    numbers = "0.750 ± 0.212 | 0.375 | +0.200 | [-1.000, +1.000] |  | 1.19 | 1.00"
    verdict = "cannot tell; about 6 seeds would, on these val images"
    assert lines[4] == rf"| `activation=swish` | {numbers} | {verdict} | smooth \| slower |"
    assert lines[6] == r"| `optimizer=sgd lr=9` |  |  |  |  |  |  |  | 1 of 1 failed: a\|b |  |"
    assert "95 %" in note
    without_remarks = [replace(row, variation=replace(row.variation, remark="")) for row in rows]
    assert to_markdown(without_remarks).splitlines()[0].endswith("| verdict |")


def test_terminal_table_is_aligned_and_names_the_highest_ap() -> None:
    rows = summarize([BASE, SWISH], [*runs(BASE, 0.5, 0.6), *runs(SWISH, 0.6, 0.8)])
    header, baseline, group, swish, empty, highest, *_ = to_text(rows).splitlines()
    assert (group, empty) == ("[Activation]", "")
    assert header.index("verdict") == baseline.rindex("baseline") == swish.index("cannot tell")
    assert highest.startswith("Highest AP: activation=swish, 0.700")
