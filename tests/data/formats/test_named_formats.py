import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from detector.data.formats.named_formats import NAMED_FORMATS
from detector.data.image_labels import LabelFormat, NamedRow
from detector.errors import InputError

VIA_IMAGE = {
    "filename": "a.jpg",
    "size": 9,
    "regions": [
        {
            "shape_attributes": {"name": "rect", "x": 1, "y": 2, "width": 3, "height": 4},
            "region_attributes": {"class": "cat"},
        }
    ],
}
PERCENT = {"x": 100 / 60, "y": 200 / 40, "width": 300 / 60, "height": 400 / 40}
SAMPLES: dict[str, Any] = {
    "Pascal VOC": "<annotation><filename>a.jpg</filename><object><name>cat</name>"
    "<bndbox><xmin>1</xmin><ymin>2</ymin><xmax>4</xmax><ymax>6</ymax></bndbox></object></annotation>",
    "CreateML JSON": [
        {
            "image": "a.jpg",
            "annotations": [{"label": "cat", "coordinates": {"x": 2.5, "y": 4, "width": 3, "height": 4}}],
        }
    ],
    "VIA JSON": {"a.jpg9": VIA_IMAGE},
    "Supervisely JSON": {
        "size": {"height": 40, "width": 60},
        "objects": [{"classTitle": "cat", "geometryType": "rectangle", "points": {"exterior": [[1, 2], [4, 6]]}}],
    },
    "LabelMe JSON": {
        "imagePath": "a.jpg",
        "shapes": [{"label": "cat", "shape_type": "rectangle", "points": [[1, 2], [4, 6]]}],
    },
    "Label Studio JSON": [
        {
            "data": {"image": "a.jpg"},
            "annotations": [{"result": [{"type": "rectanglelabels", "value": PERCENT | {"rectanglelabels": ["cat"]}}]}],
        }
    ],
    "Datumaro JSON": {
        "categories": {"label": {"labels": [{"name": "cat"}]}},
        "items": [{"id": "a", "annotations": [{"type": "bbox", "label_id": 0, "bbox": [1, 2, 3, 4]}]}],
    },
    "VoTT JSON": {
        "name": "x",
        "assets": {
            "0": {
                "asset": {"name": "a.jpg", "size": {"width": 60, "height": 40}, "state": 2},
                "regions": [{"tags": ["cat"], "boundingBox": {"left": 1, "top": 2, "width": 3, "height": 4}}],
            }
        },
    },
    "VoTT asset JSON": {
        "asset": {"name": "a.jpg", "size": {"width": 60, "height": 40}, "state": 2},
        "regions": [{"tags": ["cat"], "boundingBox": {"left": 1, "top": 2, "width": 3, "height": 4}}],
    },
    "Scalabel JSON": [
        {"name": "a.jpg", "labels": [{"category": "cat", "box2d": {"x1": 1, "y1": 2, "x2": 4, "y2": 6}}]},
    ],
    "SuperAnnotate JSON": {
        "metadata": {"name": "a.jpg", "width": 60, "height": 40},
        "instances": [{"type": "bbox", "className": "cat", "points": {"x1": 1, "y1": 2, "x2": 4, "y2": 6}}],
    },
    "Hugging Face JSON lines": '{"file_name": "a.jpg", "objects": {"bbox": [[1, 2, 3, 4]], "categories": ["cat"]}}\n',
    "SageMaker manifest": '{"source-ref": "s3://x/a.jpg", "boxes": {"image_size": [{"width": 60, "height": 40}], '
    '"annotations": [{"class_id": 0, "left": 1, "top": 2, "width": 3, "height": 4}]}, '
    '"boxes-metadata": {"class-map": {"0": "cat"}}}\n',
    "CVAT XML": '<annotations><image name="a.jpg">'
    '<box label="cat" xtl="1" ytl="2" xbr="4" ybr="6"/></image></annotations>',
    "VIA CSV": "filename,file_size,file_attributes,region_count,region_id,region_shape_attributes,region_attributes\n"
    'a.jpg,9,"{}",1,0,"{""name"":""rect"",""x"":1,""y"":2,""width"":3,""height"":4}","{""class"":""cat""}"\n',
    "Open Images CSV": "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded\n"
    f"a,xclick,cat,1,{1 / 60},{4 / 60},{2 / 40},{6 / 40},0\n",
    "Hugging Face CSV": 'file_name,objects\na.jpg,"{""bbox"": [[1, 2, 3, 4]], ""categories"": [0]}"\n',
    "CSV table": "filename,width,height,class,xmin,ymin,xmax,ymax\na.jpg,60,40,cat,1,2,4,6\n",
    "KITTI text": "cat 0 0 -1 1 2 4 6 1 1 1 1 1 1 1\n",
    "VisDrone text": "1,2,3,4,1,4,0,0\n",
    "DOTA text": "1 2 4 2 4 6 1 6 cat 0\n",
    "MOT text": "1,1,1,2,3,4,1,1,1\n",
    "class name text": "cat 1 2 4 6\n",
    "Keras YOLO text": "a.jpg 1,2,4,6,0\n",
}
"""Name of the format → a file with one cat (VisDrone: car) at (1, 2, 4, 6) in an image named a, a.jpg or 000001.jpg."""

FOREIGN: dict[str, Any] = {
    "COCO": {"images": [], "annotations": [], "categories": [], "info": {}, "licenses": []},
    "COCO results": [{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}],
    "GeoJSON": {"type": "FeatureCollection", "features": [{"type": "Feature", "properties": {}, "geometry": None}]},
    "package.json": {"name": "x", "version": "1", "dependencies": {"a": "1"}},
    "notes.json": {"categories": [{"id": 0, "name": "cat"}], "info": {"year": 2026}},
    "meta.json": {"classes": [{"title": "cat", "shape": "rectangle"}], "tags": [], "projectType": "images"},
    "empty list": [],
    "empty object": {},
    "number": 3,
    "text": "cat",
    "lists": [[1], [2]],
    "JSON lines of Hugging Face without boxes": [{"file_name": "a.jpg", "text": "a cat"}],
    "JSON lines of a chat": [{"messages": [{"role": "user", "content": "cat"}]}],
    "VIA 3": {"project": {"pid": "x"}, "config": {}, "attribute": {}, "file": {}, "metadata": {}, "view": {}},
}
FOREIGN_TEXT = {
    "results.csv": "epoch,train/box_loss,metrics/mAP50(B)\n1,0.5,0.1\n",
    "classes.csv": "cat\ndog\n",
    "README.txt": "This dataset has 15 images.\n\nhttps://universe.roboflow.com/x\nProvided by a user of Roboflow\n",
    "YOLO txt": "0 0.5 0.5 0.2 0.2\n1 0.1 0.1 0.1 0.1\n",
    "YOLO polygon": "0 0.5 0.5 0.2 0.2 0.1 0.1 0.5 0.5 0.2 0.2 0.1 0.1 0.3 0.4\n",
    "list of images": "images/a.jpg\nimages/b.jpg\n",
    "predictions.csv": "image,score\na.jpg,0.5\n",
    "empty": "",
    "blank": "\n\n",
    "ICDAR text": "377,117,463,117,465,130,378,130,Genaxis Theatre\n",
    "corners with commas": "10,20,50,20,50,30,10,30\n",
}


def argument(kind: str, sample: Any) -> Any:
    """Return the argument of `matches` for a sample."""
    if kind == "json":
        return sample
    if kind == "jsonl":
        return [json.loads(line) for line in sample.split("\n")[:20] if line]
    return ElementTree.fromstring(sample).tag if kind == "xml" else sample.split("\n")[:20]


def kinds_of(sample: Any) -> set[str]:
    """Return the kinds of formats that a sample may be opened as."""
    if not isinstance(sample, str):
        return {"json"}
    if sample.startswith("{"):
        return {"jsonl"}
    return {"xml"} if sample.startswith("<") else {"csv", "txt"}


def matching(sample: Any, kinds: set[str]) -> list[str]:
    """Return the names of the formats that match a sample."""
    return [f.name for f in NAMED_FORMATS if f.kind in kinds and f.matches(argument(f.kind, sample))]


def test_every_format_has_a_sample() -> None:
    assert list(SAMPLES) == [f.name for f in NAMED_FORMATS]


@pytest.mark.parametrize("name", SAMPLES)
def test_only_its_own_format_matches_a_sample(name: str) -> None:
    assert matching(SAMPLES[name], kinds_of(SAMPLES[name])) == [name]


@pytest.mark.parametrize("label_format", NAMED_FORMATS, ids=lambda f: f.name)
def test_every_format_reads_the_same_box(label_format: LabelFormat, tmp_path: Path) -> None:
    sample = SAMPLES[label_format.name]
    path = tmp_path / ("a.json" if label_format.kind == "json" else "a.txt")
    path.write_text(sample if isinstance(sample, str) else json.dumps(sample))
    for name in ("_classes.txt", "classes.txt", "labels.txt"):
        (tmp_path / name).write_text("cat\n")
    [labels] = label_format.read(path)
    [row] = labels.rows
    assert isinstance(row, NamedRow), row
    assert labels.label_file == path
    assert labels.image_name in ("a.jpg", "a", "../img1/000001.jpg")
    scale = [60, 40, 60, 40] if labels.are_fractions else [1, 1, 1, 1]
    assert [value * s for value, s in zip(row.corners, scale, strict=True)] == pytest.approx([1, 2, 4, 6])
    assert row.class_name == ("car" if label_format.name == "VisDrone text" else "cat")


def replaced(value: Any, new: Any) -> Iterator[Any]:
    """Yield copies of a JSON value in which one part is replaced by `new`, for every part."""
    yield new
    if isinstance(value, dict):
        for key in value:
            yield from (value | {key: part} for part in replaced(value[key], new))
            yield {k: v for k, v in value.items() if k != key}
    if isinstance(value, list):
        for i in range(len(value)):
            yield from ([*value[:i], part, *value[i + 1 :]] for part in replaced(value[i], new))


@pytest.mark.parametrize(
    "new", [None, True, 3, -1, 1e400, "", "x", "9" * 400, [], [[]], [None], {}, {"x": {}}], ids=str
)
@pytest.mark.parametrize(
    "label_format", [f for f in NAMED_FORMATS if f.kind in ("json", "jsonl")], ids=lambda f: f.name
)
def test_any_value_in_any_place_is_handled(label_format: LabelFormat, new: Any, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    sample = SAMPLES[label_format.name]
    for value in replaced(json.loads(sample) if isinstance(sample, str) else sample, new):
        label_format.matches([value] if label_format.kind == "jsonl" else value)
        path.write_text(json.dumps(value))
        with contextlib.suppress(InputError):
            for labels in label_format.read(path):
                assert labels.image_name
                for row in labels.rows:
                    assert (row.class_name if isinstance(row, NamedRow) else row.error.reason) != ""


@pytest.mark.parametrize("name", FOREIGN)
def test_foreign_json_matches_no_format(name: str) -> None:
    assert matching(FOREIGN[name], {"json"}) == []
    values = FOREIGN[name] if isinstance(FOREIGN[name], list) else [FOREIGN[name]]
    assert [f.name for f in NAMED_FORMATS if f.kind == "jsonl" and f.matches(values)] == []


@pytest.mark.parametrize("name", FOREIGN_TEXT)
def test_foreign_text_matches_no_format(name: str) -> None:
    assert matching(FOREIGN_TEXT[name], {"csv", "txt"}) == []


@pytest.mark.parametrize("tag", ["project", "feed", "html", "svg", "{http://maven.apache.org/POM/4.0.0}project"])
def test_foreign_xml_matches_no_format(tag: str) -> None:
    assert [f.name for f in NAMED_FORMATS if f.kind == "xml" and f.matches(tag)] == []
