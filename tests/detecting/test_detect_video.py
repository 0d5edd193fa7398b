import json
import logging
import os
import signal
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from detector.arrays import ImageArray
from detector.detecting.detect_video import VideoSummary, detect_video, is_video
from detector.errors import InputError
from detector.predict.detector import Detector

FRAMES = 21
RATE = 12.5


def frame_number(k: int, hw: tuple[int, int] = (64, 96)) -> ImageArray:
    """A gray image, RGB; a red rectangle goes down by two pixels a frame, a blue one stands to the right of it."""
    image = np.full((*hw, 3), 115, dtype=np.uint8)
    image[2 * k : 2 * k + 20, 8:34] = (230, 20, 20)
    image[20:44, 60:86] = (20, 20, 230)
    return image


def write_video(path: Path, frames: list[ImageArray], codec: str = "mp4v", rate: float = RATE) -> Path:
    height, width = frames[0].shape[:2]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), rate, (width, height))
    if not writer.isOpened():
        pytest.skip(f"this OpenCV cannot write {codec} video")
    for frame in frames:
        writer.write(frame[:, :, ::-1].copy())
    writer.release()
    return path


def read_video(path: Path) -> list[ImageArray]:
    capture = cv2.VideoCapture(str(path))
    frames = []
    while (answer := capture.read())[0]:
        frames.append(answer[1][:, :, ::-1].astype(np.uint8))
    return frames


def rate_of(path: Path) -> float:
    return float(cv2.VideoCapture(str(path)).get(cv2.CAP_PROP_FPS))


def read_lines(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    text = path.read_text(encoding="utf-8")
    assert text.endswith("\n")
    about, *frames = map(json.loads, text.splitlines())
    return about, frames


@pytest.fixture(scope="module")
def model(tiny_weights: Path) -> Detector:
    return Detector.load(tiny_weights, "cpu")


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("videos") / "trip.mp4", [frame_number(k) for k in range(FRAMES)])


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


class Camera:
    """A camera that never ends, as OpenCV shows it.

    Attributes:
        frame: makes its frames, RGB.
        at_tenth: is called before the tenth.
    """

    def __init__(self) -> None:
        self.frame: Callable[[int], ImageArray] = lambda k: frame_number(k % FRAMES)
        self.at_tenth: Callable[[], None] = lambda: None
        self.grabbed = 0

    def isOpened(self) -> bool:  # noqa: N802 (OpenCV's name)
        return True

    def get(self, _: int) -> float:
        return 0.0

    def grab(self) -> bool:
        self.grabbed += 1
        if self.grabbed == 10:
            self.at_tenth()
        return True

    def retrieve(self) -> tuple[bool, ImageArray]:
        return True, self.frame(self.grabbed - 1)[:, :, ::-1].copy()

    def release(self) -> None:
        pass


@pytest.fixture
def camera(monkeypatch: pytest.MonkeyPatch) -> Camera:
    """Stands in for camera 0 of this machine."""
    camera, real = Camera(), cv2.VideoCapture
    monkeypatch.setattr(cv2, "VideoCapture", lambda word, *rest: camera if word == 0 else real(word, *rest))
    return camera


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("a.mp4", True),
        ("some/where/A.MOV", True),
        ("c:\\clips\\b.mkv", True),
        ("a.jpg", False),
        ("a", False),
        ("", False),
        ("mp4", False),
        ("*.mp4", False),
        ("0", True),
        ("12", True),
        ("-1", False),
        ("1.5", False),
        ("123456", False),
        ("²", False),
        ("rtsp://user:secret@192.168.0.7:554/live", True),
        ("RTMP://host/live", True),
        ("http://host/a.mp4", True),
        ("https://host/live/index.m3u8?token=a.jpg", True),
        ("https://host/a.jpg?next=b.mp4", False),
        ("https://host/", False),
        ("ftp://host/a.mp4", False),
    ],
)
def test_videos_cameras_and_streams_are_told_from_images(word: str, expected: bool) -> None:
    assert is_video(word) is expected


def test_a_file_or_folder_that_is_there_is_not_taken_for_a_camera_or_a_video(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("0", "frames.mp4"):
        Path(name).mkdir()
        assert not is_video(name)
    Path("[1].mp4").touch()
    assert is_video("[1].mp4")


def test_each_frame_is_answered_in_order_as_if_it_were_a_image(model: Detector, video: Path, tmp_path: Path) -> None:
    summary = detect_video(model, str(video), tmp_path / "found")
    about, frames = read_lines(tmp_path / "found" / "trip.jsonl")
    assert about == {"source": str(video), "fps": RATE, "width": 96, "height": 64, "every": 1}
    drawn = read_video(tmp_path / "found" / "trip.mp4")
    given = read_video(video)
    assert len(given) == len(drawn) == len(frames) == FRAMES
    assert rate_of(tmp_path / "found" / "trip.mp4") == RATE
    objects = 0
    for k, (image, entry) in enumerate(zip(given, frames, strict=True)):
        found = model.detect(image)
        objects += len(found)
        assert (entry["frame"], entry["time"]) == (k, pytest.approx(k / RATE, abs=1e-3))
        assert [row["class"] for row in entry["detections"]] == [name for name, _, _ in found]
        for row, (_, score, (x1, y1, x2, y2)) in zip(entry["detections"], found, strict=True):
            assert row["score"] == pytest.approx(score, abs=1e-3)
            assert row["bbox"] == pytest.approx([x1, y1, x2 - x1, y2 - y1], abs=0.1)
            assert row["category_id"] == {"red": 3, "blue": 17}[row["class"]]
        assert "red" in {row["class"] for row in entry["detections"]}  # and not blue, had channels been exchanged
        wanted = found.draw_on(image).astype(int)
        assert np.abs(drawn[k] - wanted).mean() < 12
        assert np.argmin([np.abs(other - wanted).mean() for other in drawn]) == k
    paths = (tmp_path / "found" / "trip.jsonl", tmp_path / "found" / "trip.mp4")
    assert summary == VideoSummary(FRAMES, FRAMES, objects, paths)
    assert sorted((tmp_path / "found").iterdir()) == sorted(paths)


def test_with_every_only_each_nth_frame_is_answered_and_the_drawn_video_lasts_as_long(
    model: Detector, video: Path, tmp_path: Path
) -> None:
    detect_video(model, str(video), tmp_path / "all")
    summary = detect_video(model, str(video), tmp_path / "some", every=5)
    assert (summary.frames_read, summary.frames_detected) == (FRAMES, 5)
    about, some = read_lines(tmp_path / "some" / "trip.jsonl")
    every = read_lines(tmp_path / "all" / "trip.jsonl")[1][::5]
    assert about["every"] == 5
    for one, other in zip(some, every, strict=True):
        assert (one["frame"], one["time"]) == (other["frame"], other["time"])
        assert len(one["detections"]) == len(other["detections"])
    assert len(read_video(tmp_path / "some" / "trip.mp4")) == 5
    assert rate_of(tmp_path / "some" / "trip.mp4") == RATE / 5


def test_without_images_there_are_only_lines_and_options_reach_the_detector(
    model: Detector, video: Path, tmp_path: Path
) -> None:
    summary = detect_video(model, str(video), tmp_path, images=False, max_detections=1, score_threshold=0.01)
    assert list(tmp_path.iterdir()) == [tmp_path / "trip.jsonl"] == list(summary.paths)
    assert summary.objects == FRAMES


def test_a_video_that_lay_on_its_side_is_turned_upright(model: Detector, video: Path, tmp_path: Path) -> None:
    data = bytearray(video.read_bytes())
    matrix = data.index(b"tkhd") + 44  # version 0 of the box: type 4, times and ids 24, reserved 8, layer and so on 8
    assert struct.unpack(">9i", data[matrix : matrix + 36]) == (1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    quarter_turn = (0, 1 << 16, 0, -1 << 16, 0, 0, 64 << 16, 0, 1 << 30)
    data[matrix : matrix + 36] = struct.pack(">9i", *quarter_turn)
    turned = tmp_path / "phone.mp4"
    turned.write_bytes(data)
    detect_video(model, str(turned), tmp_path / "found")
    about, _ = read_lines(tmp_path / "found" / "phone.jsonl")
    assert (about["width"], about["height"]) == (64, 96)
    drawn = read_video(tmp_path / "found" / "phone.mp4")[0].astype(int)
    clockwise, other = (np.abs(drawn - np.rot90(frame_number(0), turns)).mean() for turns in (-1, 1))
    assert clockwise < 0.75 * other  # names cover much of so small an image


def test_odd_sides_lose_a_row_or_column_in_the_drawn_video_only(
    model: Detector, camera: Camera, tmp_path: Path
) -> None:
    camera.frame = lambda k: frame_number(k, (65, 97))
    camera.at_tenth = interrupt
    detect_video(model, "0", tmp_path)
    about, _ = read_lines(tmp_path / "camera-0.jsonl")
    assert (about["width"], about["height"]) == (97, 65)
    assert {frame.shape for frame in read_video(tmp_path / "camera-0.mp4")} == {(64, 96, 3)}


def test_tracks_are_numbered_in_the_lines(model: Detector, video: Path, tmp_path: Path) -> None:
    pytest.importorskip("trackers")
    detect_video(model, str(video), tmp_path, track=True)
    _, frames = read_lines(tmp_path / "trip.jsonl")
    best = {"red": 0.0, "blue": 0.0}
    numbers: dict[str, set[int]] = {"red": set(), "blue": set()}
    for row in (row for entry in frames[1:] for row in entry["detections"]):
        best[row["class"]] = max(best[row["class"]], row["score"])
        numbers[row["class"]] |= {row["track_id"]} - {-1}
    assert min(best.values()) > 0.5
    assert len(numbers["red"]) == len(numbers["blue"]) == 1
    assert {row["track_id"] for row in frames[0]["detections"]} == {-1}


def test_tracking_without_its_package_says_what_to_install(
    model: Detector, video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "trackers", None)
    with pytest.raises(InputError, match=r"pip install 'trackers>=2\.1,<2\.2'"):
        detect_video(model, str(video), tmp_path, track=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.mp4", None, r"missing\.mp4: cannot be read \(No such file"),
        ("empty.mp4", b"", r"empty\.mp4: is empty"),
        ("no.mp4", b"no video" * 99, r"no\.mp4: does not open: it is damaged"),
    ],
)
def test_what_is_no_video_is_refused_and_nothing_is_written(
    model: Detector, tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        detect_video(model, str(tmp_path / name), tmp_path / "found")
    assert not (tmp_path / "found").exists()


def test_a_file_whose_header_promises_frames_but_that_has_none_is_refused(model: Detector, tmp_path: Path) -> None:
    whole = write_video(tmp_path / "a.avi", [frame_number(k) for k in range(5)], "MJPG").read_bytes()
    (tmp_path / "none.avi").write_bytes(whole[: whole.index(b"movi") + 4])
    with pytest.raises(InputError, match=r"none\.avi: (has no frames|does not open)"):
        detect_video(model, str(tmp_path / "none.avi"), tmp_path / "found")
    assert not (tmp_path / "found").exists()


@pytest.mark.parametrize("taken", ["trip.mp4", "trip.jsonl"])
def test_results_that_are_there_already_stay_as_they_are(
    model: Detector, video: Path, tmp_path: Path, taken: str
) -> None:
    (tmp_path / taken).write_text("mine")
    with pytest.raises(InputError, match="is there already and stays as it is; give another --out"):
        detect_video(model, str(video), tmp_path)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["mine"]


def test_a_video_is_not_overwritten_by_its_own_result(model: Detector, video: Path) -> None:
    before = video.read_bytes()
    with pytest.raises(InputError, match="is there already"):
        detect_video(model, str(video), video.parent)
    assert video.read_bytes() == before


def test_a_folder_that_cannot_be_made_is_named(model: Detector, video: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file: cannot be made"):
        detect_video(model, str(video), tmp_path / "file")


def test_every_must_be_a_step_forward(model: Detector, video: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="every: must be at least 1, got 0"):
        detect_video(model, str(video), tmp_path, every=0)


def test_of_a_file_that_was_cut_off_the_rest_is_kept_and_the_loss_said(
    model: Detector, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = write_video(tmp_path / "whole.avi", [frame_number(k) for k in range(FRAMES)], "MJPG").read_bytes()
    (tmp_path / "cut.avi").write_bytes(whole[: len(whole) // 2])
    with caplog.at_level(logging.WARNING):
        summary = detect_video(model, str(tmp_path / "cut.avi"), tmp_path / "found")
    assert 0 < summary.frames_read < FRAMES
    assert f"cut.avi: ended after {summary.frames_read} frames of about {FRAMES}; they are kept" in caplog.text
    assert len(read_video(tmp_path / "found" / "cut.mp4")) == summary.frames_read
    assert len(read_lines(tmp_path / "found" / "cut.jsonl")[1]) == summary.frames_read


def test_ctrl_c_ends_a_camera_cleanly(model: Detector, camera: Camera, tmp_path: Path) -> None:
    camera.at_tenth = interrupt
    summary = detect_video(model, "0", tmp_path)
    about, frames = read_lines(tmp_path / "camera-0.jsonl")
    assert (about["source"], about["fps"]) == ("0", 25)  # of which it said nothing
    assert [entry["frame"] for entry in frames] == list(range(summary.frames_read))
    assert summary.frames_read >= 10
    times = [entry["time"] for entry in frames]
    assert times == sorted(times)
    # Where the camera is slower than the video's rate, frames are repeated, so that the video lasts as long as it did.
    assert len(read_video(tmp_path / "camera-0.mp4")) >= len(frames)


def test_ctrl_c_in_a_file_keeps_what_is_done_and_ends_the_command(
    model: Detector, video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = cv2.VideoCapture

    class Interrupted:
        """A file as it is, but whoever asks for the first frame is interrupted."""

        def __init__(self, *words: Any) -> None:
            self.file = real(*words)
            self.retrieve = self.interrupt_and_retrieve

        def __getattr__(self, name: str) -> Any:
            return getattr(self.file, name)

        def interrupt_and_retrieve(self) -> Any:
            interrupt()
            self.retrieve = self.file.retrieve
            return self.retrieve()

    monkeypatch.setattr(cv2, "VideoCapture", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        detect_video(model, str(video), tmp_path)
    _, frames = read_lines(tmp_path / "trip.jsonl")
    assert 0 < len(frames) == len(read_video(tmp_path / "trip.mp4")) < FRAMES


def test_frames_of_another_size_end_the_work_and_those_before_them_are_kept(
    model: Detector, camera: Camera, tmp_path: Path
) -> None:
    camera.frame = lambda k: frame_number(k, (64, 96) if k < 7 else (48, 80))
    with pytest.raises(InputError, match="0: from frame 7 on it has another size; those before it are done"):
        detect_video(model, "0", tmp_path)
    assert len(read_lines(tmp_path / "camera-0.jsonl")[1]) == 7
    assert len(read_video(tmp_path / "camera-0.mp4")) >= 7


def test_a_video_that_opencv_cannot_write_is_refused_with_a_way_out_and_leaves_nothing(
    model: Detector, camera: Camera, tmp_path: Path
) -> None:
    camera.frame = lambda k: np.zeros((1, 1, 3), np.uint8)
    with pytest.raises(InputError, match=r"camera-0\.mp4: this OpenCV cannot write MPEG-4 video of 1x1.*--no-images"):
        detect_video(model, "0", tmp_path)
    assert not list(tmp_path.iterdir())
