import ast
import pickle
import unicodedata
from pathlib import Path

import pytest

from detector.errors import FileError, InputError
from detector.escaping import cell, columns, escape, escape_line

BIDIRECTIONAL = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
CONTROL = [chr(code) for code in range(0x110000) if unicodedata.category(chr(code)) in ("Cc", "Zl", "Zp", "Cs")]


@pytest.mark.parametrize("sign", [*CONTROL[:65], *CONTROL[65::97], *BIDIRECTIONAL, "\ufeff", "\u200b", "\U000e0041"])
def test_control_characters_become_visible_escapes(sign: str) -> None:
    text = escape_line(f"a{sign}b")
    assert text == f"a{sign.encode('unicode_escape').decode()}b"
    assert text.isprintable()
    assert escape(f"a{sign}b") == (f"a{sign}b" if sign in "\t\n" else text)


@pytest.mark.parametrize(
    "name",
    [
        "Zelle ä.png",
        "细胞",
        "خلية",
        "Клетка",
        "कोशिका",
        "\u0645\u06cc\u200c\u0634\u0648\u062f",
        "👩\u200d🔬",
        "C:\\new\\x1b",
        "a\u00a0b",
    ],
)
def test_names_in_any_script_stay_readable(name: str) -> None:
    assert escape(name) == escape_line(name) == name


def test_message_of_an_error_is_escaped_and_keeps_the_name() -> None:
    error = FileError("a\x1b[2J\nb.png: no such file", "  look elsewhere")
    assert str(error) == "a\\x1b[2J\\nb.png: no such file\n  look elsewhere"
    assert error.args[0] == "a\x1b[2J\nb.png: no such file"
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_message_of_an_error_fits_on_a_screen() -> None:
    text = str(InputError(f"{'name' * 9999}: not found; use another one"))
    assert len(text) < 2100
    assert text.startswith("namename")
    assert text.endswith("name: not found; use another one")


def test_cells_of_a_table_have_equal_widths() -> None:
    names = ["red", "细胞", "e\u0301", "\x1b[2J", "long" * 9, "细" * 30]
    cells = [cell(name, 12) for name in names]
    assert {columns(text) for text in cells} == {12}
    assert cells[0] == "red         "
    assert cells[1] == "细胞        "
    assert cells[3] == "\\x1b[2J     "
    assert cells[4] == "longlongl..."


PACKAGE = Path(__file__).parents[1] / "detector"


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_lines_of_an_error_are_separate_arguments(path: Path) -> None:
    """A line break inside of an argument is shown as an escape, because it may come from a name."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id.endswith("Error"):
            for part in ast.walk(node):
                text = part.value if isinstance(part, ast.Constant) else None
                assert not (isinstance(text, str) and len(text) > 1 and "\n" in text), f"{path}:{node.lineno}: {text!r}"


def test_progress_bars_are_made_in_one_place() -> None:
    makers = [path.name for path in PACKAGE.rglob("*.py") if " tqdm(" in path.read_text(encoding="utf-8")]
    assert makers == ["progress.py"]
