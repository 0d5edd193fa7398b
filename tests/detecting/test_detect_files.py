import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detector.detecting.detect_files import DetectSummary, detect_images, detect_videos, find_inputs, remaining_batches
from detector.detecting.formats import OutputFormat
from detector.errors import ConfigError, FileError
from detector.images import write_image
from detector.media.sources import Source, find_sources
from detector.options import DetectOptions, DrawOptions, ReadOptions
from detector.predict.detector import Detector


@pytest.fixture(scope="module")
def detector(tiny_weights: Path) -> Detector:
    return Detector.load(tiny_weights, device="cpu")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Create a folder `images` with three valid images and a damaged image, and `clip.mp4`, which is not a video."""
    (tmp_path / "images").mkdir()
    for name in ("a.png", "b.png", "c.png"):
        write_image(tmp_path / "images" / name, np.full((64, 96, 3), 115, np.uint8))
    (tmp_path / "images" / "damaged.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (tmp_path / "clip.mp4").write_bytes(b"not a video")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_inputs_are_separated_into_images_and_videos(folder: Path) -> None:
    images, videos = find_inputs(["images/a.png", "rtsp://door/live", "*.mp4"], ReadOptions())
    assert [source.name for source in images] == [Path("images/a.png")]
    assert videos == ["rtsp://door/live", "clip.mp4"]
    assert find_inputs(["clip.mp4"], ReadOptions()) == ([], ["clip.mp4"])


def test_a_video_url_needs_permission() -> None:
    with pytest.raises(ConfigError, match=r"^http://host/a\.mp4: .*add --allow-url"):
        find_inputs(["http://host/a.mp4?token=secret"], ReadOptions())
    assert find_inputs(["http://host/a.mp4"], ReadOptions(allow_url=True)) == ([], ["http://host/a.mp4"])


def test_an_unknown_class_is_refused_before_earlier_results_are_replaced(detector: Detector, folder: Path) -> None:
    sources, options = find_sources(["images/a.png"]), DetectOptions(score_threshold=0)
    detect_images(detector, sources, folder / "out", options, weights="tiny")
    before = {path.name: path.read_bytes() for path in (folder / "out").glob("detections.*")}
    wrong = replace(options, classes=("no such class",))
    with pytest.raises(ConfigError, match="classes: no class 'no such class'"):
        detect_images(detector, sources, folder / "out", wrong, weights="tiny")
    with pytest.raises(ConfigError, match="classes: no class 'no such class'"):
        detect_videos(detector, ["clip.mp4"], folder / "out", wrong)
    assert {path.name: path.read_bytes() for path in (folder / "out").glob("detections.*")} == before


def test_the_summary_counts_done_failed_and_earlier_images(
    detector: Detector, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sources, options = find_sources(["images"]), DetectOptions(score_threshold=0)
    first = detect_images(detector, sources[:2], folder / "out", options, weights="tiny")
    assert (first.given, first.before, first.done, first.failed) == (2, 0, 2, 0)
    rows = json.loads((folder / "out" / "detections.json").read_text())
    assert first.objects == len(rows) > 0
    second = detect_images(detector, sources, folder / "out", options, weights="tiny", skip_done=True)
    assert (second.given, second.before, second.done, second.failed) == (4, 2, 1, 1)
    assert "skipped: images/damaged.png: not an image" in capsys.readouterr().err


def test_another_image_with_the_same_generated_name_is_not_skipped(
    detector: Detector, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def detect(spec: str) -> DetectSummary:
        sources = find_sources([spec], ReadOptions(allow_url=True))
        sources = [replace(source, read=lambda: np.zeros((64, 96, 3), np.uint8)) for source in sources]
        out = folder / spec[:5].strip(":")
        return detect_images(detector, sources, out, DetectOptions(), weights="tiny", skip_done=True)

    assert [detect("-").done, detect("-").done] == [1, 1]
    write_image("a.png", np.zeros((64, 96, 3), np.uint8))  # another image, with the generated name as path
    urls = ["https://one.example/a.png?token=secret", "https://two.example/a.png"]
    assert [detect(url).done for url in (urls[0], urls[0], urls[1])] == [1, 0, 1]
    assert "secret" not in (folder / "https" / "detections.jsonl").read_text()


def test_the_journal_stores_the_options_by_parameter_name(detector: Detector, folder: Path) -> None:
    sources, options = find_sources(["images/a.png"]), DetectOptions(score_threshold=0.5, classes=("red", 1))
    expected = DetectSummary(given=1, before=1, done=0, failed=0, objects=0)
    detect_images(detector, sources, folder / "out", options, weights="tiny", formats={"txt"})
    settings = json.loads((folder / "out" / "detections.jsonl").read_text().splitlines()[0])["settings"]
    assert settings["score_threshold"] == 0.5
    assert settings["classes"] == ["red", 1]
    assert (settings["weights"], settings["runtime"], settings["formats"]) == ("tiny", "torch", ["txt"])
    resumed = detect_images(detector, sources, folder / "out", options, weights="tiny", formats={"txt"}, skip_done=True)
    assert resumed == expected
    with pytest.raises(ConfigError, match=r"other settings \(score_threshold: 0\.5, now 0\.25; tta: False, now True\)"):
        detect_images(
            detector,
            sources,
            folder / "out",
            replace(options, score_threshold=0.25, tta=True),
            weights="tiny",
            formats={"txt"},
            skip_done=True,
        )


def test_annotated_images_are_resumed_with_the_same_drawing(detector: Detector, folder: Path) -> None:
    def detect(drawing: DrawOptions, *formats: OutputFormat) -> int:
        sources, out = find_sources(["images/a.png"]), folder / "-".join(("out", *formats))
        return detect_images(
            detector, sources, out, DetectOptions(),
            weights="tiny", formats=set(formats), skip_done=True, drawing=drawing,
        ).done  # fmt: skip

    plain, hidden = DrawOptions(), DrawOptions(labels=False)
    assert [detect(plain, "images"), detect(plain, "images")] == [1, 0]
    with pytest.raises(ConfigError, match=r"drawing: .*'labels': True.* now .*'labels': False"):
        detect(hidden, "images")
    assert [detect(plain, "txt"), detect(hidden, "txt")] == [1, 0]  # nothing is drawn


def test_an_unreadable_video_does_not_stop_the_others(
    detector: Detector, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = detect_videos(detector, ["clip.mp4", "missing.mp4"], folder / "out", DetectOptions())
    assert [type(result) for result in results] == [FileError, FileError]
    assert capsys.readouterr().err.count("skipped: ") == 2


@given(st.lists(st.booleans(), max_size=40), st.integers(1, 9))
def test_remaining_images_are_complete_batches(is_done: list[bool], batch_size: int) -> None:
    sources = [Source(Path(f"{index}.png"), lambda: np.zeros((1, 1, 3), np.uint8)) for index in range(len(is_done))]
    done = {f"{index}.png" for index, image_is_done in enumerate(is_done) if image_is_done}
    remaining = [sources.index(source) for source in remaining_batches(sources, done, batch_size)]
    open_batches = {index // batch_size for index, image_is_done in enumerate(is_done) if not image_is_done}
    assert remaining == [index for index in range(len(sources)) if index // batch_size in open_batches]


def test_a_missing_video_file_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"gone\.mp4: no such video file"):
        find_inputs([str(tmp_path / "gone.mp4")], ReadOptions())
