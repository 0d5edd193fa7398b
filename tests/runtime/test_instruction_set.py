"""The instruction set is read from /proc/cpuinfo, and full-range int8 files cause a warning where sums overflow."""

import logging

import pytest

from detector.graph.metadata import GraphInfo, warn_once
from detector.runtime import instruction_set as module
from detector.runtime.instruction_set import InstructionSet, instruction_set, parse_cpu_info, warn_if_inexact

AVX2 = "processor : 0\nflags\t\t: fpu sse4_2 avx avx2 bmi2\nbugs :\n"


@pytest.mark.parametrize(
    ("architecture", "cpu_info", "expected"),
    [
        ("x86_64", AVX2, InstructionSet("x86_64 with AVX2", False)),
        ("x86_64", AVX2.replace("bmi2", "avx512f avx512bw"), InstructionSet("x86_64 with AVX2, AVX-512", False)),
        ("x86_64", AVX2.replace("bmi2", "avx_vnni"), InstructionSet("x86_64 with AVX2, VNNI", True)),
        (
            "x86_64",
            AVX2.replace("bmi2", "avx512f avx512_vnni"),
            InstructionSet("x86_64 with AVX2, AVX-512, VNNI", True),
        ),
        ("x86_64", "flags : fpu sse2\n", InstructionSet("x86_64 with SSE", False)),
        ("AMD64", "", InstructionSet("AMD64", None)),  # Windows
        ("arm64", "", InstructionSet("arm64", True)),
        ("aarch64", "Features : fp asimd\n", InstructionSet("aarch64", True)),
        ("riscv64", "", InstructionSet("riscv64", None)),
    ],
)
def test_instruction_sets_are_recognized(architecture: str, cpu_info: str, expected: InstructionSet) -> None:
    assert parse_cpu_info(architecture, cpu_info) == expected


def test_this_machine_has_an_instruction_set() -> None:
    assert instruction_set().name


@pytest.mark.parametrize(
    ("graph_info", "exact", "warns"),
    [
        (GraphInfo(int8=True), False, True),
        (GraphInfo(int8=True), True, False),
        (GraphInfo(int8=True), None, False),
        (GraphInfo(int8=True, int8_weight_bits=7), False, False),
        (GraphInfo(), False, False),
    ],
)
def test_full_range_int8_warns_where_sums_overflow(
    graph_info: GraphInfo,
    exact: bool | None,
    warns: bool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    warn_once.cache_clear()
    caplog.set_level(logging.WARNING)
    monkeypatch.setattr(module, "instruction_set", lambda: InstructionSet("x86_64 with AVX2", exact))
    warn_if_inexact(graph_info, "m.onnx")
    assert [record.message.partition(":")[0] for record in caplog.records] == ["m.onnx"] * warns
