"""Writes Pascal VOC: JPEGImages/, one XML file per image in Annotations/, lists of splits in ImageSets/Main/.

VOC has no list of classes. A dataset description, data.yaml, contains the names in the order of the class ids.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from xml.sax.saxutils import escape

from detector.annotation import Annotation
from detector.data.formats.yolo_writer import check_different_names, quoted_list
from detector.data.label_writer import LabelWriter, shortest, write_text
from detector.data.split import Split
from detector.errors import LabelError

_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that XML 1.0 cannot contain, not even escaped. Source: XML 1.0, section 2.2."""

_OBJECT = """\
  <object>
    <name>{name}</name>
    <pose>Unspecified</pose>
    <truncated>0</truncated>
    <difficult>{difficult}</difficult>
    <bndbox>
      <xmin>{0}</xmin>
      <ymin>{1}</ymin>
      <xmax>{2}</xmax>
      <ymax>{3}</ymax>
    </bndbox>
  </object>
"""

_FILE = """\
<?xml version="1.0" encoding="UTF-8"?>
<annotation>
  <folder>JPEGImages</folder>
  <filename>{file_name}</filename>
  <size>
    <width>{width}</width>
    <height>{height}</height>
    <depth>3</depth>
  </size>
  <segmented>0</segmented>
{objects}</annotation>
"""


def _image_folder(folder: Path, split_name: str) -> Path:
    """Return the folder for the images; it is the same for all splits."""
    return folder / "JPEGImages"


def _check(splits: Sequence[Split]) -> None:
    """Raise LabelError if two classes have the same name, or if XML cannot hold a name exactly."""
    for split in splits:
        check_different_names(split.class_names, "Pascal VOC")
        for class_id, name in enumerate(split.class_names):
            if not name or name != name.strip() or _NOT_XML.search(name):
                raise LabelError(
                    f"class {class_id} has the name {name!r:.60}, which Pascal VOC cannot hold: a name must not be "
                    "empty, start or end with a space, or contain control characters; rename the class first"
                )


def _write(folder: Path, splits: Sequence[Split]) -> None:
    """Write one XML file per image, also for background images, the lists of the splits, and the description."""
    names = splits[0].class_names
    for split in splits:
        for annotation in split.annotations:
            path = folder / "Annotations" / f"{annotation.image_path.stem}.xml"
            write_text(path, _xml(annotation, names))
        stems = "".join(f"{annotation.image_path.stem}\n" for annotation in split.annotations)
        write_text(folder / "ImageSets" / "Main" / f"{split.name}.txt", stems)
    write_text(folder / "data.yaml", f"format: voc\npath: .\nnames:\n{quoted_list(names)}")


def _xml(annotation: Annotation, class_names: Sequence[str]) -> str:
    """Return the contents of the XML file of an image."""
    rows = zip(annotation.boxes, annotation.class_ids, annotation.is_crowd, strict=True)
    objects = "".join(
        _OBJECT.format(*map(shortest, box), name=_escape(class_names[class_id]), difficult=int(is_crowd))
        for box, class_id, is_crowd in rows
    )
    height, width = annotation.image_hw
    return _FILE.format(file_name=_escape(annotation.image_path.name), width=width, height=height, objects=objects)


def _escape(text: str) -> str:
    r"""Return text escaped for XML. A parser would replace an unescaped `\r` by `\n`."""
    return escape(text, {"\r": "&#13;"})


WRITER = LabelWriter(
    "Pascal VOC",
    _image_folder,
    _check,
    _write,
    keeps_crowd=True,
    keeps_partial_labels=False,
    keeps_areas=False,
    accepts_any_path=False,
)
