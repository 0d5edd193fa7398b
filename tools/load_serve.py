"""Load test of the server: send many requests in parallel, and print errors, latencies and memory for each round.

    python tools/load_serve.py                                  5 rounds of 200 requests, 20 in parallel
    python tools/load_serve.py --weights cells --image a.jpg --runtime openvino

Every response must contain the same detections as the first response. The exit status is 1 if a response differs or a
request fails.
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
    """Start a server, run all rounds, print one line per round, and return the exit status."""
    parser = argparse.ArgumentParser(description="Run a load test against a local server.")
    parser.add_argument("--weights", default="scenes", help="weights to serve (default: scenes)")
    parser.add_argument("--runtime", default="auto", help="inference backend (default: auto)")
    parser.add_argument("--image", type=Path, help="image file to send (default: an image of the built-in scenes)")
    parser.add_argument("--requests", type=int, default=200, help="number of requests per round (default: 200)")
    parser.add_argument("--parallel", type=int, default=20, help="number of parallel requests (default: 20)")
    parser.add_argument("--rounds", type=int, default=5, help="number of rounds (default: 5)")
    options = parser.parse_args()
    image = options.image.read_bytes() if options.image else scene_image()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = ["serve", "--weights", options.weights, "--port", str(port), "--runtime", options.runtime]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    server = subprocess.Popen([sys.executable, "-m", "detector", *command], env=environment)
    try:
        while not is_ready(port):
            if server.poll() is not None:
                return 1
            time.sleep(0.1)
        failures = run_rounds(port, server.pid, image, options)
    finally:
        server.terminate()
        server.wait()
    return 1 if failures else 0


def run_rounds(port: int, pid: int, image: bytes, options: argparse.Namespace) -> int:
    """Run all rounds, print one line per round, and return the number of failed requests of all rounds.

    Args:
        port: port of the server.
        pid: process id of the server.
        image: bytes of the image file to send.
        options: options of the command line.
    """
    first, _ = send_image(port, image)
    print(f"before: {first}, {memory(pid)}")
    if "objects" not in first:
        return 1
    failures = 0
    for number in range(1, options.rounds + 1):
        started = time.perf_counter()
        with ThreadPoolExecutor(options.parallel) as pool:
            replies = list(pool.map(lambda _: send_image(port, image), range(options.requests)))
        rate = options.requests / (time.perf_counter() - started)
        times = sorted(milliseconds for _, milliseconds in replies)
        wrong = [summary for summary, _ in replies if summary != first]
        failures += len(wrong)
        print(
            f"round {number}: {len(wrong)} of {options.requests} failed, {rate:.0f} requests/s, latency "
            f"{statistics.median(times):.0f} ms (median), {times[-1]:.0f} ms (maximum), {memory(pid)}"
        )
        for summary in sorted(set(wrong)):
            print(f"  {summary}")
    return failures


def send_image(port: int, image: bytes) -> tuple[str, float]:
    """Send an image file over a new connection, and return (summary, latency in milliseconds).

    The summary contains the number and a checksum of the detections, or the error.
    """
    started = time.perf_counter()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("POST", "/detect", image, {"Content-Type": "application/octet-stream"})
        reply = connection.getresponse()
        response: dict[str, Any] = json.loads(reply.read())
        found = json.dumps(response.get("detections", []))
        summary = f"{found.count('box')} objects (checksum {zlib.crc32(found.encode()):08x})"
        if reply.status != 200:
            summary = f"{reply.status} {response['error']}"
    except OSError as error:
        summary = repr(error)
    finally:
        connection.close()
    return summary, (time.perf_counter() - started) * 1e3


def is_ready(port: int) -> bool:
    """Return True if the server responds on this port; wait for the response while the server loads its model."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def memory(pid: int) -> str:
    """Return the resident memory of a process as text, such as "210 MiB"."""
    status = Path(f"/proc/{pid}/status")
    lines = status.read_text().splitlines() if status.exists() else []
    kilobytes = [int(line.split()[1]) for line in lines if line.startswith("VmRSS")]
    return f"{kilobytes[0] / 1024:.0f} MiB" if kilobytes else "memory unknown on this system"


def scene_image() -> bytes:
    """Render an image of the built-in scenes and return it as the bytes of a JPEG file."""
    file = io.BytesIO()
    Image.fromarray(scenes.render("test", 0).image).save(file, "JPEG")
    return file.getvalue()


if __name__ == "__main__":
    sys.exit(main())
