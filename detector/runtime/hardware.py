"""Choose device, precision and number of threads, as the hardware supports them; set up the process for training."""

import ctypes
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import cv2
import torch

from detector.errors import ConfigError, ProcessError
from detector.forks import limit_opencv_threads, note_openmp, openmp_is_unusable


def choose_device(name: str) -> torch.device:
    """Return the torch device with the given name; "auto" selects the first available of CUDA GPU, MPS and CPU.

    Args:
        name: "auto", "cpu", "cuda", "cuda:1", "mps", or the number of a CUDA GPU, such as "1".

    Raises:
        ConfigError: the device does not exist or is not available on this machine.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    # Users of other tools write only the number of the GPU: --device 0.
    name = f"cuda:{name}" if name.isdigit() else name
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        available = ["cpu", *["cuda"] * torch.cuda.is_available(), *["mps"] * torch.backends.mps.is_available()]
        raise ConfigError(
            f"device '{name}' is not available here ({reason}); available: {', '.join(available)}"
        ) from None
    return device


def choose_precision(precision: Literal["auto", "bf16", "fp32"], device: torch.device) -> torch.dtype:
    """Return the dtype for training: torch.bfloat16 or torch.float32.

    "auto" selects bfloat16 if `device` is a CUDA GPU or a CPU with bf16 support, else float32.
    """
    if precision != "auto":
        return torch.bfloat16 if precision == "bf16" else torch.float32
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    if device.type == "cpu" and _cpu_supports_bf16():
        return torch.bfloat16
    return torch.float32


def limit_threads(threads: int | None) -> None:
    """Set the number of CPU threads with which torch computes in this process, before it computes.

    In a process that was forked from one that has used torch, the number is always 1: with more threads, torch would
    wait forever.

    Args:
        threads: the number of threads; None: do not change it.
    """
    note_openmp()
    if openmp_is_unusable():
        threads = 1
    if threads is not None and torch.get_num_threads() != threads:
        torch.set_num_threads(threads)


@contextmanager
def device_memory_errors(advice: str) -> Iterator[None]:
    """Context manager in which too little memory of a GPU raises a ConfigError.

    Raises:
        ConfigError: the GPU does not have enough memory.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise ConfigError(f"the GPU does not have enough memory ({str(error).partition('. ')[0]}); {advice}") from None


@contextmanager
def training_process() -> Iterator[None]:
    """Set up this process for training inside the context, and restore the previous state at the end.

    Inside the context:

    - OpenCV uses one thread, so that torch can use all cores. The previous number of threads is restored at the end.
    - The code may seed torch. The states of torch's random generators (CPU, CUDA, MPS) are restored at the end.
    - glibc keeps large freed memory blocks. By default, glibc returns the memory of each large tensor to the system.
      The next step then requests new pages, and the system fills each new page with zeros. This change is **not**
      undone at the end, because glibc cannot report the previous thresholds.

    The context manager also works as a decorator: `@training_process()`.

    Raises:
        ProcessError: this process was forked from one that has used torch, which can then compute with one thread only.
    """
    if openmp_is_unusable() and torch.get_num_threads() > 1:
        raise ProcessError(
            "training in a forked process: the process from which it was forked has used PyTorch, which cannot compute "
            "in several threads after a fork; start the process with "
            'multiprocessing.get_context("spawn"), or start it before PyTorch is used'
        )
    note_openmp()
    threads = cv2.getNumThreads()
    limit_opencv_threads(1)
    _keep_freed_memory()
    cpu_state = torch.get_rng_state()
    # Reading the random state would initialize CUDA, so skip this if CUDA is not in use yet.
    cuda_states = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None  # type: ignore[no-untyped-call]
    mps_state = torch.mps.get_rng_state() if torch.backends.mps.is_available() else None
    try:
        yield
    finally:
        limit_opencv_threads(threads)
        torch.set_rng_state(cpu_state)
        if cuda_states is not None:
            torch.cuda.set_rng_state_all(cuda_states)
        else:
            # `torch.manual_seed` seeds the GPUs too: a GPU that was not used before must have the seed of the CPU.
            torch.cuda.manual_seed_all(torch.initial_seed())
        if mps_state is not None:
            torch.mps.set_rng_state(mps_state)


def _keep_freed_memory() -> None:
    """Make glibc keep freed memory blocks of up to 1 GiB for reuse; do nothing with other C libraries."""
    if platform.libc_ver()[0] == "glibc":
        m_trim_threshold, m_mmap_threshold = -1, -3  # constants of malloc.h
        libc = ctypes.CDLL(None)
        libc.mallopt(m_mmap_threshold, 1 << 30)
        libc.mallopt(m_trim_threshold, 1 << 30)


def _cpu_supports_bf16() -> bool:
    """Return True if the CPU has bf16 instructions: AVX-512 BF16 or AMX."""
    # Emulated bf16 (AVX-512 without the BF16 extension) is slower than float32.
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, check, bool)() for check in checks)
