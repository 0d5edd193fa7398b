"""Fuzz all file readers for a few seconds: each reader returns a value or raises InputError.

`tools/fuzz.py` does the same for longer.
"""

import importlib.util
import random
import sys
import warnings
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st


def import_file(path: Path) -> ModuleType:
    """Import a Python file that is not in a package, and return its module."""
    spec = importlib.util.spec_from_file_location("fuzz_tool", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


fuzz = import_file(Path(__file__).parents[1] / "tools" / "fuzz.py")
TARGETS = [name for name in fuzz.TARGETS if name != "onnx"]  # slow; tests/test_bad_input.py tests damaged ONNX files


@pytest.mark.parametrize("name", TARGETS)
def test_reader_returns_or_raises_input_error(name: str, tmp_path: Path) -> None:
    seeds, run = fuzz.TARGETS[name](tmp_path)
    contents = st.binary(max_size=200) | st.integers(0, 2**32).map(
        lambda number: fuzz.mutate(random.Random(number).choice(seeds), seeds, random.Random(number))
    )

    @settings(max_examples=60)
    @given(contents)
    def reads(content: bytes) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # for example, Pillow warns about unusual tags
            run(content)

    for seed in seeds:
        run(seed)
    reads()


def test_each_failure_is_saved_once_with_its_traceback(tmp_path: Path) -> None:
    def fails(content: bytes) -> None:
        raise KeyError(content)

    monitor = fuzz.Monitor(fails, tmp_path)
    for content in (b"one", b"two"):
        monitor(content)
    [finding] = monitor.findings
    assert finding.startswith("KeyError-test_fuzz-")
    assert (tmp_path / f"{finding}.bin").read_bytes() == b"one"
    assert "KeyError: b'one'" in (tmp_path / f"{finding}.txt").read_text()
    assert monitor.executions == 2
