"""Start a server, send it images from many sides at once, and report errors, times and memory round by round.

    python tools/load_serve.py                                  5 rounds of 200 requests, 20 at once
    python tools/load_serve.py --weights cells --image a.jpg --runtime openvino

Every answer must be that of the first request. Exit status 1 if one was not, or a request failed.
"""

import argparse
import http.client
import io
import json
import os
import socket
import statistics
import subprocess
import sys
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from PIL import Image

from detector.data.scenes import scenes


def main() -> int:
    """Load a server and print a line per round; return the exit status."""
    parser = argparse.ArgumentParser(description="Load a server of this machine.")
    parser.add_argument("--weights", default="scenes", help="default: scenes")
    parser.add_argument("--runtime", default="auto", help="default: auto")
    parser.add_argument("--image", type=Path, help="what is sent (default: an image of the built-in set)")
    parser.add_argument("--requests", type=int, default=200, help="per round (default: 200)")
    parser.add_argument("--at-once", type=int, default=20, help="default: 20")
    parser.add_argument("--rounds", type=int, default=5, help="default: 5")
    options = parser.parse_args()
    image = options.image.read_bytes() if options.image else drawn_image()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = ["serve", "--weights", options.weights, "--port", str(port), "--runtime", options.runtime]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    server = subprocess.Popen([sys.executable, "-m", "detector", *command], env=environment)
    try:
        while not answers(port):
            if server.poll() is not None:
                return 1
            time.sleep(0.1)
        failed = load(port, server.pid, image, options)
    finally:
        server.terminate()
        server.wait()
    return 1 if failed else 0


def load(port: int, pid: int, image: bytes, options: argparse.Namespace) -> int:
    """Print a line per round; return how many requests failed."""
    first, _ = ask(port, image)
    print(f"before: {first}, {memory(pid)}")
    if "objects" not in first:
        return 1
    failed = 0
    for number in range(1, options.rounds + 1):
        started = time.perf_counter()
        with ThreadPoolExecutor(options.at_once) as pool:
            replies = list(pool.map(lambda _: ask(port, image), range(options.requests)))
        rate = options.requests / (time.perf_counter() - started)
        times = sorted(milliseconds for _, milliseconds in replies)
        wrong = [answer for answer, _ in replies if answer != first]
        failed += len(wrong)
        print(
            f"round {number}: {len(wrong)} of {options.requests} failed, {rate:.0f} a second, each "
            f"{statistics.median(times):.0f} ms (median), {times[-1]:.0f} ms (longest), {memory(pid)}"
        )
        for answer in sorted(set(wrong)):
            print(f"  {answer}")
    return failed


def ask(port: int, image: bytes) -> tuple[str, float]:
    """Send the image over a connection of its own; return what came back, in words, and the milliseconds it took."""
    started = time.perf_counter()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("POST", "/detect", image, {"Content-Type": "application/octet-stream"})
        reply = connection.getresponse()
        answer: dict[str, Any] = json.loads(reply.read())
        found = json.dumps(answer.get("detections", []))
        said = f"{found.count('box')} objects (checksum {zlib.crc32(found.encode()):08x})"
        if reply.status != 200:
            said = f"{reply.status} {answer['error']}"
    except OSError as error:
        said = repr(error)
    finally:
        connection.close()
    return said, (time.perf_counter() - started) * 1e3


def answers(port: int) -> bool:
    """Return whether the server is ready; waits while it loads its model."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def memory(pid: int) -> str:
    """Return the resident memory of a process, in words."""
    status = Path(f"/proc/{pid}/status")
    lines = status.read_text().splitlines() if status.exists() else []
    kilobytes = [int(line.split()[1]) for line in lines if line.startswith("VmRSS")]
    return f"{kilobytes[0] / 1024:.0f} MiB" if kilobytes else "memory not known on this system"


def drawn_image() -> bytes:
    """Return an image of the built-in set as a JPEG file."""
    file = io.BytesIO()
    Image.fromarray(scenes.render("test", 0).image).save(file, "JPEG")
    return file.getvalue()


if __name__ == "__main__":
    sys.exit(main())
