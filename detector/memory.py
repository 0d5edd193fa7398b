"""Memory that is available on the machine."""

from pathlib import Path


def available_memory() -> int:
    """Return the available memory (without swap) in bytes, or 2 GiB if the operating system does not report it."""
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        pass
    return 2 << 30
