"""Attack a local server in every known way, one after the other, while a well-behaved client measures its latency.

    python tools/attack_server.py                                all attacks, 20 seconds each
    python tools/attack_server.py --only half_headers tiles --seconds 60

Prints one row per attack: the number of good requests, how many failed, their latency, how much the log of the server
grew, and the memory of the server and its processes at the end of the attack. The row "none" is the same without an
attack. The last row is the time from Ctrl-C under all image attacks to the end of the server. The exit status is 1 if a
good request failed.
"""

import argparse
import http.client
import io
import os
import resource
import signal
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from PIL import Image

from detector.data.scenes import scenes

UPLOAD = b"POST /detect HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: image/jpeg\r\n"
SERVER_FILES = {"half_headers_64_files": 64}
"""Attack → limit on open files of the server."""


def main() -> int:
    """Run the attacks, print the table, and return the exit status."""
    parser = argparse.ArgumentParser(description="Attack a local server and measure the latency of good requests.")
    parser.add_argument("--weights", default="scenes", help="weights to serve (default: scenes)")
    parser.add_argument("--runtime", default="auto", help="inference backend (default: auto)")
    parser.add_argument("--seconds", type=float, default=20, help="duration of each attack (default: 20)")
    parser.add_argument("--only", nargs="+", choices=[*ATTACKS], help="run only these attacks")
    parser.add_argument("--attack", nargs=2, metavar=("NAME", "PORT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.attack:
        run_attack(options.attack[0], int(options.attack[1]))
    print("| attack | good requests | failed | median | 99 % | longest | log | memory |\n" + "| --- " * 8 + "|")
    failed = 0
    for name in ["none", *(options.only or ATTACKS)]:
        with running_server(options, SERVER_FILES.get(name)) as server, attacking(name, server.port):
            failed += report(name, server, options.seconds)
    with running_server(options, None) as server:
        attacks = [start_attack(name, server.port) for name in ("slow_jpeg", "large_png", "tiles")]
        time.sleep(options.seconds / 2)
        started = time.perf_counter()
        server.process.send_signal(signal.SIGINT)
        server.process.wait(120)
        print(f"\nCtrl-C under slow_jpeg, large_png and tiles: {time.perf_counter() - started:.1f} s")
        for attack in attacks:
            attack.kill()
            attack.wait()
    return 1 if failed else 0


class RunningServer:
    """A server process, its port, and its log file."""

    def __init__(self, options: argparse.Namespace, files: int | None, log: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port: int = free.getsockname()[1]
        command = ["serve", "--weights", options.weights, "--port", str(self.port), "--runtime", options.runtime]
        self.log = log
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "detector", *command],
                env=os.environ | {"PYTHONPATH": str(ROOT)},
                stdout=output,
                stderr=output,
                preexec_fn=None if files is None else partial(set_open_files, files),
            )


def set_open_files(files: int) -> None:
    """Limit the number of open files of this process."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))


@contextmanager
def running_server(options: argparse.Namespace, files: int | None) -> Iterator[RunningServer]:
    """Context manager that starts a server, waits until it answers, and ends it."""
    with tempfile.TemporaryDirectory() as folder:
        server = RunningServer(options, files, Path(folder, "log.txt"))
        try:
            image = good_image()
            while send_image(server.port, image)[0] != 200:
                if server.process.poll() is not None:
                    raise SystemExit(server.log.read_text())
                time.sleep(0.2)
            yield server
        finally:
            server.process.kill()
            server.process.wait()


def report(name: str, server: RunningServer, seconds: float) -> int:
    """Send good requests for some time, print a row of the table, and return the number of failed requests."""
    image, end = good_image(), time.perf_counter() + seconds
    times, failed = [], 0
    log_size = server.log.stat().st_size
    while time.perf_counter() < end:
        status, duration = send_image(server.port, image)
        times.append(duration)
        failed += status != 200
        time.sleep(0.05)
    times.sort()
    log = (server.log.stat().st_size - log_size) / 1e3
    tail = times[min(len(times) - 1, int(0.99 * len(times)))]
    print(
        f"| {name} | {len(times)} | {failed} | {statistics.median(times):.2f} s | {tail:.2f} s | {times[-1]:.2f} s | "
        f"{log:.1f} kB | {memory(server.process.pid):.0f} MB |",
        flush=True,
    )
    return failed


def send_image(port: int, image: bytes, query: str = "", timeout: float = 60) -> tuple[int, float]:
    """Send an image over a new connection, and return (status, latency in seconds); the status is 0 on an error."""
    started = time.perf_counter()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    status = 0
    with suppress(OSError, http.client.HTTPException):
        connection.request("POST", f"/detect{query}", image, {"Content-Type": "application/octet-stream"})
        response = connection.getresponse()
        response.read()
        status = response.status
    connection.close()
    return status, time.perf_counter() - started


def memory(pid: int) -> float:
    """Return the resident memory of a process and its children in MB."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    total = 0.0
    for each in (str(pid), *children):
        with suppress(OSError):
            lines = Path(f"/proc/{each}/status").read_text().splitlines()
            total += sum(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1e3
    return total


@contextmanager
def attacking(name: str, port: int) -> Iterator[None]:
    """Context manager that attacks a server from another process, so that the good client is not slowed down."""
    if name == "none":
        yield
        return
    attack = start_attack(name, port)
    time.sleep(1)
    try:
        yield
    finally:
        attack.kill()
        attack.wait()


def start_attack(name: str, port: int) -> "subprocess.Popen[bytes]":
    """Start the process of an attack, and wait until it has prepared what it sends."""
    process = subprocess.Popen([sys.executable, __file__, "--attack", name, str(port)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    return process


def run_attack(name: str, port: int) -> None:
    """Attack a server with several clients until this process is killed."""
    clients, prepare = ATTACKS[name]
    attack = prepare()
    threads = [threading.Thread(target=attack, args=(port,)) for _ in range(clients)]
    print("ready", flush=True)
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def hold_connections(first: bytes, then: bytes, count: int) -> Callable[[int], None]:
    """Return an attack that keeps many connections open, and replaces those that the server closes.

    Args:
        first: what each connection sends first.
        then: what each connection sends after each second.
        count: number of connections.
    """

    def is_open(connection: socket.socket) -> bool:
        try:
            connection.setblocking(False)
            connection.send(then)
            return connection.recv(100) != b""
        except BlockingIOError:
            return True
        except OSError:
            return False

    def attack(port: int) -> None:
        connections: list[socket.socket] = []
        while True:
            kept = [connection for connection in connections if is_open(connection)]
            for connection in set(connections) - set(kept):
                connection.close()
            connections = kept
            with suppress(OSError):
                while len(connections) < count:
                    connections.append(socket.create_connection(("127.0.0.1", port), timeout=1))
                    connections[-1].sendall(first)
            time.sleep(1)

    return attack


def endless_body(port: int) -> None:
    """Send chunks without end, on one connection after the other."""
    chunk = b"10000\r\n" + bytes(0x10000) + b"\r\n"
    while True:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
            connection.sendall(UPLOAD + b"Transfer-Encoding: chunked\r\n\r\n")
            while True:
                connection.sendall(chunk)


def garbage(port: int) -> None:
    """Send bytes that are not HTTP, on one connection after the other."""
    while True:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
            connection.sendall(b"\x16\x03\x01" + bytes(200) + b"\r\n\r\n")
            connection.recv(1000)


def send_again(image: bytes, query: str = "") -> Callable[[int], None]:
    """Return an attack that sends the same image again and again."""

    def attack(port: int) -> None:
        while True:
            send_image(port, image, query)

    return attack


def encode(kind: str, mode: str, side: int, **options: bool | int) -> bytes:
    """Return the bytes of an image file without content."""
    file = io.BytesIO()
    Image.new(mode, (side, side)).save(file, kind, **options)
    return file.getvalue()


def jpeg_with_scans(side: int, count: int) -> bytes:
    """Return a progressive JPEG file with many empty scans."""
    data = encode("JPEG", "L", side, progressive=True)
    return data[:-2] + data[data.rindex(b"\xff\xda") : -2] * count + data[-2:]


def png_with_texts(count: int) -> bytes:
    """Return a PNG file with many texts."""
    data = encode("PNG", "RGB", 8)
    content = b"tEXta\0b"
    return data[:33] + (struct.pack(">I", 3) + content + struct.pack(">I", zlib.crc32(content))) * count + data[33:]


def good_image() -> bytes:
    """Return a JPEG file with an image of the built-in scenes."""
    file = io.BytesIO()
    Image.fromarray(scenes.render("test", 0).image).save(file, "JPEG")
    return file.getvalue()


HALF_HEADER = b"POST /detect HTTP/1.1\r\nHost: 127.0"
MANY_REQUESTS = b"GET /openapi.json HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" * 400
ATTACKS: dict[str, tuple[int, Callable[[], Callable[[int], None]]]] = {
    "silent": (1, lambda: hold_connections(b"", b"", 400)),
    "half_headers": (1, lambda: hold_connections(HALF_HEADER, b"1", 400)),
    "half_headers_64_files": (1, lambda: hold_connections(HALF_HEADER, b"1", 100)),
    "stalled_uploads": (1, lambda: hold_connections(UPLOAD + b"Content-Length: 99999\r\n\r\n", b"x", 100)),
    "endless_body": (4, lambda: endless_body),
    "read_nothing": (1, lambda: hold_connections(MANY_REQUESTS, b"", 100)),
    "garbage": (4, lambda: garbage),
    "empty_scans": (2, lambda: send_again(jpeg_with_scans(7000, 800))),
    "slow_jpeg": (2, lambda: send_again(jpeg_with_scans(7000, 90))),
    "large_png": (4, lambda: send_again(encode("PNG", "RGBA", 7000))),
    "png_texts": (2, lambda: send_again(png_with_texts(300_000))),
    "tiles": (2, lambda: send_again(encode("JPEG", "RGB", 3000), "?tile=300&tta=true")),
}
"""Name → number of clients, and a function that prepares what each does until it is killed."""

if __name__ == "__main__":
    sys.exit(main())
