"""Tests of a real server on the loopback address, with clients that send or receive too little, or too much."""

import contextlib
import http.client
import io
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("starlette", reason="the extra `serve` is not installed")
pytest.importorskip("uvicorn", reason="the extra `serve` is not installed")
pytest.importorskip("python_multipart", reason="the extra `serve` is not installed")
pytest.importorskip("resource", reason="limits of POSIX")

import resource

from detector.errors import ConfigError
from detector.serving.connections import fit_to_open_files

ROOT = Path(__file__).resolve().parents[2]
KEY = "0123456789abcdef"
UPLOAD = b"POST /detect HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: image/png\r\nAuthorization: Bearer " + KEY.encode()
CHALLENGE = 'Basic realm="detector", charset="UTF-8", Bearer realm="detector"'
TIMEOUT = 60
"""Generous time limit in seconds; a passing test takes far less."""

START = """
import sys
from detector.serving import app, connections, server, uploads
connections.ConnectionLimits.__init__.__kwdefaults__["header_seconds"] = 1.0
from detector.cli.commands import main
sys.exit(main(sys.argv[1:]))
"""
"""Starts the command with a time limit for headers that a test can wait for."""

CONNECTIONS: list[socket.socket] = []

pytestmark = pytest.mark.usefixtures("loopback", "closed_connections")


@pytest.fixture
def closed_connections() -> Iterator[None]:
    yield
    while CONNECTIONS:
        CONNECTIONS.pop().close()


@dataclass(frozen=True)
class Server:
    process: "subprocess.Popen[bytes]"
    port: int
    log: Path

    def connect(self, data: bytes) -> socket.socket:
        connection = socket.socket()
        connection.settimeout(TIMEOUT)
        connection.connect(("127.0.0.1", self.port))
        connection.sendall(data)
        CONNECTIONS.append(connection)
        return connection

    def get(self, path: str, **headers: str) -> tuple[int, str, dict[str, str]]:
        return self._request("GET", path, b"", headers)

    def post(self, body: bytes) -> tuple[int, str, dict[str, str]]:
        headers = {"Content-Type": "image/png", "Authorization": f"Bearer {KEY}"}
        return self._request("POST", "/detect", body, headers)

    def _request(self, method: str, path: str, body: bytes, headers: dict[str, str]) -> tuple[int, str, dict[str, str]]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port)
        connection.sock = self.connect(b"")
        connection.request(method, path, body, headers)
        reply = connection.getresponse()
        text = reply.read().decode()
        return reply.status, text, {name.lower(): value for name, value in reply.getheaders()}


@contextlib.contextmanager
def running(folder: Path, *options: str, files: int | None = None) -> Iterator[Server]:
    log = folder / "log.txt"
    command = [sys.executable, "-c", START, "serve", "--weights", "scenes", "--runtime", "torch", "--port", "0"]
    limit = None if files is None else lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, *options],
            stdout=output,
            stderr=output,
            env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "DETECTOR_API_KEY": KEY},
            preexec_fn=limit,
        )
    try:
        deadline = time.monotonic() + TIMEOUT
        while (found := re.search(r"http://127.0.0.1:(\d+)", log.read_text())) is None:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield Server(process, int(found[1]), log)
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    with running(folder, "--max-connections", "8", "--metrics", "--max-megabytes", "1") as started:
        yield started


def png(side: int = 9) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.zeros((side, side, 3), np.uint8)).save(file, "PNG")
    return file.getvalue()


def receive_response(connection: socket.socket) -> bytes:
    """Receive a response with a JSON object, which may come in parts."""
    received = b""
    while not received.endswith(b"}"):
        received += connection.recv(1 << 16)
    return received


def wait_for_end(connection: socket.socket) -> bytes:
    """Receive until the server closes the connection, and return what it has sent."""
    received = b""
    with contextlib.suppress(ConnectionResetError):
        while part := connection.recv(1 << 16):
            received += part
    return received


def test_half_a_header_is_not_waited_for(server: Server) -> None:
    silent, half = server.connect(b""), server.connect(b"POST /detect HTTP/1.1\r\nHost: 127.0")
    second = server.connect(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    assert receive_response(second).startswith(b"HTTP/1.1 200 OK")
    second.sendall(b"GET /hea")
    assert [wait_for_end(connection) for connection in (silent, half, second)] == [b"", b"", b""]


def test_new_connection_replaces_the_one_that_waits_longest(server: Server) -> None:
    half = [server.connect(b"GET / HTTP/1.1\r\n") for _ in range(8)]
    time.sleep(0.7)
    uploads = [server.connect(UPLOAD + b"\r\nContent-Length: 99\r\n\r\nx") for _ in range(20)]
    assert server.post(png())[0] == 200
    assert [wait_for_end(connection) for connection in half] == [b""] * 8
    assert [wait_for_end(connection) for connection in uploads].count(b"") >= 12


def test_endless_body_is_not_read_to_its_end(server: Server) -> None:
    for target in (b"/detect", b"/health", b"/nowhere"):
        head = UPLOAD.replace(b"/detect", target) + b"\r\nTransfer-Encoding: chunked\r\n\r\n"
        connection = server.connect(head)
        sent = 0
        with contextlib.suppress(ConnectionError):
            while sent < 50_000_000:
                connection.sendall(b"10000\r\n" + bytes(0x10000) + b"\r\n")
                sent += 0x10000
        assert sent < 50_000_000  # the limit is 1 MB; the rest is in the buffers of the system


def test_refused_upload_gets_its_response(server: Server) -> None:
    for body, status in ((bytes(1_500_000), 413), (b"no image", 415)):
        reply = server.post(body)
        assert (reply[0], "error" in reply[1]) == (status, True)


def test_next_request_needs_the_response_to_the_first(server: Server) -> None:
    request = b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    assert wait_for_end(server.connect(2 * request)).count(b"HTTP/1.1 200 OK") == 1
    connection = server.connect(request)
    for _ in range(3):
        assert receive_response(connection).startswith(b"HTTP/1.1 200 OK")
        connection.sendall(request)


def test_only_the_health_of_a_server_with_key_is_public(server: Server) -> None:
    assert server.get("/health")[0] == 200
    for path in ("/", "/models", "/openapi.json", "/metrics", "/detect", "/nowhere"):
        status, text, headers = server.get(path)
        assert (status, headers["www-authenticate"]) == (401, CHALLENGE)
        assert KEY not in text
    basic = {"Authorization": "Basic dXNlcjowMTIzNDU2Nzg5YWJjZGVm"}  # user:0123456789abcdef
    assert server.get("/models", **basic)[0] == server.get("/", Authorization=f"bearer {KEY}")[0] == 200
    for wrong in (
        f"Bearer {KEY}0",
        "Bearer ",
        KEY,
        f"Token {KEY}",
        "Basic !",
        "Basic é",
        "Basic dXNlcjp4",
        "Basic /w==",
    ):
        assert server.get("/models", Authorization=wrong)[0] == 401


def test_metrics_count_the_responses(server: Server) -> None:
    def metrics() -> dict[str, float]:
        status, text, headers = server.get("/metrics", Authorization=f"Bearer {KEY}")
        assert (status, headers["content-type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
        rows = [line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#")]
        return {name: float(value) for name, value in rows}

    before = metrics()
    assert server.post(png())[0] == 200
    assert server.post(b"no image")[0] == 415
    assert server.get("/nowhere", Authorization=f"Bearer {KEY}")[0] == 404
    after = metrics()
    for name, count in {
        'detector_responses_total{path="/detect",status="200"}': 1,
        'detector_responses_total{path="/detect",status="415"}': 1,
        'detector_responses_total{path="other",status="404"}': 1,
        "detector_detect_seconds_count": 1,
        'detector_decode_seconds_bucket{le="+Inf"}': 1,
    }.items():
        assert after[name] - before.get(name, 0) == count
    assert after["detector_in_progress"] == 0


def test_bad_requests_do_not_fill_the_log(server: Server) -> None:
    before = server.log.stat().st_size
    for _ in range(100):
        assert wait_for_end(server.connect(b"\x16\x03\x01\r\n\r\n")).startswith(b"HTTP/1.1 400")
    assert server.get("/health")[0] == 200
    assert server.log.stat().st_size - before < 10_000


def test_few_open_files_mean_few_connections(tmp_path: Path) -> None:
    with running(tmp_path, files=64) as server:
        for _ in range(100):
            server.connect(b"GET / HTTP/1.1\r\n")
        assert server.post(png())[0] == 200
        assert len(server.log.read_text().splitlines()) == 1
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(TIMEOUT) == 0


def test_too_few_open_files_are_an_error() -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert fit_to_open_files(8) == 8
    program = (
        "import resource; from detector.serving.connections import fit_to_open_files; "
        "resource.setrlimit(resource.RLIMIT_NOFILE, (24, 24)); fit_to_open_files(256)"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=False)
    assert f"{ConfigError.__name__}: at most 24 files may be open" in ended.stderr
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == limits


@pytest.mark.linux
def test_ctrl_c_ends_the_server_during_any_work(tmp_path: Path) -> None:
    with running(tmp_path) as server:
        file = io.BytesIO()
        Image.new("RGB", (4000, 4000)).save(file, "JPEG")
        tiles = UPLOAD.replace(b"/detect", b"/detect?tile=300&tta=true")
        slow = io.BytesIO()
        Image.new("L", (7000, 7000)).save(slow, "PNG", compress_level=1)
        for head, body in ((tiles, file.getvalue()), (UPLOAD, slow.getvalue()), (UPLOAD, slow.getvalue())):
            server.connect(head + f"\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        assert server.post(png())[0] == 200
        children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text().split()
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(TIMEOUT) == 0
        assert "Traceback" not in server.log.read_text()
        for child in children:
            deadline = time.monotonic() + TIMEOUT
            while Path(f"/proc/{child}/cmdline").exists() and "decode" in Path(f"/proc/{child}/cmdline").read_text():
                assert time.monotonic() < deadline
                time.sleep(0.05)


def test_metadata_of_an_image_are_not_logged(server: Server) -> None:
    entries = b"".join(struct.pack("<HHII", tag, 7, 10**6, 8) for tag in range(1, 2001))
    exif = b"eXIfII*\0" + struct.pack("<IH", 8, 2000) + entries + bytes(4)
    data = png()
    chunk = struct.pack(">I", len(exif) - 4) + exif + struct.pack(">I", zlib.crc32(exif))
    before = server.log.stat().st_size
    assert server.post(data[:33] + chunk + data[33:])[0] == 200
    assert server.log.stat().st_size == before
