"""Labels that look wrong: the ranking of each kind, the suggestions, and odd inputs."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from detector.annotation import Annotation
from detector.cli.commands import main
from detector.config import Config
from detector.data.ledger import Ledger
from detector.data.split import Split
from detector.detections import Detections
from detector.files import file_sha256
from detector.reviewing.review import rank, review
from detector.reviewing.rows import ReviewRow, read_rows, rows_to_csv
from detector.reviewing.scores import KINDS, Kind

CLASSES = ("red", "blue")
Row = tuple[float, float, float, float, int]
"""x1, y1, x2, y2, class id."""

GRID: tuple[Row, ...] = tuple(
    (20 + 60 * i, 20 + 60 * j, 60 + 60 * i, 60 + 60 * j, (i + j) % 2) for i in range(5) for j in range(5)
)
"""25 objects of equal size, of both classes."""


def annotation(labels: tuple[Row, ...], number: int = 0) -> Annotation:
    table = np.array(labels, np.float32).reshape(-1, 5)
    sides = table[:, 2:4] - table[:, :2]
    count = len(table)
    return Annotation(
        number, Path(f"{number}.png"), (340, 340), table[:, :4], table[:, 4].astype(np.int64),
        np.zeros(count, np.bool_), sides.prod(axis=1),
    )  # fmt: skip


def detections(objects: tuple[Row, ...], scores: list[float] | None = None) -> Detections:
    table = np.array(objects, np.float32).reshape(-1, 5)
    own = np.full(len(table), 0.8, np.float32) if scores is None else np.array(scores, np.float32)
    order = np.argsort(-own, kind="stable")
    return Detections(table[order, :4], own[order], table[order, 4].astype(np.int64), CLASSES)


def split_of(*annotations: Annotation) -> Split:
    return Split("train", CLASSES, (1, 2), annotations, Ledger())


def rows_of(labels: tuple[Row, ...], found: Detections, min_score: float = 0.2) -> list[ReviewRow]:
    own = annotation(labels)
    return rank([split_of(own)], {own.image_path: found}, min_score)


def changed(index: int, row: Row) -> tuple[Row, ...]:
    return (*GRID[:index], row, *GRID[index + 1 :])


X1, Y1, X2, Y2, CLASS = GRID[7]
WRONG: dict[Kind, tuple[Row, ...]] = {
    "swapped": changed(7, (X1, Y1, X2, Y2, 1 - CLASS)),
    "loose": changed(7, (X1 + 12, Y1 + 6, X2 + 12, Y2 + 6, CLASS)),
    "size": changed(7, (X1 - 9, Y1 - 9, X2 + 9, Y2 + 9, CLASS)),
    "spurious": (*GRID, (302.0, 302.0, 339.0, 339.0, 0)),
    "duplicate": (*GRID, (X1 + 1, Y1, X2 + 1, Y2, CLASS)),
    "missing": GRID[:7] + GRID[8:],
}
SUSPECT = {"spurious": 25, "duplicate": 25, "missing": -1}


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_error_is_first_of_its_kind(kind: Kind) -> None:
    rows = [row for row in rows_of(WRONG[kind], detections(GRID), 0.0) if row.kind == kind]
    assert rows[0].label == SUSPECT.get(kind, 7)
    assert len(rows) == 1 or rows[1].score < 0.1 < rows[0].score


def test_right_labels_have_no_rows() -> None:
    rng = np.random.default_rng(0)
    moved = np.array(GRID) + np.pad(rng.uniform(-1, 1, (25, 4)), ((0, 0), (0, 1)))
    found = detections(tuple(map(tuple, moved)), rng.uniform(0.6, 0.9, 25).tolist())
    assert [row for row in rows_of(GRID, found) if row.kind != "spurious" or row.score > 0.35] == []


def test_suggestions_restore_the_right_label() -> None:
    swapped = rows_of(WRONG["swapped"], detections(GRID))[0]
    assert (swapped.class_name, swapped.suggested_class) == (CLASSES[1 - CLASS], CLASSES[CLASS])
    loose = next(row for row in rows_of(WRONG["loose"], detections(GRID)) if row.kind == "loose")
    assert loose.suggested_box == (X1, Y1, X2, Y2)
    missing = rows_of(WRONG["missing"], detections(GRID))[0]
    assert (missing.action, missing.suggested_class, missing.suggested_box) == ("add", CLASSES[CLASS], (X1, Y1, X2, Y2))


def test_two_objects_close_together_are_no_duplicates() -> None:
    near = (*GRID, (X1 + 10, Y1, X2 + 10, Y2, CLASS))
    assert [row.kind for row in rows_of(near, detections(near)) if row.kind == "duplicate"] == []


def test_loose_box_scores_lower_if_the_detector_is_unsure() -> None:
    scores = [0.8] * 25
    sure = next(r for r in rows_of(WRONG["loose"], detections(GRID, scores)) if r.kind == "loose")
    scores[7] = 0.3
    unsure = next(r for r in rows_of(WRONG["loose"], detections(GRID, scores), 0.0) if r.kind == "loose")
    assert unsure.score == pytest.approx(sure.score * 0.3 / 0.8, rel=1e-3)


def test_proposals_of_a_hardly_learned_class_score_lower() -> None:
    found = detections(GRID, [0.3 if row[4] else 0.9 for row in GRID])
    red, blue = rows_of(GRID[2:], found)[:2]
    assert (red.kind, red.class_name, blue.kind, blue.class_name) == ("missing", "red", "missing", "blue")
    assert (red.score, blue.score) == pytest.approx((1, (0.3 / 0.9) ** 0.5), rel=1e-3)


def test_objects_in_crowd_regions_need_no_label() -> None:
    own = annotation((*WRONG["missing"], (X1 - 20, Y1 - 20, X2 + 20, Y2 + 20, 0)))
    crowd = replace(own, is_crowd=np.arange(25) == 24)
    rows = rank([split_of(crowd)], {crowd.image_path: detections(GRID)})
    assert rows == []


def test_images_without_labels_or_detections_are_accepted() -> None:
    nothing = detections(())
    assert rows_of((), nothing) == []
    assert {row.kind for row in rows_of((), detections(GRID))} == {"missing"}
    assert {(row.kind, row.score) for row in rows_of(GRID, nothing)} == {("spurious", 1.0)}
    assert rank([], {}) == []


def test_rows_survive_a_csv_file(tmp_path: Path) -> None:
    rows = rows_of(WRONG["loose"], detections(GRID), 0.0)
    rows = [replace(row, score=round(row.score, 4), image='odd, "name"\n.png') for row in rows]
    (tmp_path / "rows.csv").write_bytes(rows_to_csv(rows))
    assert read_rows(tmp_path / "rows.csv") == rows


@pytest.mark.parametrize("damage", ["header", "kind", "number", "short"])
def test_damaged_rows_are_one_clear_error(
    tmp_path: Path, tiny_data: Path, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    lines = rows_to_csv(rows_of(WRONG["loose"], detections(GRID), 0.0)).decode().splitlines()
    if damage == "header":
        lines = lines[1:]
    elif damage == "kind":
        lines[1] = "nonsense" + lines[1][lines[1].index(",") :]
    elif damage == "number":
        lines[1] = lines[1].replace(",0.", ",x.", 1)
    else:
        lines[1] = lines[1][: len(lines[1]) // 2]
    (tmp_path / "rows.csv").write_text("\n".join(lines))
    flags = ["--accept", str(tmp_path / "rows.csv"), "--out", str(tmp_path / "out")]
    assert main(["review", "--data", str(tiny_data), *flags]) == 2
    errors = capsys.readouterr().err
    assert errors.count("error: ") == 1
    assert "rows.csv" in errors
    assert damage == "header" or "rows.csv:2: " in errors
    assert not (tmp_path / "out").exists()


def test_review_starts_its_folds_from_initial_weights(
    tiny_data: Path, tiny_config: Config, tiny_weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = replace(tiny_config, steps=2)
    review(tiny_data, config, folds=2, split="test", out=tmp_path / "out", init_weights=tiny_weights)
    conditions = json.loads((tmp_path / "out" / "folds" / "folds.json").read_text())
    assert conditions["weights"] == file_sha256(tiny_weights)
    flags = ["--weights", str(tiny_weights), "--init-weights", "cells", "--reuse-backbone"]
    assert main(["review", "--data", str(tiny_data), *flags]) == 2
    assert "--init-weights cells --reuse-backbone: nothing is trained with --weights" in capsys.readouterr().err


def test_review_with_weights_writes_rows_and_sheets(
    tiny_data: Path, tiny_weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--weights", str(tiny_weights), "--out", str(tmp_path / "out"), "--min-score", "0.01"]
    assert main(["review", "--data", str(tiny_data), *flags]) == 0
    captured = capsys.readouterr()
    assert "12 images are TRAINING IMAGES" in captured.out
    with (tmp_path / "out" / "rows.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    values = json.loads((tmp_path / "out" / "rows.json").read_text())
    assert [(row["kind"], int(row["label"])) for row in rows] == [(row["kind"], row["label"]) for row in values]
    assert {path.name.split("-")[0] for path in (tmp_path / "out" / "sheets").iterdir()} == {r["kind"] for r in rows}
    assert f"{len(rows)} suspicious row" in captured.out


def test_review_out_of_fold_finds_a_swapped_label(tiny_data: Path, tiny_config: Config, tmp_path: Path) -> None:
    own = tmp_path / "data"
    (own / "images").mkdir(parents=True)
    for image in (tiny_data / "images").iterdir():
        (own / "images" / image.name).write_bytes(image.read_bytes())
    values = json.loads((tiny_data / "train.json").read_text())
    first = values["annotations"][0]
    first["category_id"] = 20 - first["category_id"]  # 3 for 17, and 17 for 3
    (own / "train.json").write_text(json.dumps(values))
    result = review(own, tiny_config, folds=2, out=tmp_path / "out")
    swapped = [row for row in result.rows if row.kind == "swapped"]
    assert (Path(swapped[0].image).name, swapped[0].label) == ("1.png", 0)
    assert result.out_of_fold
