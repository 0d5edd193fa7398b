import itertools
import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detector.comparing.variations import BASELINE, Variation, read_variations
from detector.config import Config, override
from detector.errors import InputError

BASE = Config(steps=100)
EFFECTS = Path(__file__).parents[2] / "configs" / "effects.txt"


def names(*specs: str, trials: int = 10) -> list[str]:
    """Return the names of all variations that the specs describe, except the baseline."""
    first, *others = read_variations(specs, BASE, trials)
    assert first == Variation((), BASE)
    assert first.name == BASELINE
    return [variation.name for variation in others]


def write_list(folder: Path, text: str) -> str:
    path = folder / "list.txt"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_variations_from_arguments_and_files_keep_their_order(tmp_path: Path) -> None:
    text = "\n# a comment\n[ Activation ]\nactivation=swish  # smooth, slower\n\n[]\nema = 0   flip=0\n"
    variations = read_variations(["seed=0 lr_decay_start=0", write_list(tmp_path, text), "lr=1e-3"], BASE)
    found = [(variation.settings, variation.group, variation.remark) for variation in variations]
    assert found == [
        ((), "", ""),
        (("seed=0", "lr_decay_start=0"), "", ""),
        (("activation=swish",), "Activation", "smooth, slower"),
        (("ema=0", "flip=0"), "", ""),
        (("lr=1e-3",), "", ""),
    ]
    for variation in variations:
        assert variation.config == override(BASE, variation.settings)


def test_values_may_contain_spaces() -> None:
    assert names("scale=[0.5,  2] flip=0") == ["scale=[0.5, 2] flip=0"]


def test_without_specs_only_the_baseline_is_returned() -> None:
    assert names() == []


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("activation=swihs", "activation: expected relu or"),
        ("epocs=3", "unknown setting 'epocs': did you mean 'epochs'"),
        ("flip=2", "flip: must be from 0 to 1"),
        ("flip", "--set flip: expected key=value"),
        ("flip=0 nothing lr=1", "flip: expected a number, got '0 nothing'"),
        ("seed=1", "seed cannot vary: all variations use the same seeds"),
        ("epochs=3", "minutes, epochs, steps: set only one of them"),
        ("steps=null", "the same number of steps"),
        ("steps=null minutes=3", "the same number of steps"),
        ("lr={0.1", "the value is not valid YAML"),
        ("lr=0.2..0.1", r"lr=0\.2\.\.0\.1: expected a range from a smaller to a larger number"),
        ("lr=log:0..0.1", "after `log:` both must be above 0"),
        ("activation=1..3", "activation: expected relu or"),
    ],
)
def test_invalid_line_is_refused_with_its_place(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(InputError, match=rf"list\.txt:3: .*{message}"):
        read_variations([write_list(tmp_path, f"ema=0\n\n{line}\n")], BASE)


def test_invalid_spec_is_refused_and_named() -> None:
    with pytest.raises(InputError, match=r"'lr=x': lr: expected auto or a number"):
        read_variations(["ema=0", "lr=x"], BASE)
    with pytest.raises(InputError, match=r"'missing\.txt': no such file; expected key=value, or a file"):
        read_variations(["missing.txt"], BASE)


@pytest.mark.parametrize("base", [Config(), Config(minutes=5)])
def test_baseline_without_a_fixed_number_of_steps_is_refused(base: Config) -> None:
    with pytest.raises(InputError, match="set steps or epochs"):
        read_variations(["ema=0"], base)


def test_equal_configurations_are_kept_once() -> None:
    assert names("activation={relu,swish}", "activation=swish", "lr={0.1,1e-1}") == ["activation=swish", "lr=0.1"]


# --- grids


lists = st.lists(st.integers(1, 50), min_size=1, max_size=3, unique=True)


@settings(max_examples=8)
@given(lists, lists)
def test_grid_is_every_combination(batches: list[int], steps: list[int]) -> None:
    text = f"batch={{{', '.join(map(str, batches))}}} assign_top_k=3 steps={{{','.join(map(str, steps))}}}"
    expected = [f"batch={b} assign_top_k=3 steps={s}" for b, s in itertools.product(batches, steps)]
    assert names(text) == expected


def test_braces_may_contain_lists_settings_and_parts_of_values() -> None:
    assert names("input_size={320,[64, 96]}") == ["input_size=320", "input_size=[64, 96]"]
    assert names("scale=[{0.5,0.7}, 2]") == ["scale=[0.5, 2]", "scale=[0.7, 2]"]
    assert names("{optimizer=adam,optimizer=sgd lr=0.2}") == ["optimizer=adam", "optimizer=sgd lr=0.2"]


# --- random numbers


def test_draws_repeat_and_more_trials_extend_them() -> None:
    few, many = (
        names("lr=log:1e-3..0.1 lr_decay_start=0..1", trials=5),
        names("ema=0", "lr=log:1e-3..0.1 lr_decay_start=0..1", trials=9),
    )
    assert few == many[1:6]
    assert len(set(many)) == 10


def test_each_number_is_drawn_independently() -> None:
    scales = [variation.config.scale for variation in read_variations(["scale=[0.5..1, 1..2]"], BASE, 10)[1:]]
    assert all(0.5 <= low <= 1 <= high <= 2 for low, high in scales)
    assert all(high - 1 != pytest.approx(2 * (low - 0.5), abs=1e-3) for low, high in scales)


def test_ranges_are_drawn_at_each_point_of_a_grid() -> None:
    assert len(names("optimizer={adam,sgd} lr=log:0.001..0.1", trials=4)) == 8


@pytest.mark.parametrize(("text", "middle"), [("lr=1..9", 5.0), ("lr=log:1..9", 3.0), ("lr=log:.5..2e0", 1.0)])
def test_half_the_draws_are_below_the_middle_of_the_range(text: str, middle: float) -> None:
    drawn = [float(name.removeprefix("lr=")) for name in names(text, trials=40)]
    assert 0.3 < sum(value < middle for value in drawn) / len(drawn) < 0.7


@pytest.mark.parametrize("text", ["batch=1..4", "batch=log:1..4"])
def test_integer_settings_are_drawn_as_integers_with_both_ends(text: str) -> None:
    assert sorted(names(text, trials=30)) == ["batch=1", "batch=2", "batch=3", "batch=4"]


@settings(max_examples=10)
@given(st.floats(1e-6, 10), st.floats(1.01, 100), st.booleans())
def test_draws_stay_within_their_range(low: float, factor: float, is_log: bool) -> None:
    low, high = float(f"{low:.4g}"), float(f"{low * factor:.4g}")
    for name in names(f"lr={'log:' * is_log}{low}..{high}" if low < high else "lr=1", trials=3):
        value = float(name.removeprefix("lr="))
        assert low <= value <= high or math.isclose(value, 1)


# --- configs/effects.txt


@pytest.fixture(scope="module")
def effects() -> list[Variation]:
    return read_variations([str(EFFECTS)], BASE)[1:]


def test_each_effect_has_a_group_and_an_expectation(
    effects: list[Variation],
) -> None:
    assert len({variation.name for variation in effects}) == len(effects) > 60
    for variation in effects:
        assert variation.group
        assert variation.remark


def test_effects_include_every_choice_of_every_switch(effects: list[Variation]) -> None:
    changed = {setting for variation in effects for setting in variation.settings}
    for key, choices in {
        "activation": "identity sigmoid tanh hard_sigmoid leaky_relu prelu elu swish hard_swish",
        "norm": "group none",
        "downsample": "max_pool avg_pool",
        "padding": "valid",
        "init": "xavier lecun normal",
        "input": "pca zca",
        "optimizer": "adamw adam rmsprop momentum sgd",
        "lr_schedule": "cosine step inverse exponential root_epoch root_step",
        "class_loss": "sigmoid softmax",
        "suppression": "soft diou weighted",
        "head": "yolo_v1",
    }.items():
        assert {f"{key}={choice}" for choice in choices.split()} <= changed
