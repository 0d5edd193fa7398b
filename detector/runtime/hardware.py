"""What the machine at hand is good at: detected, never assumed."""

import ctypes
import logging
import platform
from typing import Literal

import cv2
import torch

from detector.errors import InputError

log = logging.getLogger(__name__)


def choose_device(wish: str) -> torch.device:
    """Return the device for "auto", "cpu", "cuda", "cuda:1" or "mps".

    Raises:
        InputError: no such device, or not on this machine.
    """
    if wish == "auto":
        wish = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    # Others write the number alone: --device 0.
    wish = f"cuda:{wish}" if wish.isdigit() else wish
    try:
        device = torch.device(wish)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        there = ["cpu", *["cuda"] * torch.cuda.is_available(), *["mps"] * torch.backends.mps.is_available()]
        raise InputError(f"device '{wish}' is not available here ({reason}); here is: {', '.join(there)}") from None
    return device


def choose_precision(wish: Literal["auto", "bf16", "fp32"], device: torch.device) -> torch.dtype:
    """Return the type the network is trained in: bf16 where the hardware multiplies it natively, else float32."""
    if wish != "auto":
        return torch.bfloat16 if wish == "bf16" else torch.float32
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    if device.type == "cpu" and _cpu_multiplies_bf16():
        return torch.bfloat16
    return torch.float32


def prepare_for_training() -> None:
    """Set up this process: large freed blocks stay with the allocator, and OpenCV leaves the cores to torch.

    glibc hands every large tensor back to the system and asks for fresh pages, zeroed one by one, in the next step.
    """
    cv2.setNumThreads(1)
    if platform.libc_ver()[0] == "glibc":
        m_trim_threshold, m_mmap_threshold = -1, -3  # malloc.h
        libc = ctypes.CDLL(None)
        libc.mallopt(m_mmap_threshold, 1 << 30)
        libc.mallopt(m_trim_threshold, 1 << 30)


def _cpu_multiplies_bf16() -> bool:
    # Emulated bf16 (AVX-512 without the BF16 extension) is slower than float32, so ask for the instructions.
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, check, bool)() for check in checks)
