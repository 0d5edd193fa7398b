import io
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from detector.detections import Detections, coco_results, draw
from detector.drawing import class_color
from detector.errors import FileError, ImageError, InputError
from detector.images import write_image

NAMES = ("cat", "dog")


def make(n: int = 2, scores: tuple[float, ...] = (0.9, 0.5), class_ids: tuple[int, ...] = (1, 0)) -> Detections:
    boxes = np.arange(4 * n, dtype=np.float32).reshape(n, 4)
    return Detections(boxes, np.array(scores, np.float32), np.array(class_ids, np.int64), NAMES)


def tracked(scores: list[float], track_ids: list[int] | None) -> Detections:
    n = len(scores)
    return Detections(
        (np.arange(4 * n).reshape(n, 4) / 3).astype(np.float32),
        np.array(sorted(scores, reverse=True), np.float32),
        np.arange(n, dtype=np.int64) % 2,
        NAMES,
        None if track_ids is None else np.array(track_ids, np.int64),
    )


def test_iteration_yields_name_score_and_box_best_first() -> None:
    found = make()
    assert len(found) == 2
    assert [(name, box.tolist()) for name, _, box in found] == [("dog", [0, 1, 2, 3]), ("cat", [4, 5, 6, 7])]
    assert [score for _, score, _ in found] == pytest.approx([0.9, 0.5])


def test_detections_may_be_empty() -> None:
    found = make(0, (), ())
    assert len(found) == 0
    assert list(found) == []


def test_equal_scores_are_accepted() -> None:
    assert len(make(scores=(0.5, 0.5))) == 2


@pytest.mark.parametrize(
    ("n", "scores", "class_ids", "message"),
    [
        (3, (0.9, 0.5), (1, 0), "do not match"),
        (2, (0.9, 0.5), (1,), "do not match"),
        (0, (0.9,), (1,), "do not match"),
        (2, (0.9, 0.5), (1, 2), r"0\.\.1"),
        (2, (0.9, 0.5), (-1, 0), r"0\.\.1"),
        (2, (0.5, 0.9), (1, 0), "sorted by score"),
    ],
)
def test_inconsistent_arrays_raise(n: int, scores: tuple[float, ...], class_ids: tuple[int, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make(n, scores, class_ids)


@pytest.mark.parametrize(
    ("track_ids", "message"), [([1], r"expected shape \[2\], got \[1\]"), ([1, -2], "-1 for an object without")]
)
def test_inconsistent_track_ids_raise(track_ids: list[int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        tracked([0.9, 0.5], track_ids)


def test_track_ids_are_optional() -> None:
    assert make().track_ids is None
    assert tracked([0.9, 0.5], [-1, 7]).track_ids is not None


@pytest.mark.parametrize(
    ("index", "expected"),
    [
        (0, [0]),
        (2, [2]),
        (-1, [3]),
        (-4, [0]),
        (np.int64(1), [1]),
        (slice(1, 3), [1, 2]),
        (slice(None, 2), [0, 1]),
        (slice(9, 12), []),
        ([True, False, False, True], [0, 3]),
        (np.array([False, True, True, False]), [1, 2]),
        (np.zeros(4, dtype=np.bool_), []),
        ([1, 2], [1, 2]),
        (np.array([0, 3]), [0, 3]),
        (np.array([-1, -4]), [0, 3]),
        ([], []),
        (np.zeros(0, dtype=np.int64), []),
    ],
)
def test_indexing_selects_objects(index: Any, expected: list[int]) -> None:
    found = tracked([0.9, 0.7, 0.5, 0.3], [5, 6, -1, 7])
    selected = found[index]
    assert isinstance(selected, Detections)
    assert len(selected) == len(expected)
    np.testing.assert_array_equal(selected.boxes, found.boxes[expected])
    np.testing.assert_array_equal(selected.scores, found.scores[expected])
    np.testing.assert_array_equal(selected.class_ids, found.class_ids[expected])
    assert found.track_ids is not None
    assert selected.track_ids is not None
    np.testing.assert_array_equal(selected.track_ids, found.track_ids[expected])
    assert selected.class_names == NAMES


def test_indexing_keeps_the_order_by_score() -> None:
    found = tracked([0.9, 0.7, 0.5], None)
    for selected in (found[[2, 0]], found[np.array([2, 0])]):
        np.testing.assert_array_equal(selected.scores, found.scores[[0, 2]])
    np.testing.assert_array_equal(found[::-1].scores, found.scores)
    assert found[::-1].track_ids is None


def test_detections_are_filtered_by_score_and_by_label() -> None:
    found = tracked([0.9, 0.7, 0.5], None)  # cat, dog, cat
    np.testing.assert_array_equal(found[found.scores > 0.6].scores, found.scores[:2])
    np.testing.assert_array_equal(found[found.labels == "cat"].boxes, found.boxes[[0, 2]])


def test_selecting_objects_does_not_share_or_change_arrays() -> None:
    found = make()
    first = found[:1]
    first.boxes[:] = 99
    np.testing.assert_array_equal(found.boxes, make().boxes)


@pytest.mark.parametrize("index", [2, -3, np.int64(2), [0, 2], np.array([-3]), [True], np.ones(3, dtype=np.bool_)])
def test_an_index_out_of_range_raises(index: Any) -> None:
    with pytest.raises(IndexError):
        make()[index]


@pytest.mark.parametrize(
    "index",
    [
        0.0,
        [0.5],
        np.array([0.0, 1.0]),
        np.zeros(0),
        "cat",
        ["cat"],
        None,
        np.array([[0, 1]]),
        np.zeros((2, 4), np.bool_),
    ],
)
def test_an_index_of_the_wrong_type_raises(index: Any) -> None:
    with pytest.raises(IndexError, match="indexed by an integer, a slice, a boolean mask or a list of integers"):
        make()[index]


def test_labels_are_the_class_names_of_the_objects() -> None:
    assert make().labels.tolist() == ["dog", "cat"]
    assert make(0, (), ()).labels.shape == (0,)


def test_repr_shows_at_most_five_objects() -> None:
    assert repr(make()) == "Detections(dog 0.90, cat 0.50)"
    assert repr(make(0, (), ())) == "Detections(nothing found)"
    many = tracked([0.9, 0.8, 0.7, 0.6, 0.5, 0.4], None)
    assert repr(many) == "Detections(cat 0.90, dog 0.80, cat 0.70, dog 0.60, cat 0.50, ... (6 in all))"


def test_the_html_table_has_one_row_per_object() -> None:
    table = make()._repr_html_()
    assert table.count("<tr>") == 3
    assert "<td>dog</td><td>0.90</td><td>0.0, 1.0, 2.0, 3.0</td>" in table
    assert "<caption>" not in table
    assert make(0, (), ())._repr_html_().count("<tr>") == 1


def test_the_html_table_escapes_class_names() -> None:
    found = replace(make(), class_names=("<script>alert(1)</script>", "a & b"))
    table = found._repr_html_()
    assert "<script>" not in table
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in table
    assert "a &amp; b" in table


def test_the_html_table_is_limited_to_twenty_rows() -> None:
    table = tracked([1 - i / 100 for i in range(30)], None)._repr_html_()
    assert table.count("<tr>") == 21
    assert "30 detections, the best 20 shown" in table


def test_draw_accepts_paths_bytes_arrays_and_pil_images(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    path = tmp_path / "a.png"
    write_image(path, pixels)
    original = pixels.copy()
    found = Detections(np.array([[10, 20, 70, 50]], np.float32), np.array([0.9], np.float32), np.array([0]), NAMES)
    expected = found.draw_on(pixels)
    assert (expected != pixels).any()
    for source in (path, str(path), path.read_bytes(), pixels, Image.fromarray(pixels)):
        for drawn in (found.draw(source), draw(source, found)):
            assert isinstance(drawn, Image.Image)
            assert drawn.mode == "RGB"
            np.testing.assert_array_equal(np.array(drawn), expected)
    np.testing.assert_array_equal(pixels, original)


def test_draw_converts_pil_images_to_rgb() -> None:
    gray = Image.new("L", (80, 60), 40)
    drawn = make().draw(gray)
    np.testing.assert_array_equal(np.array(drawn), make().draw_on(np.full((60, 80, 3), 40, np.uint8)))


def test_draw_can_leave_out_the_scores() -> None:
    image = np.full((200, 200, 3), 40, np.uint8)
    found = Detections(np.array([[40, 60, 120, 150]], np.float32), np.array([0.9], np.float32), np.array([0]), NAMES)
    with_scores, without = (np.array(found.draw(image, with_scores=value)) for value in (True, False))
    color = np.array(class_color(0))
    assert (with_scores == color).all(axis=2).sum() > (without == color).all(
        axis=2
    ).sum() + 100  # the caption with a score is wider


@pytest.mark.parametrize("image", [np.zeros((6, 8), np.int64), np.zeros((6, 8, 2), np.uint8), np.full((6, 8, 3), 9.0)])
def test_draw_of_an_unsupported_array_raises(image: Any) -> None:
    with pytest.raises(ImageError, match=r"value range|expected an image|floats must have values"):
        make().draw(image)


def test_draw_of_a_missing_file_raises(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"missing\.png: no such image"):
        make().draw(tmp_path / "missing.png")


@given(scores=st.lists(st.floats(0, 1, width=32), max_size=6), is_tracked=st.booleans())
def test_supervision_round_trip_changes_nothing(scores: list[float], is_tracked: bool) -> None:
    pytest.importorskip("supervision")
    found = tracked(scores, [index - 1 for index in range(len(scores))] if is_tracked else None)
    converted = found.to_supervision()
    assert converted.data["class_name"].tolist() == [name for name, _, _ in found]
    restored = Detections.from_supervision(converted, NAMES)
    for field in ("boxes", "scores", "class_ids", "track_ids"):
        original, result = getattr(found, field), getattr(restored, field)
        assert (original is None) == (result is None)
        if original is not None:
            assert original.dtype == result.dtype
            np.testing.assert_array_equal(original, result)
    assert restored.class_names == found.class_names


@pytest.mark.parametrize("direction", ["to", "from"])
def test_supervision_detections_share_no_memory(direction: str) -> None:
    pytest.importorskip("supervision")
    found = tracked([0.9, 0.4], [0, 1])
    converted = found.to_supervision()
    changed = converted if direction == "to" else Detections.from_supervision(converted, NAMES)
    for name, array in vars(changed).items():
        if isinstance(array, np.ndarray) and array.size:
            array[:] = 0
            assert not array.any(), name
    original: Any = found if direction == "to" else converted
    kept = (original.boxes, original.scores) if direction == "to" else (original.xyxy, original.confidence)
    np.testing.assert_array_equal(kept[0], tracked([0.9, 0.4], [0, 1]).boxes)
    np.testing.assert_array_equal(kept[1], tracked([0.9, 0.4], [0, 1]).scores)


def test_from_supervision_sorts_by_score_and_needs_no_names() -> None:
    supervision = pytest.importorskip("supervision")
    unsorted = supervision.Detections(
        xyxy=np.array([[0, 0, 1, 1], [2, 2, 3, 3]], float),
        confidence=np.array([0.2, 0.8]),
        class_id=np.array([0, 1]),
        tracker_id=np.array([5, 6]),
    )
    found = Detections.from_supervision(unsorted, NAMES)
    assert [name for name, _, _ in found] == ["dog", "cat"]
    assert found.boxes.tolist() == [[2, 2, 3, 3], [0, 0, 1, 1]]
    assert found.track_ids is not None
    assert found.track_ids.tolist() == [6, 5]
    assert len(Detections.from_supervision(supervision.Detections.empty(), NAMES)) == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"confidence": None}, "need scores and classes"),
        ({"class_id": None}, "need scores and classes"),
        ({"class_id": np.array([0, 2])}, "0..1"),
        ({"data": {"class_name": np.array(["cat", "cow"])}}, "named 'cow' in the supervision detections and 'dog'"),
    ],
)
def test_from_supervision_needs_scores_and_matching_classes(changes: dict[str, object], message: str) -> None:
    supervision = pytest.importorskip("supervision")
    fields = {"xyxy": np.zeros((2, 4)), "confidence": np.array([0.9, 0.8]), "class_id": np.array([0, 1])}
    with pytest.raises(InputError, match=re.escape(message)):
        Detections.from_supervision(supervision.Detections(**fields | changes), NAMES)


def some_detections(track_ids: list[int] | None = None) -> Detections:
    """Return detections whose numbers have all digits of float32."""
    return tracked([0.1, 1 / 3, 0.7, np.nextafter(np.float32(0.9), np.float32(1))], track_ids)


@pytest.mark.parametrize("track_ids", [None, [3, -1, 7, 8]])
def test_columns_have_one_exact_value_per_object(track_ids: list[int] | None) -> None:
    found = some_detections(track_ids)
    columns = found.to_dict()
    tracks = [] if track_ids is None else ["track_id"]
    assert list(columns) == ["class", "class_id", "score", "x1", "y1", "x2", "y2", *tracks]
    assert {len(column) for column in columns.values()} == {4}
    assert {type(value) for column in columns.values() for value in column} == {str, int, float}
    assert columns["class"] == [name for name, _, _ in found]
    assert columns["class_id"] == found.class_ids.tolist()
    np.testing.assert_array_equal(np.array(columns["score"], np.float32), found.scores)
    np.testing.assert_array_equal(
        np.array([columns[side] for side in ("x1", "y1", "x2", "y2")], np.float32).T, found.boxes
    )
    assert columns.get("track_id") == track_ids


def test_pandas_takes_the_columns() -> None:
    pandas = pytest.importorskip("pandas")
    found = some_detections()
    frame = pandas.DataFrame(found.to_dict())
    assert frame.shape == (4, 7)
    text = pandas.read_csv(io.StringIO(frame.to_csv(index=False)))
    np.testing.assert_array_equal(text[["x1", "y1", "x2", "y2"]].to_numpy(np.float32), found.boxes)
    np.testing.assert_array_equal(text["score"].to_numpy(np.float32), found.scores)
    assert pandas.DataFrame(make(0, (), ()).to_dict()).shape == (0, 7)


@pytest.mark.parametrize("track_ids", [None, [3, -1, 7, 8]])
def test_json_has_the_exact_numbers_of_each_object(track_ids: list[int] | None) -> None:
    found = some_detections(track_ids)
    for rows in (json.loads(found.to_json()), json.loads(found.to_json(indent=1))):
        np.testing.assert_array_equal(np.array([row["score"] for row in rows], np.float32), found.scores)
        np.testing.assert_array_equal(np.array([row["box"] for row in rows], np.float32), found.boxes)
        assert [(row["class"], row["class_id"]) for row in rows] == list(
            zip(found.labels, found.class_ids, strict=True)
        )
        assert [row.get("track_id") for row in rows] == (track_ids if track_ids else [None, None, None, None])
    assert found.to_json().count("\n") == 0
    assert make(0, (), ()).to_json() == "[]"


def test_coco_rows_have_image_and_category_ids() -> None:
    found = some_detections()
    rows = found.to_coco(71, (5, 9))
    assert rows == coco_results({71: found}, (5, 9))
    assert [row["category_id"] for row in rows] == [5, 9, 5, 9]
    assert {row["image_id"] for row in rows} == {71}
    x, y, w, h = np.array([row["bbox"] for row in rows]).T
    np.testing.assert_array_equal(np.array([x, y, x + w, y + h], np.float32).T, found.boxes)
    for wrong in ((5,), (5, 9, 11)):
        with pytest.raises(InputError, match=f"one id for each of 2 classes, got {len(wrong)}"):
            found.to_coco(71, wrong)


def test_the_representation_is_one_short_line() -> None:
    assert repr(make()) == "Detections(dog 0.90, cat 0.50)"
    assert repr(make(0, (), ())) == "Detections(nothing found)"
    scores = tuple(np.linspace(0.9, 0.1, 7).tolist())
    seven = replace(make(7, scores, (0,) * 7), class_names=("very\nlong" * 100,))
    assert repr(seven).endswith(" 0.37, ... (7 in all))")
    assert "\n" not in repr(seven)
    assert len(repr(seven)) < 300
