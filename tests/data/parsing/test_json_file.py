import json
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from detector.data.parsing.json_file import Key, find_lines, read_json_file

VALUES = st.recursive(
    st.none() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3),
    max_leaves=10,
)


def at(value: Any, keys: tuple[Key, ...]) -> Any:
    for key in keys:
        value = value[key]
    return value


@given(VALUES, st.integers(0, 3))
def test_each_found_line_starts_with_its_element(value: Any, indent: int) -> None:
    text = json.dumps(value, indent=indent)
    lines = find_lines(text, ("*", "*", "*"))
    expected = sum(1 for _ in walk(value, 3))
    assert len(lines) == expected
    for keys, line in lines.items():
        first = json.dumps(at(value, keys), indent=indent).split("\n")[0]
        start = text.split("\n")[line - 1].strip().rstrip(",")
        prefix = f"{json.dumps(keys[-1])}: " if isinstance(keys[-1], str) else ""
        assert start == prefix + first


def walk(value: Any, depth: int) -> Any:
    """Yield the path of every element down to a depth."""
    if isinstance(value, list | dict) and depth:
        for key in value if isinstance(value, dict) else range(len(value)):
            yield (key,)
            yield from ((key, *rest) for rest in walk(value[key], depth - 1))


def test_only_elements_of_the_pattern_are_found(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"a": [\n{"b": [1,\n2], "c": [3]}],\n"d": [4]}')
    file = read_json_file(path, ("a", "*", "b", "*"))
    assert dict(file.lines) == {("a",): 1, ("a", 0): 2, ("a", 0, "b"): 2, ("a", 0, "b", 0): 2, ("a", 0, "b", 1): 3}
    assert file.line("d") is None


def test_json_on_one_line_has_no_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("[[1]]\n")
    assert read_json_file(path, ("*",)).line(0) is None
