"""Unlabeled images: which are used, their pseudo-labels, and exact resuming before, during and after the labeling."""

import hashlib
import json
import os
import re
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.torch import load_file

from detector.annotation import Annotation
from detector.boxes import area
from detector.config import Config
from detector.data.ledger import Ledger
from detector.data.split import Split
from detector.detections import Detections
from detector.errors import ConfigError, FileError
from detector.image_hashes import hash_file
from detector.images import read_image, write_image
from detector.loader.dataset import DetectionDataset
from detector.model.checkpoint import load_weights
from detector.training.pseudo_labels import (
    affordable_passes,
    choose_images,
    detect_unlabeled,
    label_scores,
    pseudo_labels,
    with_pseudo_labels,
)
from detector.training.run_state import read_state, state_files
from detector.training.time_budget import TimeBudget
from detector.training.train import resume, train
from detector.training.unlabeled import UnlabeledImages, find_unlabeled

STEPS, LABELING = 24, 12
USED = ("17.png", "18.png", "19.png", "20.png")


@pytest.fixture(scope="session")
def short(tiny_config: Config) -> Config:
    return replace(tiny_config, steps=STEPS, evaluations=4, unlabeled_score=0.1)


@pytest.fixture(scope="session")
def unlabeled(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with four test images, and images that must not be used: of train and val, copies, and a damaged one."""
    folder = tmp_path_factory.mktemp("unlabeled")
    for name in (*USED, "1.png", "13.png"):
        shutil.copy(tiny_data / "images" / name, folder / name)
    shutil.copy(folder / "17.png", folder / "copy.png")
    flipped = read_image(tiny_data / "images" / "14.png")[:, ::-1]
    write_image(folder / "like-val.jpg", np.clip(flipped.astype(np.int64) + 10, 0, 255).astype(np.uint8))
    (folder / "damaged.png").write_bytes(b"x")
    return folder


@pytest.fixture(scope="session")
def complete(
    tiny_data: Path, tiny_weights: Path, short: Config, unlabeled: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A finished run with all its checkpoints."""
    out = tmp_path_factory.mktemp("runs") / "complete"
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr("detector.training.run_state._KEPT", 99)
        train(tiny_data, short, out=out, unlabeled=unlabeled, weights=tiny_weights)
    return out


def fingerprint(folder: Path) -> dict[str, str]:
    """Return hashes of all results of a run."""
    state = read_state(folder / "state")
    assert state is not None
    hashes = {name: hashlib.sha256(tensor.numpy().tobytes()).hexdigest() for name, tensor in state[1].items()}
    names = ("unlabeled.json", "results.csv", "weights/best.safetensors")
    hashes |= {name: (folder / name).read_text(errors="replace")[-1000:] for name in names}
    return hashes | {"labels": state[0].unlabeled_sha256, "step": str(state[0].step)}


def _has_labels(checkpoint: Path) -> bool:
    with safe_open(checkpoint, "pt") as file:
        return bool(json.loads(file.metadata()["progress"])["unlabeled_sha256"])


def killed(complete: Path, after: int, out: Path, *, labeled: bool) -> Path:
    """Copy a finished run, as if it had been killed with its last checkpoint after a step.

    Args:
        complete: the finished run.
        after: number of steps of the checkpoint.
        out: the copy.
        labeled: whether the killed run had a checkpoint with pseudo-labels.
    """
    shutil.copytree(complete, out)
    for path in state_files(out / "state"):
        step = int(path.name.split("-")[0])
        # Two checkpoints have the step of the labeling: of the evaluation before it, and of the labeling.
        if step > after or (step == LABELING == after and _has_labels(path) is not labeled):
            path.unlink()
    state = read_state(out / "state")
    assert state is not None
    assert bool(state[0].unlabeled_sha256) is labeled
    if not labeled:
        (out / "unlabeled.json").unlink()
    return out


def test_only_images_that_leak_nothing_are_used(complete: Path, unlabeled: Path, tiny_data: Path) -> None:
    rows = json.loads((complete / "unlabeled.json").read_text())
    assert rows["step"] == LABELING
    assert rows["detected_images"] == len(USED)
    labeled = {Path(row["image"]).name for row in rows["images"]}
    assert labeled
    assert labeled <= set(USED)
    _, info = load_weights(complete / "weights" / "last.safetensors")
    used = {hash_file(unlabeled / name) for name in USED}
    own = {hash_file(tiny_data / "images" / f"{number}.png") for number in range(1, 13)}
    assert info.image_hashes.train == used | own
    assert info.image_hashes.val == {hash_file(tiny_data / "images" / f"{number}.png") for number in range(13, 17)}
    ledger = json.loads((complete / "ledger.json").read_text())["unlabeled images"]
    assert ledger["background_images"] == len(USED) + 1  # with the image that looks like one of val


def test_images_that_are_left_out_are_named(
    tiny_data: Path, short: Config, unlabeled: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    shutil.copy(tiny_data / "images" / "17.png", tmp_path / "17.png")
    train(tiny_data, replace(short, steps=2), out=tmp_path / "run", unlabeled=unlabeled, weights=None)
    for reason, name in (
        ("cannot be read", "damaged.png"),
        ("are images of val", "13.png"),
        ("are images of the training split", "1.png"),
        ("are copies of another one", "copy.png"),
        ("look the same as an image of val", "like-val.jpg"),
    ):
        assert re.search(f"unlabeled images: 1 left out that {reason}: .*{name}", caplog.text)
    assert "unlabeled images: 4 of 9 are used" in caplog.text


def test_pseudo_labels_change_the_weights_after_the_labeling(
    complete: Path, tiny_data: Path, tiny_weights: Path, short: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("detector.training.run_state._KEPT", 99)
    train(tiny_data, short, out=tmp_path / "plain", weights=tiny_weights)

    def ema(folder: Path, step: int) -> dict[str, bytes]:
        tensors = load_file(next(path for path in state_files(folder / "state") if path.name.startswith(f"{step:08d}")))
        return {name: tensor.numpy().tobytes() for name, tensor in tensors.items() if name.startswith("ema.")}

    assert ema(complete, LABELING) == ema(tmp_path / "plain", LABELING)
    assert ema(complete, STEPS) != ema(tmp_path / "plain", STEPS)


@pytest.mark.parametrize(("after", "labeled"), [(6, False), (LABELING, False), (LABELING, True), (18, True)])
def test_resuming_is_bit_exact_around_the_labeling(after: int, labeled: bool, complete: Path, tmp_path: Path) -> None:
    run = killed(complete, after, tmp_path / "killed", labeled=labeled)
    resume(run)
    assert fingerprint(run) == fingerprint(complete)


@pytest.mark.posix
def test_shutdown_during_the_labeling_is_resumed_exactly(
    complete: Path, tiny_data: Path, tiny_weights: Path, short: Config, unlabeled: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    def interrupt(*args: Any, **options: Any) -> list[Detections] | None:
        os.kill(os.getpid(), signal.SIGINT)
        return detect_unlabeled(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr("detector.training.run.detect_unlabeled", interrupt)
        with pytest.raises(KeyboardInterrupt):
            train(tiny_data, short, out=tmp_path / "run", unlabeled=unlabeled, weights=tiny_weights)
    assert not (tmp_path / "run" / "unlabeled.json").exists()
    resume(tmp_path / "run")
    assert fingerprint(tmp_path / "run")["labels"] == fingerprint(complete)["labels"]
    assert fingerprint(tmp_path / "run") == fingerprint(complete)


@pytest.mark.parametrize("change", ["changed", "missing"])
def test_pseudo_labels_that_were_changed_are_refused(change: str, complete: Path, tmp_path: Path) -> None:
    run = killed(complete, 18, tmp_path / "killed", labeled=True)
    path = run / "unlabeled.json"
    if change == "changed":
        path.write_text(path.read_text().replace('"score": 0.', '"score": 0.0', 1))
    else:
        path.unlink()
    found = "was changed or damaged" if change == "changed" else "is missing"
    with pytest.raises(FileError, match=rf"unlabeled\.json: this file with the pseudo-labels of the run {found}"):
        resume(run)


def test_other_unlabeled_images_are_noticed_and_moved_ones_accepted(
    complete: Path, unlabeled: Path, tiny_data: Path, tmp_path: Path
) -> None:
    run = killed(complete, 18, tmp_path / "killed", labeled=True)
    moved = tmp_path / "moved"
    shutil.copytree(unlabeled, moved)
    write_image(moved / "more.png", np.random.default_rng(5).integers(0, 255, (64, 96, 3)).astype(np.uint8))
    with pytest.raises(ConfigError, match=r"unlabeled: .*: the run would train on other unlabeled images than before"):
        resume(run, unlabeled=moved)
    (moved / "more.png").unlink()
    resume(run, unlabeled=moved)
    assert fingerprint(run) == fingerprint(complete)


def test_length_in_minutes_counts_the_time_of_the_labeling(
    tiny_data: Path, short: Config, unlabeled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elapsed: list[float] = []

    def plan(self: TimeBudget, config: Config, seconds: float) -> tuple[int, int]:
        elapsed.append(seconds)
        return 30, 1

    monkeypatch.setattr(TimeBudget, "first_plan", plan)
    monkeypatch.setattr(TimeBudget, "change", lambda *_: None)
    monkeypatch.setattr("detector.training.run.TrainingRun._time_labeling", lambda *_: 1000.0)
    config = replace(short, steps=None, minutes=1.0, unlabeled_start=0.01)
    train(tiny_data, config, out=tmp_path / "run", unlabeled=unlabeled, weights=None)
    assert elapsed[1] - elapsed[0] == pytest.approx(1000, abs=100)
    assert json.loads((tmp_path / "run" / "unlabeled.json").read_text())["step"] == 20  # after the planning steps


def found_in(scores: list[list[float]], class_id: int = 0) -> list[Detections]:
    """Return detections with these scores in one image each, all with the same box."""
    return [
        Detections(
            np.tile(np.array([[1, 1, 9, 9]], np.float32), (len(own), 1)),
            np.array(own, np.float32),
            np.full(len(own), class_id),
            ("a", "b"),
        )
        for own in scores
    ]


def labeled_with(count: int) -> Annotation:
    """Return an annotation with `count` objects of class 0."""
    boxes = np.tile(np.array([[1, 1, 9, 9]], np.float32), (count, 1))
    ids, crowd = np.zeros(count, np.int64), np.zeros(count, np.bool_)
    return Annotation(1, Path("a.png"), (20, 20), boxes, ids, crowd, area(boxes))


def test_scores_of_labels_follow_from_the_objects_per_image() -> None:
    # Two objects per labeled image, five images: ten objects are expected, so the best six become labels.
    scores = [[0.9, 0.8, 0.7, 0.3], [0.85, 0.75, 0.25], [0.65, 0.6, 0.24], [0.55], [0.5, 0.45]]
    label, ignore = label_scores(found_in(scores), [labeled_with(2)], 2, "by_class")
    assert label == [pytest.approx(0.65), None]  # the labeled images have no object of class 1
    assert ignore[0] == pytest.approx(0.05)  # fewer than 20 detections: all others are ignored
    assert label_scores(found_in(scores), [labeled_with(2)], 2, 0.5) == ([0.5, 0.5], [0.25, 0.25])


def test_rarely_detected_classes_are_not_learned_as_background() -> None:
    dataset = DetectionDataset(split_of([labeled_with(0), labeled_with(0)]), (32, 32), Config())
    images = UnlabeledImages(dataset, (b"1", b"2"))
    found = found_in([[0.9, 0.3], [0.8, 0.3]])
    # Class 0: four detections for two expected objects. Class 1: no detection, and no labeled object.
    values = pseudo_labels(found, [0, 1], images, [labeled_with(1)], "by_class")
    assert [row["background_elsewhere"] for row in values["classes"]] == [True, False]
    assert [(len(row["objects"]), len(row["ignored"])) for row in values["images"]] == [(1, 1)]
    indices, annotations = with_pseudo_labels(json.loads(json.dumps(values)), images)
    assert indices == [0]
    assert annotations[0].is_crowd.tolist() == [False, True]
    assert annotations[0].labeled_classes is not None
    assert annotations[0].labeled_classes.tolist() == [True, False]
    # Class 0: four detections for ten expected objects.
    values = pseudo_labels(found, [0, 1], images, [labeled_with(5)], "by_class")
    assert [row["background_elsewhere"] for row in values["classes"]] == [False, False]


def split_of(annotations: list[Annotation]) -> Split:
    """Return a split of gray images."""
    numbered = tuple(replace(own, image_id=number) for number, own in enumerate(annotations))
    return Split("train", ("a", "b"), (1, 2), numbered, Ledger(), lambda own: np.full((*own.image_hw, 3), 99, np.uint8))


def test_low_scores_never_become_labels() -> None:
    label, ignore = label_scores(found_in([[0.15, 0.1], []]), [labeled_with(1)], 2, "by_class")
    assert label[0] == pytest.approx(0.2)
    assert ignore[0] == pytest.approx(0.05)


def test_number_of_inference_passes_is_limited() -> None:
    assert affordable_passes(100, 8) == 200
    assert choose_images(4, 8) == ([0, 1, 2, 3], True)
    assert choose_images(4, 7) == ([0, 1, 2, 3], False)
    assert choose_images(9, 3) == ([0, 4, 8], False)
    assert choose_images(3, 0) == ([0], False)


def test_unlabeled_images_are_a_folder_a_list_or_a_data_set(
    tiny_data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    images = tiny_data / "images"
    assert len(find_unlabeled(str(images), Config())) == 20
    (tmp_path / "list.txt").write_text(f"# two images\n{images / '1.png'}\n{images / '2.png'}\n")
    assert find_unlabeled(str(tmp_path / "list.txt"), Config()) == [images / "1.png", images / "2.png"]
    assert "labels are not used" not in caplog.text
    assert len(find_unlabeled(str(tiny_data), Config())) == 12
    assert "its labels are not used" in caplog.text
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileError, match="no images directly in this folder, and no dataset"):
        find_unlabeled(str(tmp_path / "empty"), Config())
    with pytest.raises(FileError, match="not files"):
        find_unlabeled("scenes", Config())


def test_unlabeled_images_that_cannot_be_used_stop_the_run(
    tiny_data: Path, short: Config, unlabeled: Path, complete: Path, tmp_path: Path
) -> None:
    with pytest.raises(FileError, match="no such file or folder; expected a folder of images"):
        train(tiny_data, short, out=tmp_path / "run", unlabeled=tmp_path / "missing", weights=None)
    with pytest.raises(FileError, match=r"none of the 12 unlabeled images can be used"):
        train(tiny_data, short, out=tmp_path / "run", unlabeled=tiny_data, weights=None)
    softmax = replace(short, class_loss="softmax")
    with pytest.raises(ConfigError, match="class_loss=softmax cannot learn from --unlabeled"):
        train(tiny_data, softmax, out=tmp_path / "run", unlabeled=unlabeled, weights=None)
    with pytest.raises(ConfigError, match="use --batch 2"):
        train(tiny_data, replace(short, batch=1), out=tmp_path / "run", unlabeled=unlabeled, weights=None)
