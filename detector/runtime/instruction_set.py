"""The instruction set of the CPU, as far as int8 inference depends on it. This module does not import torch.

x86 CPUs without VNNI add the products of two int8 weights and two activations in 16 bits. With weights of all 8 bits,
this sum can overflow; ONNX Runtime and OpenVINO then clip it without an error, and the detections become worse.
"""

import platform
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from detector.graph.metadata import GraphInfo, warn_once

_CPU_INFO = Path("/proc/cpuinfo")

_VNNI = frozenset({"avx512_vnni", "avx_vnni", "amx_int8"})
"""Flags in /proc/cpuinfo of instructions that add int8 products in 32 bits."""


@dataclass(frozen=True)
class InstructionSet:
    """The instruction set of a CPU.

    Attributes:
        name: architecture and extensions, such as "x86_64 with AVX2" or "arm64".
        sums_int8_exactly: whether sums of int8 products with weights of all 8 bits are exact; None: unknown, as on x86
            outside of Linux.
    """

    name: str
    sums_int8_exactly: bool | None

    def __str__(self) -> str:
        return self.name


@lru_cache(maxsize=1)
def instruction_set() -> InstructionSet:
    """Return the instruction set of this machine."""
    return parse_cpu_info(platform.machine(), read_cpu_info())


def read_cpu_info() -> str:
    """Return the content of /proc/cpuinfo, or an empty text on systems other than Linux."""
    try:
        return _CPU_INFO.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def cpu_flags(cpu_info: str) -> frozenset[str]:
    r"""Return the names of the instruction sets in the content of /proc/cpuinfo; empty if there are none.

    >>> sorted(cpu_flags("processor : 0\nflags : avx avx2\n")), cpu_flags("")
    (['avx', 'avx2'], frozenset())
    """
    line = re.search(r"^(?:flags|Features)\s*: (.*)$", cpu_info, re.MULTILINE)
    return frozenset(line[1].split()) if line else frozenset()


def parse_cpu_info(architecture: str, cpu_info: str) -> InstructionSet:
    """Return the instruction set of a machine.

    Args:
        architecture: architecture as `platform.machine()` names it.
        cpu_info: content of /proc/cpuinfo; "": unknown.

    >>> parse_cpu_info("x86_64", "flags : sse4_1 avx avx2 avx512f avx512_vnni")
    InstructionSet(name='x86_64 with AVX2, AVX-512, VNNI', sums_int8_exactly=True)
    """
    if architecture.lower() not in ("x86_64", "amd64", "i386", "i686", "x86"):
        # The int8 kernels for ARM add in 32 bits, with or without the dot product instructions.
        return InstructionSet(architecture or "unknown", True if architecture.lower() in ("arm64", "aarch64") else None)
    flags = cpu_flags(cpu_info)
    if not flags:
        return InstructionSet(architecture, None)
    known = {"AVX2": "avx2" in flags, "AVX-512": "avx512f" in flags, "VNNI": bool(flags & _VNNI)}
    extensions = ", ".join(name for name, is_there in known.items() if is_there) or "SSE"
    return InstructionSet(f"{architecture} with {extensions}", known["VNNI"])


def warn_if_inexact(graph_info: GraphInfo, source: str) -> None:
    """Log a warning if an int8 export may give worse detections on this CPU than on others.

    Args:
        graph_info: properties of the graph.
        source: name of the file or folder, for the message.
    """
    cpu = instruction_set()
    if graph_info.int8 and graph_info.int8_weight_bits == 8 and cpu.sums_int8_exactly is False:
        warn_once(
            f"{source}: this int8 export uses all 8 bits of the weights, and on this CPU ({cpu}) sums of int8 products "
            "can overflow: the detections are worse than those of the weights. Export again without --int8-full-range"
        )
