"""Tests of the messages for bad input: each case creates one kind of bad input and checks the message that a user gets.

`docs/bad-input.md` is a table of these cases and messages. If a message changes or a case is added, generate the table
again: `WRITE_TABLES=1 pytest tests/test_bad_input.py`.
"""

import io
import json
import os
import re
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import save as save_tensors

from detector.config import Config
from detector.data.open_data import open_data
from detector.data.split import Split
from detector.errors import InputError
from detector.graph.to_onnx import to_onnx
from detector.images import read_image, write_image
from detector.model.checkpoint import load_weights
from detector.model.make_network import make_network
from detector.runtime.load import load_runtime
from detector.weights_info import WeightsInfo, to_metadata

TABLE = Path(__file__).parents[1] / "docs" / "bad-input.md"
HW = (40, 60)
"""Height and width of the images."""
Read = Callable[[Path], str]
"""Function that creates a bad input in a folder, reads it, and returns the message that the user gets."""


@dataclass(frozen=True)
class Case:
    """One kind of bad input and the message for it.

    Attributes:
        name: short description of the input, for the table.
        read: function that creates the input in a folder, reads it, and returns the message that the user gets.
        expected: text that the message must contain.
    """

    name: str
    read: Read
    expected: str


# Functions that return the message that the user gets: the text of the error, or of the ledger.


def error_message(action: Callable[[], object]) -> str:
    """Run `action` and return the message of the InputError that it must raise."""
    with pytest.raises(InputError) as caught:
        action()
    return str(caught.value)


def ledger_message(split: Split) -> str:
    """Return the ledger entries of a split, or "read: ..." with the number of boxes if there are no entries."""
    return "; ".join(map(str, (*split.ledger.entries, *split.ledger.notes))) or f"read: {split.ledger.summary()}"


def read_message(folder: Path, name: str = "train") -> str:
    """Read a split of the dataset in `folder`, and return the message of the error or of the ledger."""
    try:
        return ledger_message(open_data(folder).read(name))
    except InputError as error:
        return str(error)


# Images.


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    """Return an image as the bytes of an image file in the format `kind`."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def noise(kind: str) -> bytes:
    """Return random pixels, 60 x 40 (width x height), as the bytes of an image file in the format `kind`."""
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    return encoded(Image.fromarray(pixels), kind)


def image_of(content: Callable[[], bytes], name: str = "a.jpg") -> Read:
    """Return a function that reads an image file with the given content."""

    def read(folder: Path) -> str:
        (folder / name).write_bytes(content())
        try:
            height, width, _ = read_image(folder / name).shape
        except InputError as error:
            return str(error)
        return f"read: an image of {width} x {height} pixels"

    return read


def png_header(width: int, height: int) -> bytes:
    """Return a PNG file that has this size in its header, but no pixels."""
    valid = encoded(Image.new("L", (1, 1)), "PNG")
    data = b"IHDR" + struct.pack(">II", width, height) + valid[24:29]
    return valid[:12] + data + struct.pack(">I", zlib.crc32(data)) + valid[33:]


def linked(target: str) -> Read:
    """Return a function that reads an image file that is a symbolic link to `target`."""

    def read(folder: Path) -> str:
        (folder / "a.jpg").symlink_to(target)
        return error_message(lambda: read_image(folder / "a.jpg"))

    return read


def created(create: Callable[[Path], object]) -> Read:
    """Return a function that reads the image path at which `create` has created something."""

    def read(folder: Path) -> str:
        create(folder / "a.jpg")
        return error_message(lambda: read_image(folder / "a.jpg"))

    return read


def animated() -> bytes:
    """Return an animated GIF file of two frames."""
    frames = [Image.new("RGB", (8, 5), color) for color in ("red", "blue")]
    return encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"

IMAGES = [
    Case("empty", image_of(lambda: b""), "is empty"),
    Case("text named .jpg", image_of(lambda: b"<html>not found</html>"), "not an image in a supported format"),
    Case("PostScript named .jpg", image_of(lambda: POSTSCRIPT), "not an image in a supported format"),
    Case("PNG named .jpg", image_of(lambda: noise("PNG")), "read: an image of 60 x 40"),
    Case("animation", image_of(animated, "a.gif"), "read: an image of 8 x 5"),
    *(Case(f"{kind} truncated in the middle",
           image_of(lambda kind=kind: noise(kind)[:1000]), "the image cannot be decoded")  # type: ignore[misc]
      for kind in ("JPEG", "PNG", "WEBP", "TIFF", "BMP")),
    Case("JPEG without its last bytes", image_of(lambda: noise("JPEG")[:-20]), "read: an image of 60 x 40"),
    Case("PNG without pixels", image_of(lambda: png_header(0, 7)), "not an image"),
    Case("decompression bomb", image_of(lambda: png_header(10_000, 9_000)), "allow more pixels with --max-pixels"),
    Case("larger decompression bomb", image_of(lambda: png_header(60_000, 60_000)), "the image is too large"),
    Case("32-bit floats", image_of(lambda: encoded(Image.new("F", (9, 9)), "TIFF")), "8 or 16 bits"),
    Case("missing", lambda folder: error_message(lambda: read_image(folder / "a.jpg")), "no such image"),
    Case("a broken link", linked("gone.jpg"), "no such image"),
    Case("a link to itself", linked("a.jpg"), "cannot be read"),
    Case("a folder", created(Path.mkdir), "not a regular file"),
    Case("a pipe", created(getattr(os, "mkfifo", Path.mkdir)), "not a regular file"),
    Case("a very long name", lambda folder: error_message(lambda: read_image(folder / ("a" * 300))), "name too long"),
]  # fmt: skip


# YOLO.


def blank(path: Path) -> None:
    """Write a black image, and create its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_image(path, np.zeros((*HW, 3), np.uint8))


def write(path: Path, content: str | bytes) -> Path:
    """Write a file, create its folder, and return the path of the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def yolo(folder: Path, yaml: str = "train: images\nnames: [cat, dog]\n") -> Path:
    """Create a valid YOLO dataset of one image in `folder`, and return the folder."""
    blank(folder / "images" / "a.png")
    write(folder / "labels" / "a.txt", "0 0.5 0.5 0.2 0.2\n")
    write(folder / "data.yaml", yaml)
    return folder


def label(content: str | bytes) -> Read:
    """Return a function that reads a YOLO dataset with this content of the label file."""

    def read(folder: Path) -> str:
        write(yolo(folder) / "labels" / "a.txt", content)
        return read_message(folder)

    return read


def yolo_with(*changes: Callable[[Path], object], yaml: str = "train: images\nnames: [cat, dog]\n") -> Read:
    """Return a function that reads a YOLO dataset after `changes` have modified its folder."""

    def read(folder: Path) -> str:
        yolo(folder, yaml)
        for change in changes:
            change(folder)
        return read_message(folder)

    return read


def data_yaml(content: str) -> Read:
    """Return a function that reads a YOLO dataset with this content of data.yaml."""
    return lambda folder: read_message(write(yolo(folder) / "data.yaml", content).parent)


def outside_image(folder: Path) -> Path:
    """Create an image with labels in a folder beside the dataset, and return the path of the image."""
    write(folder.parent / "private" / "labels" / "s.txt", "0 0.5 0.5 0.2 0.2\n")
    blank(folder.parent / "private" / "images" / "s.png")
    return folder.parent / "private" / "images" / "s.png"


def link_to_outside(folder: Path, name: str) -> None:
    """Create the symbolic link `name` in `folder`; it points to an image outside of the dataset."""
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).symlink_to(outside_image(folder))


def list_of(row: Callable[[Path], str]) -> Read:
    """Return a function that reads a YOLO dataset whose list of images contains images/a.png and a second row."""

    def read(folder: Path) -> str:
        outside_image(yolo(folder, "train: train.txt\nnames: [cat, dog]\n"))
        write(folder / "train.txt", f"images/a.png\n{row(folder)}\n")
        return read_message(folder)

    return read


def second_image(name: str) -> Callable[[Path], None]:
    """Return a function that adds a black image to a dataset."""
    return lambda folder: blank(folder / name)


ALIASES = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{b}: &{b} [{','.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)

YOLO = [
    Case("NaN as a coordinate", label("0 nan 0.5 0.1 0.1"), "is not finite"),
    Case("infinity as a size", label("0 0.5 0.5 0.1 inf"), "is not finite"),
    Case("negative size", label("0 0.5 0.5 -0.1 0.1"), "both must be above 0"),
    Case("zero area", label("0 0.5 0.5 0 0.1"), "both must be above 0"),
    Case("negative, outside of the image", label("0 -0.5 -0.5 0.1 0.1"), "has no area inside the image"),
    Case("outside of the image", label("0 1.5 0.5 0.1 0.1"), "has no area inside the image"),
    Case("partly outside of the image", label("0 0.95 0.5 0.2 0.2"), "clipped"),
    Case("percent instead of fractions", label("0 50 50 10 10"), "look like pixels; expected fractions"),
    Case("pixels instead of fractions", label("0 30 20 10 10"), "look like pixels; expected fractions"),
    Case("unknown class", label("7 0.5 0.5 0.1 0.1"), "class 7 is not a whole number from 0 to 1"),
    Case("class by name", label("cat 0.5 0.5 0.1 0.1"), "'cat' is not a number"),
    Case("class with decimals", label("0.5 0.5 0.5 0.1 0.1"), "class 0.5 is not a whole number"),
    Case("too few columns", label("0 0.5 0.5 0.1"), "4 columns; expected"),
    Case("a score as sixth column", label("0 0.5 0.5 0.1 0.1 0.9"), "6 columns; expected"),
    Case("decimal commas", label("0 0,5 0,5 0,1 0,1"), "is not a number"),
    Case("commas as separators", label("0,0.5,0.5,0.1,0.1"), "1 columns; expected"),
    Case("an underscore in a number", label("0 0.5 0.5 0_1 0.1"), "'0_1' is not a number"),
    Case("a row of a million letters", label("0 0.5 0.5 0.1 " + "x" * 1_000_000), "is not a number"),
    Case("terminal control characters", label("0 0.5 0.5 0.1 \x1b[2J\x1b]0;gotcha\x07"), "is not a number"),
    Case("zero bytes", label(b"0 0.5 0.5 0.1 0.1\n\0\0\0\0"), "1 columns"),
    Case("duplicate row", label("0 0.5 0.5 0.1 0.1\n" * 2), "read: 2 boxes found = 2 used"),
    Case("CRLF, BOM, tabs, comments, blank lines", label("\ufeff# comment\r\n\r\n0\t0.5\t0.5\t0.1\t0.1\r\n"), "1 used"),
    Case("empty label file", label(""), "1 background"),
    Case("not UTF-8", label(b"0 0.5 0.5 0.1 0.1\n# caf\xe9"), "a.txt:2: not UTF-8"),
    Case("UTF-16", label("0 0.5 0.5 0.1 0.1\n".encode("utf-16")), "not UTF-8"),
    Case("no label file for any image", yolo_with(lambda f: (f / "labels/a.txt").unlink()), "none of the 1 image of"),
    Case("label file without image", yolo_with(lambda f: write(f / "labels/z.txt", "0 0.5 0.5 0.1 0.1\n")),
         "there is no image for this label file"),
    Case("two images with the same stem", yolo_with(second_image("images/a.jpg")), "rename one of the images"),
    Case("an image file that is not an image", yolo_with(lambda f: write(f / "images/a.png", "x")),
         "the only image cannot be used"),
    Case("no image", yolo_with(lambda f: (f / "images/a.png").unlink()), "the split contains no images"),
    Case("no such folder", data_yaml("train: photos\nnames: [cat]\n"), "train is photos, which does not exist"),
    Case("an image listed twice", list_of(lambda _: "images/a.png"), "1 repeated line in the lists"),
    Case("a missing image in a list", list_of(lambda _: "images/gone.png"), "read: 1 box found"),
    Case("a listed name too long for a file", list_of(lambda _: "a" * 300 + ".png"), "train.txt:2: not a valid path"),
    Case("a list that leaves the folder with ..",
         list_of(lambda _: "images/../../private/images/s.png"), "train.txt:2"),
    Case("a list that leaves the folder with an absolute path",
         list_of(lambda f: str(outside_image(f))), "train.txt:2"),
    Case("an image that is a link out of the folder", yolo_with(partial(link_to_outside, name="images/b.png")),
         "is outside of the dataset's folder"),
    Case("labels that are a link out of the folder",
         yolo_with(second_image("images/b.png"), partial(link_to_outside, name="labels/b.txt")), "is outside of"),
]  # fmt: skip

DATA_YAML = [
    Case("not YAML", data_yaml("train: images\nnames: [a, b\n"), "data.yaml:3: column 1: not YAML"),
    Case("a list", data_yaml("- a\n"), "not the YAML file of a dataset"),
    Case("empty", data_yaml(""), "not the YAML file of a dataset"),
    Case("nested 1,000 deep", data_yaml("names: " + "[" * 1_000), "nested too deeply"),
    Case("an alias bomb as classes", data_yaml(ALIASES + "train: images\nnames: *i\n"), "`names` must list"),
    Case("an alias bomb as class count", data_yaml(ALIASES + "train: images\nnames: [a]\nnc: *i\n"), "`nc` must be"),
    Case("an alias bomb as format", data_yaml(ALIASES + "format: *i\n"), "unknown key 'a'"),
    Case("a Python object", data_yaml("train: !!python/object/apply:os.system [echo]\nnames: [a]\n"),
         "train is echo, which does not exist"),
    Case("the same class twice", data_yaml("train: images\nnames: [cat, cat]\n"), "contains 'cat' twice"),
    Case("class ids that do not start at 0", data_yaml("train: images\nnames: {1: cat}\n"), "must be 0, 1, 2"),
    Case("`nc` that differs from the number of names", data_yaml("train: images\nnames: [cat]\nnc: 2\n"), "`nc` is 2"),
    Case("no split", data_yaml("names: [cat]\n"), "expected at least one of `train`"),
    Case("a folder name too long", data_yaml(f"train: {'a' * 300}\nnames: [cat]\n"), "not a valid path"),
    Case("unknown format", data_yaml("format: cooc\npath: .\n"), "did you mean 'coco'"),
    Case("a misspelled key", data_yaml("format: coco\npath: .\nexpcted: 3\n"), "did you mean 'expected'"),
    Case("a `path` that leads back to the same data.yaml", data_yaml("format: yolo\npath: .\n"),
         "no file names the classes"),
    Case("missing data", data_yaml("format: coco\npath: gone\nsource: https://example.org\n"), "get the data from"),
    Case("another number of boxes than expected",
         lambda folder: read_message(write(yolo(folder / "d") / "../data.yaml",
                                      "format: yolo\npath: d\nexpected: {train: {boxes: 5}}\n")), "train has 1 boxes"),
    Case("a path that does not exist", lambda folder: read_message(folder / "gone"), "no such file or folder"),
    Case("an unknown layout", lambda folder: read_message(folder), "not a dataset in a known format"),
]  # fmt: skip


# COCO.


def coco(folder: Path, **changes: Any) -> Path:
    """Create a COCO dataset of one image in `folder`, and return the folder.

    `changes` replace the lists `images`, `categories` and `annotations`. A dictionary as `annotations` replaces keys of
    the only annotation.
    """
    blank(folder / "images" / "a.png")
    row = {"id": 1, "image_id": 5, "category_id": 3, "bbox": [1, 2, 30, 20], "area": 600}
    data = {
        "images": [{"id": 5, "file_name": "a.png", "height": HW[0], "width": HW[1]}],
        "categories": [{"id": 3, "name": "cat"}],
        "annotations": [row],
    }
    for key, value in changes.items():
        data[key] = [row | value] if key == "annotations" and isinstance(value, dict) else value
    write(folder / "train.json", json.dumps(data, indent=0))
    return folder


def coco_with(**changes: Any) -> Read:
    """Return a function that reads a COCO dataset with the `changes` of `coco`."""
    return lambda folder: read_message(coco(folder, **changes))


def coco_text(content: str | bytes) -> Read:
    """Return a function that reads a COCO dataset with this content of the annotation file."""
    return lambda folder: read_message(write(coco(folder) / "train.json", content).parent)


def coco_image(name: Callable[[Path], str]) -> Read:
    """Return a function that reads a COCO dataset that lists a valid image and a second image with this name."""

    def read(folder: Path) -> str:
        outside_image(folder)
        two = [{"id": i, "file_name": n, "height": HW[0], "width": HW[1]} for i, n in ((5, "a.png"), (6, name(folder)))]
        return read_message(coco(folder, images=two))

    return read


def coco_link(folder: Path) -> str:
    """Create an image that is a symbolic link out of the dataset, and return its name."""
    (folder / "images").mkdir()
    link_to_outside(folder, "images/b.png")
    return "b.png"


ROW = {"id": 1, "image_id": 5, "category_id": 3, "bbox": [1, 2, 30, 20]}
NESTED = f'{{"images": [{"[" * 900 + "]" * 900}], "annotations": [], "categories": [{{"id": 1}}]}}'
COCO = [
    Case("NaN in a bbox", coco_with(annotations={"bbox": [float("nan"), 2, 3, 4]}), "is not finite"),
    Case("infinity in a bbox", coco_with(annotations={"bbox": [1, 2, float("inf"), 4]}), "is not finite"),
    Case("negative size (swapped corners)", coco_with(annotations={"bbox": [30, 20, -10, 4]}), "both must be above 0"),
    Case("zero area", coco_with(annotations={"bbox": [30, 20, 0, 4]}), "both must be above 0"),
    Case("outside of the image", coco_with(annotations={"bbox": [60, 20, 10, 4]}), "has no area inside"),
    Case("partly outside of the image", coco_with(annotations={"bbox": [50, 20, 20, 4]}), "clipped"),
    Case("a bbox of three numbers", coco_with(annotations={"bbox": [1, 2, 3]}), "is not four numbers"),
    Case("text in a bbox", coco_with(annotations={"bbox": [1, 2, "wide", 4]}), "is not four numbers"),
    Case("a bbox with 400 digits", coco_with(annotations={"bbox": [1, 2, 10**400, 4]}), "is not finite"),
    Case("no bbox", coco_with(annotations={"bbox": None}), "bbox is missing"),
    Case("unknown category", coco_with(annotations={"category_id": 9}), "category_id 9 is not among"),
    Case("unknown image", coco_with(annotations={"image_id": 9}), "image_id 9 is not among"),
    Case("true as an id", coco_with(annotations={"image_id": True}), "image_id True is not among"),
    Case("a row that is text", coco_with(annotations=["row"]), "expected an object"),
    Case("duplicate row", coco_with(annotations=[ROW, ROW]), "read: 2 boxes found = 2 used"),
    Case("an image id twice", coco_with(images=[{"id": 5, "file_name": n} for n in "ab"]), "id 5 twice"),
    Case("an image twice", coco_with(images=[{"id": i, "file_name": "a.png"} for i in (5, 6)]), "two images have"),
    Case("a category id twice", coco_with(categories=[{"id": 3, "name": n} for n in "ab"]), "id 3 twice"),
    Case("no category", coco_with(categories=[]), "`categories` is empty"),
    Case("a list as id", coco_with(images=[{"id": [5], "file_name": "a.png"}]), "with a whole number as `id`"),
    Case("an image without name", coco_with(images=[{"id": 5}]), "image 5 has no `file_name`"),
    Case("a missing image", coco_image(lambda _: "gone.png"), "1 image left out"),
    Case("all images missing", coco_with(images=[{"id": 5, "file_name": "gone.png"}]), "the only image cannot be used"),
    Case("a name too long for a file", coco_image(lambda _: "a" * 300), "1 image left out"),
    Case("a name with a zero byte", coco_image(lambda _: "a\0.png"), "1 image left out"),
    Case("half of a UTF-16 surrogate pair as name", coco_image(lambda _: "\ud800.png"), "1 image left out"),
    Case("a name that leaves the folder with ..", coco_image(lambda _: "../../private/images/s.png"), "is outside of"),
    Case("a name that leaves the folder with an absolute path",
         coco_image(lambda f: str(outside_image(f))), "outside of"),
    Case("a system file as image", coco_image(lambda _: "/etc/passwd"), "/etc/passwd is outside of"),
    Case("an image that is a link out of the folder", coco_image(coco_link), "is outside of"),
    Case("not JSON", coco_text('{"images": [],\n "annotations" []}'), "train.json:2: not JSON"),
    Case("truncated", coco_text('{"images": [{"id": 5, "file_na'), "train.json:1: not JSON"),
    Case("empty", coco_text(""), "train.json:1: not JSON"),
    Case("a list", coco_text("[]"), "expected an object with the list `images`"),
    Case("no annotations", coco_text('{"images": []}'), "expected an object with the list `annotations`"),
    Case("nested 100,000 deep", coco_text("[" * 100_000), "nested too deeply"),
    Case("an image nested 900 deep", coco_text(NESTED), "expected an object with a whole number as `id`"),
    Case("a number of 5,000 digits", coco_text('{"images": ' + "9" * 5000 + "}"), "a number with thousands of digits"),
    Case("not UTF-8", coco_text(b'{\n"info": "caf\xe9"}'), "train.json:2: not UTF-8"),
]  # fmt: skip


# Pascal VOC.


def item(name: str = "cat", box: str = "1 2 30 20") -> str:
    """Return an <object> element with this class name and these corners."""
    corners = zip(("xmin", "ymin", "xmax", "ymax"), box.split(), strict=False)
    return f"<object><name>{name}</name><bndbox>{''.join(f'<{k}>{v}</{k}>' for k, v in corners)}</bndbox></object>\n"


def voc(folder: Path, *objects: str, prolog: str = "") -> Path:
    """Create a Pascal VOC dataset of one image in `folder`, and return the folder."""
    blank(folder / "JPEGImages" / "a.png")
    write(folder / "Annotations" / "a.xml", f"{prolog}<annotation>\n{''.join(objects)}</annotation>\n")
    return folder


def voc_with(*objects: str, prolog: str = "") -> Read:
    """Return a function that reads a Pascal VOC dataset with one valid object and these further objects."""
    return lambda folder: read_message(voc(folder, item(), *objects, prolog=prolog))


def voc_text(content: str | bytes) -> Read:
    """Return a function that reads a Pascal VOC dataset with this content of the XML file."""
    return lambda folder: read_message(write(voc(folder, item()) / "Annotations" / "a.xml", content).parents[1])


def voc_and(change: Callable[[Path], object]) -> Read:
    """Return a function that reads a Pascal VOC dataset after `change` has modified its folder."""

    def read(folder: Path) -> str:
        outside_image(folder)
        change(voc(folder, item()))
        return read_message(folder)

    return read


def voc_names(name: str) -> Callable[[Path], object]:
    """Return a function that adds an XML file with this <filename> to a Pascal VOC dataset."""
    content = f"<annotation><filename>{name}</filename>{item()}</annotation>"
    return lambda folder: write(folder / "Annotations" / "s.xml", content)


ENTITY_BOMB = '<!DOCTYPE a [<!ENTITY a "ha">' + "".join(
    f'<!ENTITY {b} "{f"&{a};" * 10}">' for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)

MAIN = "ImageSets/Main"
VOC = [
    Case("NaN as a corner", voc_with(item(box="nan 2 9 20")), "is not finite"),
    Case("infinity as a corner", voc_with(item(box="1 2 inf 20")), "is not finite"),
    Case("swapped corners", voc_with(item(box="30 2 1 20")), "both must be above 0"),
    Case("zero area", voc_with(item(box="1 2 1 20")), "both must be above 0"),
    Case("outside of the image", voc_with(item(box="60 2 70 20")), "has no area inside"),
    Case("partly outside of the image", voc_with(item(box="-5 2 30 20")), "clipped"),
    Case("text as a corner", voc_with(item(box="1 2 x 20")), "<xmax> is 'x', not a number"),
    Case("a missing corner", voc_with(item(box="1 2 3")), "no <ymax>"),
    Case("no box", voc_with("<object><name>cat</name></object>\n"), "the object has no <bndbox>"),
    Case("no name", voc_with(item(name="")), "the object has no <name>"),
    Case("duplicate object", voc_with(item()), "read: 2 boxes found = 2 used"),
    Case("an entity bomb", voc_with(prolog=ENTITY_BOMB + "]>\n"),
         "a.xml:1: a document type declaration is not allowed"),
    Case("an external entity", voc_with(prolog='<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]>\n'),
         "a document type declaration is not allowed"),
    Case("an undeclared entity", voc_with("&x;"), "not XML: undefined entity"),
    Case("truncated", voc_text("<annotation>\n<object>"), "a.xml:2: not XML"),
    Case("empty", voc_text(""), "a.xml:1: not XML: no element found"),
    Case("a web page", voc_text("<html><body/></html>"), "the root element is <html>, expected <annotation>"),
    Case("an unknown encoding", voc_text('<?xml version="1.0" encoding="nonsense"?><annotation/>'), "not XML"),
    Case("nested 100,000 deep", voc_text("<annotation>" + "<a>" * 100_000), "not XML: no element found"),
    Case("an XML file without image", voc_and(voc_names("gone.png")), "gone.png not found"),
    Case("a name that leaves the folder with ..", voc_and(voc_names("../../private/images/s.png")), "is outside of"),
    Case("a system file as image", voc_and(voc_names("/etc/passwd")), "/etc/passwd is outside of"),
    Case("two images with the same stem", voc_and(second_image("JPEGImages/a.jpg")),
         "a may be data/JPEGImages/a.png or data/JPEGImages/a.jpg"),
    Case("a list with an unknown name", voc_and(lambda f: write(f / MAIN / "train.txt", "a\nz\n")), "train.txt:2"),
    Case("a list with the same name twice", voc_and(lambda f: write(f / MAIN / "train.txt", "a\na\n")),
         "listed more than once; used once"),
    Case("no object in any file", voc_text("<annotation/>"), "contains an object with a class name"),
]  # fmt: skip


# Weights.

INFO = WeightsInfo("pico", ("cat", "dog"), (3, 17), (64, 96), {"lr": "auto"}, {})


def tensors() -> dict[str, Any]:
    """Return the floating-point tensors of a network with random weights and two classes: name → tensor."""
    network = make_network(Config(model="pico"), 2, np.zeros(3, np.float32), np.eye(3, dtype=np.float32))
    return {name: tensor.contiguous() for name, tensor in network.state_dict().items() if tensor.is_floating_point()}


def weights_of(content: Callable[[], bytes]) -> Read:
    """Return a function that loads a weights file with this content."""
    return lambda folder: error_message(lambda: load_weights(write(folder / "w.safetensors", content())))


def valid_weights() -> bytes:
    """Return the bytes of a valid weights file."""
    return save_tensors(tensors(), to_metadata(INFO))


def metadata_with(**changes: Any) -> Read:
    """Return a function that loads a weights file with changed metadata values."""
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in changes.items()}
    return weights_of(lambda: save_tensors(tensors(), to_metadata(INFO) | texts))


def tensors_with(change: Callable[[dict[str, Any]], object]) -> Read:
    """Return a function that loads a weights file after `change` has modified its tensors."""

    def content() -> bytes:
        changed = tensors()
        change(changed)
        return save_tensors(changed, to_metadata(INFO))

    return weights_of(content)


BIAS = "heads.0.output.bias"
WEIGHTS = [
    Case("missing", lambda folder: error_message(lambda: load_weights(folder / "w.safetensors")),
         "no such weights file"),
    Case("a very long name", lambda folder: error_message(lambda: load_weights("a" * 5000)), "cannot be opened"),
    Case("empty", weights_of(lambda: b""), "not a readable safetensors file"),
    Case("truncated", weights_of(lambda: valid_weights()[:-1000]), "not a readable safetensors file"),
    Case("a PyTorch pickle", weights_of(lambda: b"PK\3\4" + bytes(500)), "not a readable safetensors file"),
    Case("a header of a terabyte", weights_of(lambda: struct.pack("<Q", 10**12) + b"{}"), "not a readable safetensors"),
    Case("from another program", weights_of(lambda: save_tensors(tensors())), "written by another program or version"),
    Case("in a newer format", metadata_with(format="detector-weights-99"), "written by another program or version"),
    Case("with a setting from a newer version",
         metadata_with(config={"futuristic": 3}), "unknown setting 'futuristic'"),
    Case("with a setting out of range", metadata_with(config={"kernel": 99}), "kernel: must be from 3 to 9"),
    Case("with an unknown model size", metadata_with(model='"giant"'), "model: expected pico or nano"),
    Case("settings that are not a mapping", metadata_with(config=[1, 2]), "config must be a mapping of settings"),
    Case("classes that are not a list", metadata_with(class_names='"cat"'), "class_names must be a list of 1 to"),
    Case("different numbers of classes and ids", metadata_with(class_names=["cat"]), "1 class names, 2 category ids"),
    Case("an infinite input size", metadata_with(input_hw="[Infinity, 64]"), "input_hw must be two multiples of 32"),
    Case("an input size that exceeds the memory",
         metadata_with(input_hw=[3_200_000, 3_200_000]), "input_hw must be two multiples"),
    Case("too many classes",
         metadata_with(class_names=["a"] * 70_000), "class_names must be a list of 1 to 65,536 names"),
    Case("more classes than outputs",
         metadata_with(class_names=["a"] * 1000, category_ids=[1] * 1000), "no layer has that many outputs"),
    Case("very long metadata", metadata_with(facts={"a": "x" * 200_000}), "expected at most 100,000"),
    Case("metadata nested 100,000 deep", metadata_with(facts="[" * 100_000), "the metadata is damaged"),
    Case("metadata that is not JSON", metadata_with(facts="{"), "the metadata is damaged"),
    Case("a missing tensor", tensors_with(lambda t: t.pop(BIAS)), f"tensor {BIAS} is missing"),
    Case("an extra tensor", tensors_with(lambda t: t.update(extra=t[BIAS].clone())),
         "tensor extra is not part of the network"),
    Case("a wrong shape", tensors_with(lambda t: t.update({BIAS: t[BIAS][:3].clone()})), "has shape [3], expected [6]"),
    Case("a wrong type", tensors_with(lambda t: t.update({BIAS: t[BIAS].long()})), "has type int64"),
    Case("NaN in a tensor", tensors_with(lambda t: t[BIAS].fill_(float("nan"))), "contains NaN or infinite values"),
]  # fmt: skip


@pytest.fixture(scope="module")
def graph() -> bytes:
    """Return the bytes of a valid ONNX file."""
    network = make_network(Config(model="pico"), 2, np.full(3, 99, np.float32), np.eye(3, dtype=np.float32))
    return to_onnx(network.eval(), INFO, INFO.input_hw)


# Kind of damage in `damaged_graph` → (name of the case in the table, text that the message must contain).
GRAPHS: dict[str, tuple[str, str]] = {
    "empty": ("empty", "not a readable ONNX file"),
    "cut": ("truncated", "not a readable ONNX file"),
    "foreign": ("from another program", "written by another program or version"),
    "settings": ("settings that are not a mapping", "config must be a mapping of settings"),
    "classes": ("a different number of classes than outputs", "export it again from its .safetensors"),
    "input size": ("a different input size than the graph's", "export it again from its .safetensors"),
    "input": ("a renamed input", "export it again from its .safetensors"),
    "nan": ("NaN in a tensor", "damaged"),
}


def damaged_graph(kind: str, valid: bytes) -> bytes:
    """Return a damaged copy of the ONNX file `valid`; `kind` is a key of `GRAPHS`."""
    import onnx

    if kind in ("empty", "cut"):
        return b"" if kind == "empty" else valid[:5000]
    model = onnx.load_from_string(valid)
    changes = {"settings": {"config": "[1]"}, "classes": {"class_names": '["a"]', "category_ids": "[1]"},
               "input size": {"input_hw": "[32, 32]"}}  # fmt: skip
    if kind == "foreign":
        del model.metadata_props[:]
    elif kind == "input":
        for node in model.graph.node:
            node.input[:] = ["photo" if name == "image" else name for name in node.input]
        model.graph.input[0].name = "photo"
    elif kind == "nan":
        first = next(t for t in model.graph.initializer if len(t.dims) == 4)
        values = onnx.numpy_helper.to_array(first).copy()
        values.flat[0] = np.nan
        first.CopyFrom(onnx.numpy_helper.from_array(values, first.name))
    for prop in model.metadata_props:
        prop.value = changes.get(kind, {}).get(prop.key, prop.value)
    return bytes(model.SerializeToString())


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("kind", GRAPHS)
def test_damaged_graph_is_refused_by_every_runtime(graph: bytes, kind: str, runtime: Any, tmp_path: Path) -> None:
    path = write(tmp_path / "w.onnx", damaged_graph(kind, graph))
    with pytest.raises(InputError, match=re.escape(GRAPHS[kind][1])) as caught:
        load_runtime(path, runtime=runtime)
    assert str(path) in str(caught.value)


# The table.

SECTIONS = {
    "Images": IMAGES,
    "YOLO labels and lists": YOLO,
    "data.yaml and dataset descriptions": DATA_YAML,
    "COCO JSON": COCO,
    "Pascal VOC XML": VOC,
    "Weights (.safetensors)": WEIGHTS,
}
CASES = [pytest.param(case, id=f"{title}: {case.name}") for title, cases in SECTIONS.items() for case in cases]

# Parts of messages that differ between versions (messages of libraries, the list of settings) → text in the table.
LIBRARY_MESSAGES = [
    (re.compile(r"image cannot be decoded \(.*\)"), "image cannot be decoded (...)"),
    (re.compile(r"readable safetensors file \(.*\)"), "readable safetensors file (...)"),
    (re.compile(r"image is too large \(Image size.*\):"), "image is too large (...):"),
    (re.compile(r"metadata is damaged \(.*\)"), "metadata is damaged (...)"),
    (re.compile(r"not YAML: .*"), "not YAML: ..."),
    (re.compile(r"('futuristic'.*known:) .*"), r"\1 ..."),
]


def message_of(case: Case, folder: Path) -> str:
    """Return the message for a case, without paths; the folder is created."""
    (folder / "data").mkdir(parents=True)
    return case.read(folder / "data").replace(str(folder / "data"), "data").replace(str(folder), "elsewhere")


@pytest.mark.parametrize("case", CASES)
def test_bad_input_gives_the_expected_message(case: Case, tmp_path: Path) -> None:
    message = message_of(case, tmp_path / "x")
    assert case.expected in message
    assert len(message) < 2500


def render_table(folder: Path) -> str:
    """Return the text of docs/bad-input.md; the cases are read in `folder`."""
    lines = [
        "# Bad input and its messages", "",
        "Generated and checked by `tests/test_bad_input.py`. `data` is the folder of the dataset. Each row of a label",
        "file is used, or it is recorded in `ledger.json` of the run with file, line and reason, or the whole file is",
        "refused. A message that starts with \"read\" means that the input is valid. (...) stands for the message of a",
        "library.",
    ]  # fmt: skip
    for title, cases in SECTIONS.items():
        lines += ["", f"## {title}", "", "| input | message |", "| --- | --- |"]
        for number, case in enumerate(cases):
            message = message_of(case, folder / title / str(number))
            for pattern, replacement in LIBRARY_MESSAGES:
                message = pattern.sub(replacement, message)
            message = message.replace("\n", " ")
            message = re.sub(r"(.)\1{60,}", r"\1\1\1...", message)
            message = re.sub(r"[\x00-\x1f\x7f]", lambda found: f"\\x{ord(found[0]):02x}", message)
            message = message.replace("|", "\\|").encode("ascii", "backslashreplace").decode()
            lines.append(f"| {case.name} | `` {message} `` |")
    lines += ["", "## Weights (.onnx)", "", "| input | message |", "| --- | --- |"]
    lines += [f"| {name} | ... {message} |" for name, message in GRAPHS.values()]
    return "\n".join(lines) + "\n"


def test_documented_table_is_current(tmp_path: Path) -> None:
    expected = render_table(tmp_path)
    if os.environ.get("WRITE_TABLES"):
        TABLE.write_text(expected, encoding="utf-8")
    text = TABLE.read_text(encoding="utf-8")
    assert all(line.isprintable() for line in text.split("\n"))
    assert text == expected, "run WRITE_TABLES=1 pytest tests/test_bad_input.py"
