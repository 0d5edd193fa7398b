"""Streams that end, stall and come back, served by a local HTTP server and read by OpenCV as in use."""

import io
import json
import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from detector.cli.commands import main
from detector.detecting.detect_files import detect_videos
from detector.detecting.detect_video import VideoSummary, detect_video
from detector.errors import FileError
from detector.media import video_io
from detector.options import DetectOptions
from detector.predict.detector import Detector

FRAMES = 6
"""Number of frames that the server sends per connection."""


def jpeg() -> bytes:
    image = np.full((64, 96, 3), 115, np.uint8)
    image[20:44, 60:86] = (20, 20, 230)
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG")
    return file.getvalue()


class Handler(BaseHTTPRequestHandler):
    """Sends a few frames of motion JPEG. Then the path decides: the end, silence, or an error for new connections."""

    connections = 0
    stopped = threading.Event()

    def do_GET(self) -> None:
        cls = type(self)
        cls.connections += 1
        if "once" in self.path and cls.connections > 1:
            self.send_error(503)
            return
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        for _ in range(FRAMES):
            data = jpeg()
            head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n"
            self.wfile.write(head.encode() + data + b"\r\n")
        if "stall" in self.path:
            self.stopped.wait(60)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def address(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Start the server, shorten the time limits, and yield the address of the server."""
    if cv2.CAP_FFMPEG not in cv2.videoio_registry.getStreamBackends():
        pytest.skip("this OpenCV reads no streams")
    monkeypatch.setattr(video_io, "_STALL_SECONDS", 1.0)
    monkeypatch.setattr(video_io, "_LONGEST_PAUSE", 0.1)
    monkeypatch.setattr(Handler, "connections", 0)
    monkeypatch.setattr(Handler, "stopped", threading.Event())
    for name in ("http_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    Handler.stopped.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def detector(tiny_weights: Path) -> Detector:
    return Detector.load(tiny_weights, device="cpu")


def frame_numbers(path: Path) -> list[int]:
    return [json.loads(line)["frame"] for line in path.read_text().splitlines()[1:]]


@pytest.mark.parametrize("kind", ["end", "stall"])
def test_a_stream_that_ends_or_stalls_is_opened_again(
    detector: Detector, address: str, kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        summary = detect_video(
            detector, f"{address}/{kind}.mjpeg", tmp_path, DetectOptions(), save_video=False, reconnect=2
        )
    assert Handler.connections == 3
    assert summary.is_broken
    assert summary.frames_read == summary.frames_detected == 3 * FRAMES
    assert frame_numbers(tmp_path / f"{kind}.jsonl") == list(range(3 * FRAMES))
    reports = [message for message in caplog.messages if "it is opened again in" in message]
    assert [message.rpartition("(")[2] for message in reports] == ["1 more try left)", "0 more tries left)"]
    assert f"the source ended after {3 * FRAMES} frames; its results are kept" in caplog.text


def test_a_stream_that_cannot_be_opened_again_keeps_its_results(
    detector: Detector, address: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    summary = detect_video(detector, f"{address}/once.mjpeg", tmp_path, DetectOptions(), save_video=False, reconnect=2)
    assert (summary.is_broken, summary.frames_read) == (True, FRAMES)
    assert caplog.text.count("it is opened again in") == 2


def test_a_broken_stream_gives_a_status_other_than_zero(
    tiny_weights: Path, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["detect", f"{address}/end.mjpeg", "--allow-url", "--weights", str(tiny_weights), "--device", "cpu"]
    assert main([*arguments, "--reconnect", "0", "--no-images", "--out", "found"]) == 3
    assert frame_numbers(Path("found/end.jsonl")) == list(range(FRAMES))
    assert Handler.connections == 1


@pytest.mark.posix
def test_ctrl_c_ends_a_stalled_stream_at_once(
    detector: Detector, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(video_io, "_STALL_SECONDS", 30.0)
    results = tmp_path / "stall.jsonl"

    def interrupt_when_stalled() -> None:
        while not results.exists() or len(results.read_text().splitlines()) <= FRAMES:
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt_when_stalled, daemon=True).start()
    before = time.monotonic()
    summary = detect_video(detector, f"{address}/stall.mjpeg", tmp_path, DetectOptions(), save_video=False)
    assert time.monotonic() - before < 25
    assert (summary.is_broken, summary.frames_detected) == (False, FRAMES)
    Handler.stopped.set()


def write_clip(path: Path, frames: int) -> None:
    path.parent.mkdir(exist_ok=True)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (96, 64))
    for _ in range(frames):
        writer.write(np.full((64, 96, 3), 115, np.uint8))
    writer.release()


def test_videos_of_one_name_all_get_their_results(detector: Detector, tmp_path: Path) -> None:
    counts = {"a/clip.avi": 2, "b/Clip.avi": 3, "c/clip.mkv": 4}
    for name, frames in counts.items():
        write_clip(tmp_path / name, frames)
    found = tmp_path / "found"
    summaries = detect_videos(detector, [str(tmp_path / name) for name in counts], found, DetectOptions())
    expected = {"clip": 2, "Clip-2": 3, "clip-3": 4}
    assert {path.stem for path in found.glob("*.jsonl")} == set(expected)
    for summary, (stem, frames) in zip(summaries, expected.items(), strict=True):
        assert isinstance(summary, VideoSummary)
        assert summary.paths == (found / f"{stem}.jsonl", found / f"{stem}.mp4")
        assert len(frame_numbers(found / f"{stem}.jsonl")) == frames


def test_a_result_found_by_a_search_is_not_a_source(detector: Detector, tmp_path: Path) -> None:
    write_clip(tmp_path / "clip.avi", 2)
    for name, kind in (("clip.avi", VideoSummary), ("found/clip.mp4", FileError)):
        [result] = detect_videos(detector, [str(tmp_path / name)], tmp_path / "found", DetectOptions())
        assert isinstance(result, kind)
    assert "this video is a result of an earlier run" in str(result)


def test_a_folder_of_videos_is_a_source(tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_clip(tmp_path / "clips" / "a.avi", 2)
    write_clip(tmp_path / "clips" / "b.avi", 3)
    assert main(["detect", "clips", "--weights", str(tiny_weights), "--device", "cpu", "--no-images"]) == 0
    assert sorted(path.name for path in Path("found").glob("*.jsonl")) == ["a.jsonl", "b.jsonl"]
