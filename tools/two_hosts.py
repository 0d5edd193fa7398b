"""Train on two simulated machines with a slow link that loses packets, compare with one process, then cut the link.

    sudo python tools/two_hosts.py --delay 0.005 --loss 0.001 --rate 25e6

Each machine is a network namespace with one network device (TUN); this program carries the packets between the two. So
it needs Linux, root, /dev/net/tun and iproute2, but not the kernel module netem. Prints the duration, the results and
the bytes on the link, and what the processes print after the link is cut.
"""

import argparse
import fcntl
import heapq
import os
import random
import select
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_SET_INTERFACE, _TUN, _NO_HEADER = 0x400454CA, 1, 0x1000
"""Constants of linux/if_tun.h."""

_NAMES, _ADDRESSES = ("detector-0", "detector-1"), ("10.77.0.1", "10.77.0.2")
_SETTINGS = ("input_size=96", "evaluations=1", "save_every=0.05", "precision=fp32")


class Link(threading.Thread):
    """Carries packets between the network devices of two namespaces.

    Args:
        delay: seconds that a packet takes.
        loss: probability that a packet is lost.
        rate: bytes per second in each direction.

    Attributes:
        is_cut: whether all packets are lost.
        sent: bytes that each machine has sent.
    """

    def __init__(self, delay: float, loss: float, rate: float) -> None:
        super().__init__(daemon=True)
        self._delay, self._loss, self._rate = delay, loss, rate
        self.is_cut, self.sent = False, [0, 0]
        self._files = []
        for index, name in enumerate(_NAMES):
            _ip("netns", "add", name)
            file = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
            device = f"wire{index}"
            fcntl.ioctl(file, _SET_INTERFACE, struct.pack("16sH", device.encode(), _TUN | _NO_HEADER))
            _ip("link", "set", device, "netns", name)
            _ip("-n", name, "addr", "add", _ADDRESSES[index], "peer", _ADDRESSES[1 - index], "dev", device)
            for other in ("lo", device):
                _ip("-n", name, "link", "set", other, "up")
            self._files.append(file)

    def run(self) -> None:
        """Carry packets until the program ends."""
        queue: list[tuple[float, int, int, bytes]] = []
        free, count = [0.0, 0.0], 0
        while True:
            timeout = max(0.0, queue[0][0] - time.monotonic()) if queue else 1.0
            for file in select.select(self._files, [], [], timeout)[0]:
                source = self._files.index(file)
                packet = os.read(file, 65536)
                self.sent[source] += len(packet)
                if not self.is_cut and random.random() >= self._loss:
                    free[source] = max(free[source], time.monotonic()) + len(packet) / self._rate
                    count += 1
                    heapq.heappush(queue, (free[source] + self._delay, count, 1 - source, packet))
            while queue and queue[0][0] <= time.monotonic():
                _, _, target, packet = heapq.heappop(queue)
                os.write(self._files[target], packet)


def main() -> int:
    """Do the runs and print what happened; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--delay", type=float, default=0.005, help="seconds (default: %(default)s)")
    parser.add_argument("--loss", type=float, default=0.001, help="fraction of the packets (default: %(default)s)")
    parser.add_argument("--rate", type=float, default=25e6, help="bytes per second (default: %(default)s)")
    parser.add_argument("--only-cut", action="store_true", help="only cut the link during a run")
    parser.add_argument("--steps", type=int, default=20, help="number of steps (default: %(default)s)")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp())
    try:
        link = Link(options.delay, options.loss, options.rate)
        link.start()
        print(
            f"link: {options.delay} s, {options.loss:.2%} lost, {options.rate:g} bytes/s; files: {folder}", flush=True
        )
        if not options.only_cut:
            _compare(link, folder, options.steps)
        together = [_start(rank, folder / "cut", 100_000, folder) for rank in (0, 1)]
        while not list((folder / "cut").glob("state/*")) and together[0].poll() is None:
            time.sleep(0.5)
        link.is_cut, start = True, time.monotonic()
        for rank, process in enumerate(together):
            status = process.wait(timeout=200)
            print(f"machine {rank}: exit status {status}, {time.monotonic() - start:.0f} s after the link was cut")
            lines = (folder / f"cut-{rank}.log").read_text().splitlines()
            print(*[line for line in lines if "the run stops" in line], sep="\n", flush=True)
    finally:
        for name in _NAMES:
            for pid in subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True).stdout.split():
                os.kill(int(pid), signal.SIGKILL)
            subprocess.run(["ip", "netns", "del", name], check=False)
    return 0


def _compare(link: Link, folder: Path, steps: int) -> None:
    """Train on two machines and in one process, and print durations and results."""
    start = time.monotonic()
    together = [_start(rank, folder / "two", steps, folder) for rank in (0, 1)]
    print(f"two machines: exit status {[process.wait() for process in together]}, {time.monotonic() - start:.0f} s")
    print(f"bytes sent by each machine, with start and end: {link.sent}")
    _print_results(folder / "two")
    start = time.monotonic()
    subprocess.run(_train(folder / "one", steps), stdout=subprocess.DEVNULL, check=True)
    print(f"one process: {time.monotonic() - start:.0f} s")
    _print_results(folder / "one")


def _start(rank: int, out: Path, steps: int, folder: Path) -> "subprocess.Popen[bytes]":
    """Start the process of one machine, as Slurm does: with the environment variables, but without torchrun."""
    place = {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": _ADDRESSES[0]}
    with (folder / f"{out.name}-{rank}.log").open("wb") as log:
        return subprocess.Popen(
            ["ip", "netns", "exec", _NAMES[rank], *_train(out, steps)],
            env=os.environ | place | {"MASTER_PORT": "29500", "GLOO_SOCKET_IFNAME": f"wire{rank}"},
            stdout=log,
            stderr=log,
        )


def _train(out: Path, steps: int) -> list[str]:
    train = [sys.executable, "-m", "detector", "train", "--data", "scenes", "--model", "pico", "--weights", "none"]
    settings = [word for setting in (*_SETTINGS, f"steps={steps}") for word in ("--set", setting)]
    return [*train, "--batch", "4", "--device", "cpu", "--no-report", "--out", str(out), *settings]


def _print_results(out: Path) -> None:
    print((out / "results.csv").read_text().strip(), flush=True)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)


if __name__ == "__main__":
    os.chdir(ROOT)
    sys.exit(main())
