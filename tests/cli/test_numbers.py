"""Numbers on the command line: what is not understood is refused with what was probably meant."""

from argparse import ArgumentTypeError

import pytest

from detector.cli.numbers import count, fraction, number, whole
from detector.cli.parser import COMMANDS, make_parser


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("0,4", "write 0.4"),
        ("40", "for 40 % write 0.4"),
        ("40%", "write 0.4"),
        ("12.5 %", "write 0.125"),
        ("-0.1", "0 to 1"),
    ],
)
def test_decimal_comma_and_percent_get_a_hint(text: str, hint: str) -> None:
    with pytest.raises(ArgumentTypeError, match=hint):
        fraction(text)


@pytest.mark.parametrize(
    "text", ["nan", "inf", "-inf", "1e999", "٣", "٠.٤", "½", "", " ", "0.4.5", "0x1", "1e", "a" * 9999]
)
def test_text_that_is_no_finite_number_is_refused(text: str) -> None:
    for kind in (number, fraction, whole, count):
        with pytest.raises(ArgumentTypeError) as error:
            kind(text)
        assert len(str(error.value)) < 120


@pytest.mark.parametrize(
    ("text", "hint"), [("1,000", "write 1000"), ("1.5", "whole"), ("9" * 5000, "whole"), ("1e3", "whole")]
)
def test_text_that_is_no_whole_number_is_refused(text: str, hint: str) -> None:
    with pytest.raises(ArgumentTypeError, match=hint):
        whole(text)


@pytest.mark.parametrize("text", ["0.4", ".4", "1.", "4e-1", "+0.4", " 0.4 ", "0", "1", "1_0e-1"])
def test_numbers_as_python_writes_them_are_accepted(text: str) -> None:
    assert number(text) == float(text)
    assert fraction(text) == float(text)


@pytest.mark.parametrize("text", ["1", "50_000_000", "+3", " 7 "])
def test_whole_numbers_as_python_writes_them_are_accepted(text: str) -> None:
    assert whole(text) == count(text) == int(text)


def test_every_numeric_argument_uses_these_types() -> None:
    parser = make_parser()
    commands = next(action.choices for action in parser._actions if action.dest == "command")
    assert isinstance(commands, dict)
    assert commands.keys() == COMMANDS.keys()
    types = {action.type for command in commands.values() for action in command._actions}
    assert not types & {int, float}
    assert {number, fraction, whole, count} <= types
