"""The report of an evaluation: a valid page without other files, right numbers, any names, any data."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from detector.annotation import Annotation
from detector.cli.commands import main
from detector.data.ledger import Ledger
from detector.data.split import Split
from detector.errors import ImageError, InputError
from detector.evaluating.evaluate import evaluate
from detector.evaluating.evaluation import Evaluation
from detector.evaluating.report.subject import Subject
from detector.evaluating.report.write import REPORT_FILES, write_report
from detector.metrics.average_precision import average_precision
from detector.output_folder import claim_folder

VOID = {"meta", "br", "img", "input", "hr", "link"}


class Page(HTMLParser):
    """Parses a page: asserts that every element is closed, and collects attributes and text.

    Attributes:
        ids: values of all attributes `id`.
        links: values of all attributes `href`, `src` and `xlink:href`.
        images: attributes of all elements that are images.
        tags: names of all elements.
        text: the text of the page, without the style.
    """

    def __init__(self, html: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.tags: set[str] = set()
        self.text = ""
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.tags.add(tag)
        self.ids += [values["id"] or ""] if "id" in values else []
        self.links += [values[name] or "" for name in ("href", "src", "xlink:href") if name in values]
        if tag == "img" or values.get("role") == "img":
            self.images.append(values)
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self._open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open[-1:] != ["style"]:
            self.text += data


def check_page(folder: Path) -> Page:
    """Assert that a page is complete, loads nothing, and has a text for each image; return it."""
    html = (folder / "report.html").read_text(encoding="utf-8")
    page = Page(html)
    assert "nan" not in re.findall(r"[a-z]+", page.text.lower())
    assert not re.search(r"https?:|//|url\(|@import", re.sub(r"base64,[A-Za-z0-9+/=]*", "", html))
    assert all(image.get("alt") or image.get("aria-label") for image in page.images)
    assert len(set(page.ids)) == len(page.ids)
    for link in page.links:
        assert link.startswith("data:image/jpeg;base64,") or link.removeprefix("#") in page.ids
    assert "script" not in page.tags
    for plot in (folder / "plots").iterdir():
        ElementTree.parse(plot)
    json.loads((folder / "report.json").read_text(), parse_constant=pytest.fail)
    return page


Item = tuple[int, int, list[float]]


def make_report(
    folder: Path,
    objects: list[Item],
    found: list[tuple[int, int, list[float], float]],
    *,
    images: int = 2,
    names: tuple[str, ...] = ("a", "b"),
    file_name: str = "{}.png",
    most_bytes: int = 8_000_000,
    readable: bool = True,
) -> Page:
    """Write the report of made-up data: objects (image, class, box) and detections (image, class, box, score)."""
    truth: dict[str, Any] = {
        "images": [{"id": i, "width": 120, "height": 90, "file_name": file_name.format(i)} for i in range(images)],
        "categories": [{"id": i, "name": name} for i, name in enumerate(names)],
        "annotations": [
            {"id": i + 1, "image_id": image, "category_id": category, "bbox": box, "area": box[2] * box[3]}
            for i, (image, category, box) in enumerate(objects)
        ],
    }
    rows = [{"image_id": i, "category_id": c, "bbox": box, "score": score} for i, c, box, score in found]

    def annotation(image: int) -> Annotation:
        count = sum(own == image for own, *_ in objects)
        boxes = np.tile(np.array([0, 0, 9, 9], np.float32), (count, 1))
        ids, crowd = np.zeros(count, np.int64), np.zeros(count, np.bool_)
        path = Path(file_name.format(image))
        return Annotation(image, path, (90, 120), boxes, ids, crowd, np.full(count, 81, np.float32))

    def read_image(annotation: Annotation) -> np.ndarray[Any, Any]:
        if not readable:
            raise ImageError(f"{annotation.image_path}: damaged")
        return np.random.default_rng(annotation.image_id).integers(0, 255, (90, 120, 3)).astype(np.uint8)

    annotations = tuple(annotation(image) for image in range(images))
    split = Split("test", names, tuple(range(len(names))), annotations, Ledger(), read_image, from_files=False)
    evaluation = Evaluation(average_precision(truth, rows), rows, truth, rows, split=split).with_intervals(1)
    with claim_folder(folder, "testing", names=REPORT_FILES) as output:
        write_report(output, Subject("weights", {"weights": names[0]}), evaluation, most_bytes=most_bytes)
    return check_page(folder)


BOX, AWAY = [10.0, 10.0, 30.0, 20.0], [70.0, 50.0, 25.0, 25.0]
OBJECTS: list[Item] = [(0, 0, BOX), (0, 1, AWAY), (1, 0, AWAY)]
FOUND = [(0, 0, BOX, 0.9), (0, 0, AWAY, 0.8), (1, 1, BOX, 0.7), (1, 0, AWAY, 0.6)]


@pytest.mark.parametrize("with_weights", [True, False])
def test_report_of_a_data_set_has_the_metrics_of_evaluate(
    tiny_data: Path, tiny_weights: Path, tmp_path: Path, with_weights: bool
) -> None:
    data, out = ["evaluate", "--data", str(tiny_data), "--report", str(tmp_path / "report")], tmp_path / "report"
    subject = ["--weights", str(tiny_weights), "--device", "cpu", "--results", str(tmp_path / "found.json")]
    assert main([*data, *subject]) == 0
    if not with_weights:
        assert main([*data, "--detections", str(tmp_path / "found.json")]) == 0
    page = check_page(out)
    values = json.loads((out / "report.json").read_text())
    ap = evaluate(tiny_data, tiny_weights, device="cpu")
    assert values["metrics"] == json.loads(json.dumps(ap.to_json()))
    assert values["about"]["SHA-256 of the weights" if with_weights else "SHA-256 of the detections"] in page.text
    assert (values["images_per_second"] is not None) == with_weights


def test_report_shows_each_kind_of_outcome(tmp_path: Path) -> None:
    page = make_report(tmp_path / "r", OBJECTS, FOUND)
    values = json.loads((tmp_path / "r" / "report.json").read_text())
    assert values["score_threshold"] == 0.6
    assert values["confusion"]["matrix"] == [[2, 0, 0], [1, 0, 0], [0, 1, 0]]
    assert values["all_classes_at_threshold"]["precision"] == 0.5
    assert {"cell-1-0", "cell-2-1"} <= set(page.ids)
    assert "2 of 2 false positives" in " ".join(page.text.split())
    labels = [str(image["aria-label"]) for image in page.images if image.get("style")]
    assert any("a 0.80, truth: b" in label and "1 false positive" in label for label in labels)


@pytest.mark.parametrize(
    "name", ["<script>alert(1)</script>", '"><img src=x>', "a\u202egpj.exe", "\x00\x1b[2J", "שלום & co"]
)
def test_names_cannot_change_the_page(tmp_path: Path, name: str) -> None:
    plain = make_report(tmp_path / "plain", OBJECTS, FOUND)
    page = make_report(
        tmp_path / "r", OBJECTS, FOUND, names=(name, "b"), file_name=name.replace("/", "-").replace("\x00", "") + "{}"
    )
    assert page.tags == plain.tags
    assert len(page.images) == len(plain.images)
    html = (tmp_path / "r" / "report.html").read_text(encoding="utf-8")
    assert not set(html) & set("\u202e\x00\x1b")


@pytest.mark.parametrize(
    ("objects", "found", "images"),
    [
        (OBJECTS, [], 2),
        ([], FOUND, 2),
        ([], [], 2),
        (OBJECTS[:1], FOUND[:1], 1),
        (OBJECTS[:1], FOUND, 2),
        (OBJECTS[:1], [(0, 0, BOX, 7.5), (1, 1, BOX, -3.0)], 2),
    ],
    ids=["no detections", "no objects", "nothing", "one image", "class without objects", "scores are no probabilities"],
)
def test_report_without_some_of_the_data(
    tmp_path: Path, objects: list[Item], found: list[tuple[int, int, list[float], float]], images: int
) -> None:
    page = make_report(tmp_path / "r", objects, found, images=images)
    values = json.loads((tmp_path / "r" / "report.json").read_text())
    assert (values["metrics"]["AP"] == -1) == (not objects)
    assert "AP-1" not in page.text
    assert (
        ("they are no probabilities" in page.text) == (values["calibration"] is None) == any(s > 1 for *_, s in found)
    )


def test_report_needs_an_image(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="at least one image"):
        make_report(tmp_path / "r", [], [], images=0)


def test_report_leaves_out_images_above_the_size_limit(tmp_path: Path) -> None:
    page = make_report(tmp_path / "r", OBJECTS, FOUND, most_bytes=120_000)
    assert "More were left out" in page.text
    shown = [image for image in page.images if image.get("style")]
    assert shown
    assert f"{len(shown)} images and parts of images" in page.text
    assert "More were left out" not in make_report(tmp_path / "all", OBJECTS, FOUND).text


def test_images_that_cannot_be_read_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    page = make_report(tmp_path / "r", OBJECTS, FOUND, readable=False)
    assert not [image for image in page.images if image.get("style")]
    assert "not shown in the report: 0.png: damaged" in caplog.text


def test_a_class_named_background_is_told_from_the_background(tmp_path: Path) -> None:
    page = make_report(tmp_path / "r", [(0, 1, BOX)], [(0, 0, BOX, 0.9)], names=("a", "background"))
    values = json.loads((tmp_path / "r" / "report.json").read_text())
    assert values["confusion"]["classes"] == ["a", "background (class)", "background"]
    assert "truth: background (class), detected as: a" in page.text


def test_matrix_of_many_classes_shows_those_with_errors(tmp_path: Path) -> None:
    names = tuple(f"class {i}" for i in range(30))
    objects: list[Item] = [(0, i, BOX) for i in range(25)]
    page = make_report(tmp_path / "r", objects, [(0, 29, AWAY, 0.9), (1, 29, AWAY, 0.9), (0, 3, BOX, 0.8)], names=names)
    assert "The 20 of 30 classes with the most errors" in page.text
    assert "detected as: class 29" in page.text
    matrix = json.loads((tmp_path / "r" / "report.json").read_text())["confusion"]["matrix"]
    assert (len(matrix), sum(map(sum, matrix))) == (31, 27)
