"""Facts about this machine and the installed packages, without names of users or computers, and without paths."""

import os
import platform
import re
import sys
from importlib.metadata import PackageNotFoundError, version

from detector.graph.no_telemetry import import_onnxruntime, openvino_core
from detector.runtime.instruction_set import cpu_flags, read_cpu_info
from detector.threads import affinity_cpus
from detector.wording import plural

PACKAGES = (
    "numpy", "pillow", "opencv-python-headless", "opencv-python", "torch", "torchvision", "safetensors", "PyYAML",
    "faster-coco-eval", "tqdm", "filelock", "onnx", "onnxruntime", "onnxruntime-gpu", "openvino", "nncf", "trackers",
    "supervision", "starlette", "uvicorn", "python-multipart", "pillow-heif",
)  # fmt: skip
"""Packages whose versions are reported, if they are installed."""

INSTRUCTION_SETS = (
    "sse4_2", "avx", "f16c", "fma", "avx2", "avx_vnni", "avx512f", "avx512bw", "avx512vl", "avx512_vnni",
    "avx512_bf16", "avx512_fp16", "amx_tile", "amx_int8", "amx_bf16", "asimd", "asimdhp", "asimddp", "i8mm", "bf16",
    "sve", "sve2",
)  # fmt: skip
"""Instruction sets that change the speed or the last digits of a runtime, as Linux names them (x86 and ARM)."""

_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "ONEDNN_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY")
"""Environment variables that change what the runtimes use. Their values are reported."""


def package_versions() -> dict[str, str]:
    """Return the version of each installed package that this package uses."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def machine_facts() -> dict[str, str]:
    """Return facts about operating system, CPU and memory: name → text."""
    system = [platform.system(), platform.release(), platform.machine(), *platform.libc_ver()]
    facts = {
        "system": " ".join(filter(None, system)),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "cpu": _cpu_name(),
        "cores": f"{os.cpu_count()}, usable {affinity_cpus()}",
        "memory": f"{_memory() / 2**30:.1f} GiB" if _memory() else "unknown",
        "instruction sets": " ".join(instruction_sets()) or "unknown",
    }
    settings = [f"{name}={os.environ[name]}" for name in _VARIABLES if name in os.environ]
    return facts | ({"environment": " ".join(settings)} if settings else {})


def instruction_sets() -> tuple[str, ...]:
    """Return the names in `INSTRUCTION_SETS` that the CPU has; empty if the operating system does not list them."""
    flags = cpu_flags(read_cpu_info())
    return tuple(name for name in INSTRUCTION_SETS if name in flags)


def runtime_facts() -> dict[str, str]:
    """Return whether each runtime can be used, and what it can use: name → text. Imports the runtimes."""
    return {"torch": _torch(), "onnxruntime": _onnxruntime(), "openvino": _openvino()}


def _torch() -> str:
    """Return what PyTorch uses on this machine."""
    try:
        import torch
    except (ImportError, OSError) as error:
        return _missing(error)
    text = f"{torch.backends.cpu.get_cpu_capability()}, {plural(torch.get_num_threads(), 'thread')}"
    for number in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(number)
        text += f"; cuda:{number} {about.name}, {about.total_memory / 2**30:.0f} GiB, CUDA {torch.version.cuda}"
    return text + ("; mps" if torch.backends.mps.is_available() else "")


def _onnxruntime() -> str:
    """Return what ONNX Runtime uses on this machine."""
    try:
        providers: list[str] = import_onnxruntime().get_available_providers()
    except (ImportError, OSError) as error:
        return _missing(error)
    return ", ".join(providers)


def _openvino() -> str:
    """Return what OpenVINO uses on this machine."""
    try:
        core = openvino_core()
    except (ImportError, OSError, RuntimeError) as error:
        return _missing(error)
    capabilities = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return f"{', '.join(core.available_devices)}; on the CPU: {', '.join(capabilities)}"


def _missing(error: Exception) -> str:
    """Return why a runtime cannot be used; the text of an error could contain a path."""
    is_absent = isinstance(error, ModuleNotFoundError)
    return "not installed" if is_absent else f"installed, but cannot be imported ({type(error).__name__})"


def _cpu_name() -> str:
    """Return the name of the CPU, or "unknown"."""
    names = re.findall(r"^model name\s*: (.*)$", read_cpu_info(), re.MULTILINE)
    return names[0] if names else platform.processor() or "unknown"


def _memory() -> int:
    """Return the memory of the machine in bytes, or 0 if the operating system does not report it."""
    if sys.platform == "win32":  # which has no sysconf
        return 0
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return 0
