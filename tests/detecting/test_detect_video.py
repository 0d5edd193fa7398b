import json
import logging
import os
import re
import shutil
import signal
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from detector.arrays import ImageArray
from detector.cli.commands import main
from detector.detecting.detect_video import VideoSummary, detect_video, is_video
from detector.errors import ConfigError, FileError, MissingPackageError
from detector.files import LOCK_NAME
from detector.images import write_image
from detector.manifest import MANIFEST_NAME
from detector.options import DetectOptions
from detector.output_folder import claim_folder
from detector.predict.detector import Detector

FRAMES = 21
RATE = 12.5
OPTIONS = DetectOptions()


def make_frame(k: int, hw: tuple[int, int] = (64, 96)) -> ImageArray:
    """Return frame k [H, W, 3] of a gray video: a red rectangle moves down 2 pixels per frame, a blue one is fixed."""
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
    while (result := capture.read())[0]:
        frames.append(result[1][:, :, ::-1].astype(np.uint8))
    return frames


def frame_rate(path: Path) -> float:
    return float(cv2.VideoCapture(str(path)).get(cv2.CAP_PROP_FPS))


def read_lines(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    text = path.read_text(encoding="utf-8")
    assert text.endswith("\n")
    about, *frames = map(json.loads, text.splitlines())
    return about, frames


@pytest.fixture(scope="module")
def detector(tiny_weights: Path) -> Detector:
    return Detector.load(tiny_weights, device="cpu")


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("videos") / "trip.mp4", [make_frame(k) for k in range(FRAMES)])


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


class Camera:
    """A simulated camera that never ends, with the interface of `cv2.VideoCapture`.

    Attributes:
        frame: function that returns frame k, [H, W, 3] RGB.
        at_tenth: function that is called when the tenth frame is grabbed.
        grabbed: number of grabbed frames.
    """

    def __init__(self) -> None:
        self.frame: Callable[[int], ImageArray] = lambda k: make_frame(k % FRAMES)
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
    """Replace camera 0 by a simulated camera, and return the simulated camera."""
    camera, original = Camera(), cv2.VideoCapture
    monkeypatch.setattr(cv2, "VideoCapture", lambda source, *args: camera if source == 0 else original(source, *args))
    return camera


@pytest.mark.parametrize(
    ("spec", "expected"),
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
def test_videos_cameras_and_streams_are_recognized(spec: str, expected: bool) -> None:
    assert is_video(spec) is expected


def test_existing_files_and_folders_are_not_cameras_or_videos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("0", "frames.mp4"):
        Path(name).mkdir()
        assert not is_video(name)
    Path("[1].mp4").touch()
    assert is_video("[1].mp4")


def test_frames_get_the_same_detections_as_images(detector: Detector, video: Path, tmp_path: Path) -> None:
    summary = detect_video(detector, str(video), tmp_path / "found", OPTIONS)
    about, frames = read_lines(tmp_path / "found" / "trip.jsonl")
    assert about == {"source": str(video), "fps": RATE, "width": 96, "height": 64, "every": 1}
    drawn = read_video(tmp_path / "found" / "trip.mp4")
    originals = read_video(video)
    assert len(originals) == len(drawn) == len(frames) == FRAMES
    assert frame_rate(tmp_path / "found" / "trip.mp4") == RATE
    objects = 0
    for k, (image, entry) in enumerate(zip(originals, frames, strict=True)):
        found = detector.detect(image)
        objects += len(found)
        assert (entry["frame"], entry["time"]) == (k, pytest.approx(k / RATE, abs=1e-3))
        assert [row["class"] for row in entry["detections"]] == [name for name, _, _ in found]
        for row, (_, score, (x1, y1, x2, y2)) in zip(entry["detections"], found, strict=True):
            assert row["score"] == pytest.approx(score, abs=1e-3)
            assert row["bbox"] == pytest.approx([x1, y1, x2 - x1, y2 - y1], abs=0.1)
            assert row["category_id"] == {"red": 3, "blue": 17}[row["class"]]
        assert "red" in {row["class"] for row in entry["detections"]}  # if the channels were swapped, it would be blue
        expected = found.draw_on(image).astype(int)
        assert np.abs(drawn[k] - expected).mean() < 12
        assert np.argmin([np.abs(frame - expected).mean() for frame in drawn]) == k
    paths = (tmp_path / "found" / "trip.jsonl", tmp_path / "found" / "trip.mp4")
    assert summary == VideoSummary(FRAMES, FRAMES, objects, paths)
    assert files_in(tmp_path / "found") == sorted(paths)


def test_every_selects_frames_and_keeps_the_duration(detector: Detector, video: Path, tmp_path: Path) -> None:
    detect_video(detector, str(video), tmp_path / "all", OPTIONS)
    summary = detect_video(detector, str(video), tmp_path / "some", OPTIONS, every=5)
    assert (summary.frames_read, summary.frames_detected) == (FRAMES, 5)
    about, frames = read_lines(tmp_path / "some" / "trip.jsonl")
    expected = read_lines(tmp_path / "all" / "trip.jsonl")[1][::5]
    assert about["every"] == 5
    for entry, expected_entry in zip(frames, expected, strict=True):
        assert (entry["frame"], entry["time"]) == (expected_entry["frame"], expected_entry["time"])
        assert len(entry["detections"]) == len(expected_entry["detections"])
    assert len(read_video(tmp_path / "some" / "trip.mp4")) == 5
    assert frame_rate(tmp_path / "some" / "trip.mp4") == RATE / 5


def test_options_reach_the_detector_and_the_video_is_optional(detector: Detector, video: Path, tmp_path: Path) -> None:
    options = DetectOptions(max_detections=1, score_threshold=0.01)
    summary = detect_video(detector, str(video), tmp_path, options, save_video=False)
    assert files_in(tmp_path) == [tmp_path / "trip.jsonl"] == list(summary.paths)
    assert summary.objects == FRAMES


def test_a_rotated_video_becomes_upright(detector: Detector, video: Path, tmp_path: Path) -> None:
    data = bytearray(video.read_bytes())
    matrix = data.index(b"tkhd") + 44  # version 0 of the box: type 4, times and ids 24, reserved 8, layer to volume 8
    assert struct.unpack(">9i", data[matrix : matrix + 36]) == (1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    quarter_turn = (0, 1 << 16, 0, -1 << 16, 0, 0, 64 << 16, 0, 1 << 30)
    data[matrix : matrix + 36] = struct.pack(">9i", *quarter_turn)
    rotated = tmp_path / "phone.mp4"
    rotated.write_bytes(data)
    detect_video(detector, str(rotated), tmp_path / "found", OPTIONS)
    about, _ = read_lines(tmp_path / "found" / "phone.jsonl")
    assert (about["width"], about["height"]) == (64, 96)
    drawn = read_video(tmp_path / "found" / "phone.mp4")[0].astype(int)
    clockwise, counterclockwise = (np.abs(drawn - np.rot90(make_frame(0), turns)).mean() for turns in (-1, 1))
    assert (
        clockwise < 0.75 * counterclockwise
    )  # not much smaller, because captions cover a large part of this small image


def test_only_the_annotated_video_crops_odd_sizes(detector: Detector, camera: Camera, tmp_path: Path) -> None:
    camera.frame = lambda k: make_frame(k, (65, 97))
    camera.at_tenth = interrupt
    detect_video(detector, "0", tmp_path, OPTIONS)
    about, _ = read_lines(tmp_path / "camera-0.jsonl")
    assert (about["width"], about["height"]) == (97, 65)
    assert {frame.shape for frame in read_video(tmp_path / "camera-0.mp4")} == {(64, 96, 3)}


def test_track_ids_are_in_the_lines(detector: Detector, video: Path, tmp_path: Path) -> None:
    pytest.importorskip("trackers")
    detect_video(detector, str(video), tmp_path, OPTIONS, track=True)
    _, frames = read_lines(tmp_path / "trip.jsonl")
    best = {"red": 0.0, "blue": 0.0}
    track_ids: dict[str, set[int]] = {"red": set(), "blue": set()}
    for row in (row for entry in frames[1:] for row in entry["detections"]):
        best[row["class"]] = max(best[row["class"]], row["score"])
        track_ids[row["class"]] |= {row["track_id"]} - {-1}
    assert min(best.values()) > 0.5
    assert len(track_ids["red"]) == len(track_ids["blue"]) == 1
    assert {row["track_id"] for row in frames[0]["detections"]} == {-1}


def test_tracking_without_its_package_names_the_package(
    detector: Detector, video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "trackers", None)
    with pytest.raises(MissingPackageError, match=r"pip install 'grid-detector\[track\]'"):
        detect_video(detector, str(video), tmp_path, OPTIONS, track=True)
    assert not files_in(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.mp4", None, r"missing\.mp4: cannot be read \(No such file"),
        ("empty.mp4", b"", r"empty\.mp4: the file is empty"),
        ("no.mp4", b"no video" * 99, r"no\.mp4: cannot be opened: the file is damaged"),
    ],
)
def test_a_file_that_is_not_a_video_is_refused(
    detector: Detector, tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(FileError, match=message):
        detect_video(detector, str(tmp_path / name), tmp_path / "found", OPTIONS)
    assert not (tmp_path / "found").exists()


def test_a_video_header_without_frames_is_refused(detector: Detector, tmp_path: Path) -> None:
    content = write_video(tmp_path / "a.avi", [make_frame(k) for k in range(5)], "MJPG").read_bytes()
    (tmp_path / "none.avi").write_bytes(content[: content.index(b"movi") + 4])
    # Some versions of OpenCV can open such a file, others cannot.
    with pytest.raises(
        FileError, match=r"none\.avi: (the video contains no frames that can be read|cannot be opened: )"
    ):
        detect_video(detector, str(tmp_path / "none.avi"), tmp_path / "found", OPTIONS)
    assert not (tmp_path / "found").exists()


def files_in(folder: Path) -> list[Path]:
    """Return the sorted paths of all files in a folder, except the lock and the manifest."""
    return sorted(path for path in folder.iterdir() if path.name not in (LOCK_NAME, MANIFEST_NAME))


@pytest.mark.parametrize("taken", ["trip.mp4", "trip.jsonl"])
def test_existing_results_are_not_overwritten(detector: Detector, video: Path, tmp_path: Path, taken: str) -> None:
    (tmp_path / taken).write_text("mine")
    with pytest.raises(FileError, match=f"{taken}: was not written by this program, so it is not overwritten"):
        detect_video(detector, str(video), tmp_path, OPTIONS)
    assert [path.read_text() for path in files_in(tmp_path)] == ["mine"]


def test_the_source_is_not_overwritten_by_its_result(detector: Detector, video: Path) -> None:
    before = video.read_bytes()
    for overwrite in (False, True):
        with (
            claim_folder(video.parent, "testing", overwrite=overwrite) as folder,
            pytest.raises(FileError, match=r"trip\.mp4: this video would be replaced by its own result"),
        ):
            detect_video(detector, str(video), folder, OPTIONS)
    assert video.read_bytes() == before


def test_a_result_of_an_earlier_run_is_no_source_for_the_same_folder(
    detector: Detector, video: Path, tmp_path: Path
) -> None:
    detect_video(detector, str(video), tmp_path, OPTIONS)
    (tmp_path / "link.mp4").symlink_to("trip.mp4")
    for name in ("trip.mp4", "link.mp4"):
        with pytest.raises(FileError, match=rf"{name}: this video is a result of an earlier run"):
            detect_video(detector, str(tmp_path / name), tmp_path, OPTIONS)


def test_a_second_run_replaces_the_results_of_the_first(detector: Detector, video: Path, tmp_path: Path) -> None:
    detect_video(detector, str(video), tmp_path, OPTIONS)
    detect_video(detector, str(video), tmp_path, OPTIONS, every=5)
    assert len(read_lines(tmp_path / "trip.jsonl")[1]) == len(read_video(tmp_path / "trip.mp4")) == 5
    detect_video(detector, str(video), tmp_path, OPTIONS, save_video=False)
    assert files_in(tmp_path) == [tmp_path / "trip.jsonl"]


def test_a_continued_run_keeps_images_and_other_videos(video: Path, tiny_weights: Path, tmp_path: Path) -> None:
    write_image(tmp_path / "photo.png", make_frame(0))
    other = shutil.copy(video, tmp_path / "other.mp4")
    arguments = ["--weights", str(tiny_weights), "--device", "cpu", "--out", str(tmp_path / "out"), "--skip-done"]
    assert main(["detect", str(tmp_path / "photo.png"), str(video), "--save-txt", *arguments]) == 0
    before = {path: path.read_bytes() for path in (tmp_path / "out/photo.png", tmp_path / "out/labels/photo.txt")}
    assert main(["detect", str(tmp_path / "photo.png"), str(video), "--save-txt", *arguments]) == 0
    assert main(["detect", str(other), *arguments]) == 0
    assert {path: path.read_bytes() for path in before} == before
    names = {path.name for path in files_in(tmp_path / "out")}
    assert names >= {"trip.jsonl", "trip.mp4", "other.jsonl", "other.mp4", "detections.json", "detections.jsonl"}


def test_the_error_names_a_folder_that_cannot_be_created(detector: Detector, video: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FileError, match="file: the folder cannot be created"):
        detect_video(detector, str(video), tmp_path / "file", OPTIONS)


def test_every_must_be_at_least_one(detector: Detector, video: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="every: expected at least 1, got 0"):
        detect_video(detector, str(video), tmp_path, OPTIONS, every=0)


def test_the_readable_part_of_a_truncated_file_is_used(
    detector: Detector, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    content = write_video(tmp_path / "complete.avi", [make_frame(k) for k in range(FRAMES)], "MJPG").read_bytes()
    (tmp_path / "cut.avi").write_bytes(content[: len(content) // 2])
    with caplog.at_level(logging.WARNING):
        summary = detect_video(detector, str(tmp_path / "cut.avi"), tmp_path / "found", OPTIONS)
    assert 0 < summary.frames_read < FRAMES
    message = f"cut.avi: only {summary.frames_read} of about {FRAMES} frames can be read; their results are kept"
    assert message in caplog.text
    assert len(read_video(tmp_path / "found" / "cut.mp4")) == summary.frames_read
    assert len(read_lines(tmp_path / "found" / "cut.jsonl")[1]) == summary.frames_read


def stretch_matroska(path: Path, new: Path, last_ms: int | None) -> Path:
    """Copy a Matroska video with three times the duration, and the last frame at `last_ms` unless it is None."""
    content = bytearray(path.read_bytes())
    at = content.index(b"\x44\x89\x88") + 3  # the element Duration: an id, a size of 8, and a float64
    content[at : at + 8] = struct.pack(">d", 3 * struct.unpack(">d", content[at : at + 8])[0])
    if last_ms is not None:
        last = [match.start() for match in re.finditer(rb"\x81..[\x00\x80]\xff\xd8", content, re.DOTALL)][-1]
        content[last + 1 : last + 3] = struct.pack(">h", last_ms)
    new.write_bytes(content)
    return new


@pytest.mark.parametrize(("last_ms", "is_complete"), [(3 * 1600, True), (None, False)])
def test_a_varying_frame_rate_is_no_damage(
    detector: Detector, tmp_path: Path, caplog: pytest.LogCaptureFixture, last_ms: int | None, is_complete: bool
) -> None:
    video = write_video(tmp_path / "even.mkv", [make_frame(k) for k in range(FRAMES)], "MJPG")
    stretched = stretch_matroska(video, tmp_path / "trip.mkv", last_ms)
    with caplog.at_level(logging.WARNING):
        summary = detect_video(detector, str(stretched), tmp_path / "found", OPTIONS)
    assert summary.frames_read == FRAMES
    assert ("only 21 of about 63 frames can be read" in caplog.text) == (not is_complete)


@pytest.mark.posix
def test_ctrl_c_ends_a_camera_normally(detector: Detector, camera: Camera, tmp_path: Path) -> None:
    camera.at_tenth = interrupt
    summary = detect_video(detector, "0", tmp_path, OPTIONS)
    about, frames = read_lines(tmp_path / "camera-0.jsonl")
    assert (about["source"], about["fps"]) == ("0", 25)  # the default, because the camera reports no frame rate
    assert [entry["frame"] for entry in frames] == list(range(summary.frames_read))
    assert summary.frames_read >= 10
    times = [entry["time"] for entry in frames]
    assert times == sorted(times)
    # While the camera is slower than the frame rate of the video, frames are repeated, so that the duration is right.
    assert len(read_video(tmp_path / "camera-0.mp4")) >= len(frames)


@pytest.mark.posix
def test_ctrl_c_in_a_file_keeps_the_results_so_far(
    detector: Detector, video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = cv2.VideoCapture

    class Interrupted:
        """A `cv2.VideoCapture` that sends Ctrl-C to this process when the first frame is retrieved."""

        def __init__(self, *args: Any) -> None:
            self.capture = original(*args)
            self.retrieve = self.interrupt_and_retrieve

        def __getattr__(self, name: str) -> Any:
            return getattr(self.capture, name)

        def interrupt_and_retrieve(self) -> Any:
            interrupt()
            self.retrieve = self.capture.retrieve
            return self.retrieve()

    monkeypatch.setattr(cv2, "VideoCapture", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        detect_video(detector, str(video), tmp_path, OPTIONS)
    _, frames = read_lines(tmp_path / "trip.jsonl")
    assert 0 < len(frames) == len(read_video(tmp_path / "trip.mp4")) < FRAMES


def test_a_change_of_the_frame_size_ends_the_run(detector: Detector, camera: Camera, tmp_path: Path) -> None:
    camera.frame = lambda k: make_frame(k, (64, 96) if k < 7 else (48, 80))
    message = "0: the frame size changes at frame 7; the results of the earlier frames are kept"
    with pytest.raises(FileError, match=message):
        detect_video(detector, "0", tmp_path, OPTIONS)
    assert len(read_lines(tmp_path / "camera-0.jsonl")[1]) == 7
    assert len(read_video(tmp_path / "camera-0.mp4")) >= 7


def test_a_video_that_opencv_cannot_write_leaves_no_file(detector: Detector, camera: Camera, tmp_path: Path) -> None:
    camera.frame = lambda k: np.zeros((1, 1, 3), np.uint8)
    with pytest.raises(
        FileError, match=r"camera-0\.mp4: the installed OpenCV cannot write MPEG-4 video of 1x1.*--no-images"
    ):
        detect_video(detector, "0", tmp_path, OPTIONS)
    assert not files_in(tmp_path)
