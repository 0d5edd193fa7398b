"""Random bytes and mutated files for a few seconds: an answer or an InputError, nothing else; more: `tools/fuzz.py`."""

import importlib.util
import random
import sys
import warnings
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("fuzz_tool", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


fuzz = load(Path(__file__).parents[1] / "tools" / "fuzz.py")
TARGETS = [name for name in fuzz.TARGETS if name != "onnx"]  # slow; see tests/test_bad_input.py


@pytest.mark.parametrize("name", TARGETS)
def test_a_reader_answers_or_says_what_is_wrong(name: str, tmp_path: Path) -> None:
    seeds, run = fuzz.TARGETS[name](tmp_path)
    contents = st.binary(max_size=200) | st.integers(0, 2**32).map(
        lambda number: fuzz.mutate(random.Random(number).choice(seeds), seeds, random.Random(number))
    )

    @settings(max_examples=60)
    @given(contents)
    def survives(content: bytes) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's, of odd tags
            run(content)

    for seed in seeds:
        run(seed)
    survives()


def test_what_fails_is_kept_once_with_its_traceback(tmp_path: Path) -> None:
    def fails(content: bytes) -> None:
        raise KeyError(content)

    watch = fuzz.Watch(fails, tmp_path)
    for content in (b"one", b"two"):
        watch(content)
    [finding] = watch.findings
    assert finding.startswith("KeyError-test_fuzz-")
    assert (tmp_path / f"{finding}.bin").read_bytes() == b"one"
    assert "KeyError: b'one'" in (tmp_path / f"{finding}.txt").read_text()
    assert watch.executions == 2
