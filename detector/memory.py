"""Memory of the machine."""

from pathlib import Path


def available_memory() -> int:
    """Return the bytes of memory available without swapping; 2 GiB where the system does not report it."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        pass
    return 2 << 30
