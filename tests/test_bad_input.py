"""Every kind of bad input, how it is made, and what a user is told; `docs/bad-input.md` is this list as a table.

After a change of a message or a new case, write the table anew: `WRITE_TABLES=1 pytest tests/test_bad_input.py`.
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
from detector.model.network import GridNetwork
from detector.runtime.load import load_runtime
from detector.weights_info import WeightsInfo, to_metadata

TABLE = Path(__file__).parents[1] / "docs" / "bad-input.md"
HW = (40, 60)
Make = Callable[[Path], str]


@dataclass(frozen=True)
class Case:
    """One kind of bad input.

    Attributes:
        what: it is, in words.
        make: makes it in a folder, reads it as a user would and returns what the user is told.
        says: a part of that.
    """

    what: str
    make: Make
    says: str


# What the user is told: the message of a refusal, or the account of the rows.


def refusal(action: Callable[[], object]) -> str:
    with pytest.raises(InputError) as caught:
        action()
    return str(caught.value)


def account(split: Split) -> str:
    return "; ".join(map(str, split.ledger.entries)) or f"read: {split.ledger.summary()}"


def told_of(folder: Path, name: str = "train") -> str:
    try:
        return account(open_data(folder).read(name))
    except InputError as error:
        return str(error)


# Images.


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def noise(kind: str) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    return encoded(Image.fromarray(pixels), kind)


def image_of(content: Callable[[], bytes], name: str = "a.jpg") -> Make:
    def make(folder: Path) -> str:
        (folder / name).write_bytes(content())
        try:
            height, width, _ = read_image(folder / name).shape
        except InputError as error:
            return str(error)
        return f"read: an image of {width} x {height} pixels"

    return make


def png_head(width: int, height: int) -> bytes:
    head = encoded(Image.new("L", (1, 1)), "PNG")
    data = b"IHDR" + struct.pack(">II", width, height) + head[24:29]
    return head[:12] + data + struct.pack(">I", zlib.crc32(data)) + head[33:]


def linked(target: str) -> Make:
    def make(folder: Path) -> str:
        (folder / "a.jpg").symlink_to(target)
        return refusal(lambda: read_image(folder / "a.jpg"))

    return make


def special(create: Callable[[Path], object]) -> Make:
    def make(folder: Path) -> str:
        create(folder / "a.jpg")
        return refusal(lambda: read_image(folder / "a.jpg"))

    return make


def animated() -> bytes:
    frames = [Image.new("RGB", (8, 5), color) for color in ("red", "blue")]
    return encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"

IMAGES = [
    Case("empty", image_of(lambda: b""), "is empty"),
    Case("text called .jpg", image_of(lambda: b"<html>not found</html>"), "not an image in a format"),
    Case("PostScript called .jpg", image_of(lambda: POSTSCRIPT), "not an image in a format"),
    Case("PNG called .jpg", image_of(lambda: noise("PNG")), "read: an image of 60 x 40"),
    Case("animation", image_of(animated, "a.gif"), "read: an image of 8 x 5"),
    *(Case(f"{kind} cut off in the middle", image_of(lambda kind=kind: noise(kind)[:1500]), "does not decode")  # type: ignore[misc]
      for kind in ("JPEG", "PNG", "WEBP", "TIFF", "BMP")),
    Case("no pixels", image_of(lambda: png_head(0, 7)), "not an image"),
    Case("decompression bomb", image_of(lambda: png_head(10_000, 9_000)), "allow more with --max-pixels"),
    Case("larger decompression bomb", image_of(lambda: png_head(60_000, 60_000)), "too large an image"),
    Case("32-bit floats", image_of(lambda: encoded(Image.new("F", (9, 9)), "TIFF")), "8 or 16 bits"),
    Case("not there", lambda folder: refusal(lambda: read_image(folder / "a.jpg")), "no such image"),
    Case("a link to nowhere", linked("gone.jpg"), "no such image"),
    Case("a ring of links", linked("a.jpg"), "cannot be read"),
    Case("a folder", special(Path.mkdir), "not a file with content of its own"),
    Case("a pipe", special(os.mkfifo), "not a file with content of its own"),
    Case("a very long name", lambda folder: refusal(lambda: read_image(folder / ("a" * 300))), "name too long"),
]  # fmt: skip


# YOLO.


def blank(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_image(path, np.zeros((*HW, 3), np.uint8))


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def yolo(folder: Path, yaml: str = "train: images\nnames: [cat, dog]\n") -> Path:
    blank(folder / "images" / "a.png")
    write(folder / "labels" / "a.txt", "0 0.5 0.5 0.2 0.2\n")
    write(folder / "data.yaml", yaml)
    return folder


def label(content: str | bytes) -> Make:
    def make(folder: Path) -> str:
        write(yolo(folder) / "labels" / "a.txt", content)
        return told_of(folder)

    return make


def yolo_with(*changes: Callable[[Path], object], yaml: str = "train: images\nnames: [cat, dog]\n") -> Make:
    def make(folder: Path) -> str:
        yolo(folder, yaml)
        for change in changes:
            change(folder)
        return told_of(folder)

    return make


def data_yaml(content: str) -> Make:
    return lambda folder: told_of(write(yolo(folder) / "data.yaml", content).parent)


def outside_image(folder: Path) -> Path:
    """An image and its labels in a neighbor of the data set's folder."""
    write(folder.parent / "private" / "labels" / "s.txt", "0 0.5 0.5 0.2 0.2\n")
    blank(folder.parent / "private" / "images" / "s.png")
    return folder.parent / "private" / "images" / "s.png"


def link_to_outside(folder: Path, name: str) -> None:
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).symlink_to(outside_image(folder))


def list_of(row: Callable[[Path], str]) -> Make:
    def make(folder: Path) -> str:
        outside_image(yolo(folder, "train: train.txt\nnames: [cat, dog]\n"))
        write(folder / "train.txt", f"images/a.png\n{row(folder)}\n")
        return told_of(folder)

    return make


def second_image(name: str) -> Callable[[Path], None]:
    return lambda folder: blank(folder / name)


ALIASES = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{b}: &{b} [{','.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)

YOLO = [
    Case("not a number", label("0 nan 0.5 0.1 0.1"), "is not finite"),
    Case("infinite", label("0 0.5 0.5 0.1 inf"), "is not finite"),
    Case("negative size", label("0 0.5 0.5 -0.1 0.1"), "both must be above 0"),
    Case("zero area", label("0 0.5 0.5 0 0.1"), "both must be above 0"),
    Case("negative, outside of the image", label("0 -0.5 -0.5 0.1 0.1"), "has no area inside the image"),
    Case("outside of the image", label("0 1.5 0.5 0.1 0.1"), "has no area inside the image"),
    Case("reaching out of the image", label("0 0.95 0.5 0.2 0.2"), "clipped"),
    Case("percent instead of shares", label("0 50 50 10 10"), "look like pixels; expected shares"),
    Case("pixels instead of shares", label("0 30 20 10 10"), "look like pixels; expected shares"),
    Case("unknown class", label("7 0.5 0.5 0.1 0.1"), "class 7 is not a whole number from 0 to 1"),
    Case("class by name", label("cat 0.5 0.5 0.1 0.1"), "'cat' is not a number"),
    Case("class with decimals", label("0.5 0.5 0.5 0.1 0.1"), "class 0.5 is not a whole number"),
    Case("too few columns", label("0 0.5 0.5 0.1"), "4 columns; expected"),
    Case("a score as sixth column", label("0 0.5 0.5 0.1 0.1 0.9"), "6 columns; expected"),
    Case("decimal commas", label("0 0,5 0,5 0,1 0,1"), "is not a number"),
    Case("commas between", label("0,0.5,0.5,0.1,0.1"), "1 columns; expected"),
    Case("an underscore in a number", label("0 0.5 0.5 0_1 0.1"), "'0_1' is not a number"),
    Case("a row of a million letters", label("0 0.5 0.5 0.1 " + "x" * 1_000_000), "is not a number"),
    Case("commands for the terminal", label("0 0.5 0.5 0.1 \x1b[2J\x1b]0;gotcha\x07"), "is not a number"),
    Case("zero bytes", label(b"0 0.5 0.5 0.1 0.1\n\0\0\0\0"), "1 columns"),
    Case("duplicate row", label("0 0.5 0.5 0.1 0.1\n" * 2), "read: 2 boxes found = 2 used"),
    Case("CRLF, BOM, tabs, comments, blank lines", label("\ufeff# mine\r\n\r\n0\t0.5\t0.5\t0.1\t0.1\r\n"), "1 used"),
    Case("empty label file", label(""), "1 background"),
    Case("not UTF-8", label(b"0 0.5 0.5 0.1 0.1\n# caf\xe9"), "a.txt:2: not UTF-8"),
    Case("UTF-16", label("0 0.5 0.5 0.1 0.1\n".encode("utf-16")), "not UTF-8"),
    Case("no label file for any image", yolo_with(lambda f: (f / "labels/a.txt").unlink()), "none of the 1 images"),
    Case("label file without image", yolo_with(lambda f: write(f / "labels/z.txt", "0 0.5 0.5 0.1 0.1\n")),
         "there is no image for this label file"),
    Case("two images of one stem", yolo_with(second_image("images/a.jpg")), "belongs to both"),
    Case("an image that is none", yolo_with(lambda f: write(f / "images/a.png", "x")), "no images"),
    Case("no image", yolo_with(lambda f: (f / "images/a.png").unlink()), "no images (none named)"),
    Case("no such folder", data_yaml("train: images\nnames: [cat]\n"), "is neither a folder nor a .txt list"),
    Case("an image listed twice", list_of(lambda _: "images/a.png"), "lists data/images/a.png 2 times"),
    Case("a listed image that is not there", list_of(lambda _: "images/gone.png"), "read: 1 boxes found"),
    Case("a listed name too long for a file", list_of(lambda _: "a" * 300 + ".png"), "train.txt:2: no file can be at"),
    Case("a list that leads out with ..", list_of(lambda _: "images/../../private/images/s.png"), "train.txt:2"),
    Case("a list that leads out with an absolute path", list_of(lambda f: str(outside_image(f))), "train.txt:2"),
    Case("an image that is a link out of the folder", yolo_with(partial(link_to_outside, name="images/b.png")),
         "lies outside of the data set's folder"),
    Case("labels that are a link out of the folder",
         yolo_with(second_image("images/b.png"), partial(link_to_outside, name="labels/b.txt")), "lies outside of"),
]  # fmt: skip

DESCRIPTORS = [
    Case("not YAML", data_yaml("train: images\nnames: [a, b\n"), "data.yaml:3: column 1: not YAML"),
    Case("a list", data_yaml("- a\n"), "neither a YOLO data.yaml"),
    Case("empty", data_yaml(""), "neither a YOLO data.yaml"),
    Case("nested 1,000 deep", data_yaml("names: " + "[" * 1_000), "nested too deeply"),
    Case("a bomb of aliases as classes", data_yaml(ALIASES + "train: images\nnames: *i\n"), "`names` must list"),
    Case("a bomb of aliases as count", data_yaml(ALIASES + "train: images\nnames: [a]\nnc: *i\n"), "`nc` must be"),
    Case("a bomb of aliases as format", data_yaml(ALIASES + "format: *i\n"), "unknown key 'a'"),
    Case("a Python object", data_yaml("train: !!python/object/apply:os.system [echo]\nnames: [a]\n"),
         "is neither a folder nor a .txt list"),
    Case("the same class twice", data_yaml("train: images\nnames: [cat, cat]\n"), "holds 'cat' twice"),
    Case("classes that do not count from 0", data_yaml("train: images\nnames: {1: cat}\n"), "must count 0, 1, 2"),
    Case("another number of classes", data_yaml("train: images\nnames: [cat]\nnc: 2\n"), "`nc` is 2"),
    Case("no split", data_yaml("names: [cat]\n"), "expected at least one of `train`"),
    Case("a folder name too long", data_yaml(f"train: {'a' * 300}\nnames: [cat]\n"), "no file can be at"),
    Case("unknown format", data_yaml("format: cooc\npath: .\n"), "did you mean 'coco'"),
    Case("a misspelt key", data_yaml("format: coco\npath: .\nexpcted: 3\n"), "did you mean 'expected'"),
    Case("a descriptor of itself", data_yaml("format: yolo\npath: .\n"), "`names` must list"),
    Case("no data there", data_yaml("format: coco\npath: gone\nsource: https://example.org\n"), "get the data from"),
    Case("another number of boxes",
         lambda folder: told_of(write(yolo(folder / "d") / "../mine.yaml",
                                      "format: yolo\npath: d\nexpected: {train: {boxes: 5}}\n")), "train has 1 boxes"),
    Case("no such file", lambda folder: told_of(folder / "gone"), "no such file or folder"),
    Case("an unknown layout", lambda folder: told_of(folder), "not a data set in a known layout"),
]  # fmt: skip


# COCO.


def coco(folder: Path, **changes: Any) -> Path:
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


def coco_with(**changes: Any) -> Make:
    return lambda folder: told_of(coco(folder, **changes))


def coco_text(content: str | bytes) -> Make:
    return lambda folder: told_of(write(coco(folder) / "train.json", content).parent)


def coco_image(name: Callable[[Path], str]) -> Make:
    def make(folder: Path) -> str:
        outside_image(folder)
        two = [{"id": i, "file_name": n, "height": HW[0], "width": HW[1]} for i, n in ((5, "a.png"), (6, name(folder)))]
        return told_of(coco(folder, images=two))

    return make


def coco_link(folder: Path) -> str:
    (folder / "images").mkdir()
    link_to_outside(folder, "images/b.png")
    return "b.png"


ROW = {"id": 1, "image_id": 5, "category_id": 3, "bbox": [1, 2, 30, 20]}
NESTED = f'{{"images": [{"[" * 900 + "]" * 900}], "annotations": [], "categories": [{{"id": 1}}]}}'
COCO = [
    Case("not a number", coco_with(annotations={"bbox": [float("nan"), 2, 3, 4]}), "is not finite"),
    Case("infinite", coco_with(annotations={"bbox": [1, 2, float("inf"), 4]}), "is not finite"),
    Case("negative size (swapped corners)", coco_with(annotations={"bbox": [30, 20, -10, 4]}), "both must be above 0"),
    Case("zero area", coco_with(annotations={"bbox": [30, 20, 0, 4]}), "both must be above 0"),
    Case("outside of the image", coco_with(annotations={"bbox": [60, 20, 10, 4]}), "has no area inside"),
    Case("reaching out of the image", coco_with(annotations={"bbox": [50, 20, 20, 4]}), "clipped"),
    Case("three numbers", coco_with(annotations={"bbox": [1, 2, 3]}), "is not four numbers"),
    Case("numbers as text", coco_with(annotations={"bbox": [1, 2, "3", 4]}), "is not four numbers"),
    Case("a number of 400 digits", coco_with(annotations={"bbox": [1, 2, 10**400, 4]}), "is not four numbers"),
    Case("no bbox", coco_with(annotations={"bbox": None}), "bbox is missing"),
    Case("unknown category", coco_with(annotations={"category_id": 9}), "category_id 9 is not among"),
    Case("unknown image", coco_with(annotations={"image_id": 9}), "image_id 9 is not among"),
    Case("true as an id", coco_with(annotations={"image_id": True}), "image_id True is not among"),
    Case("a row that is text", coco_with(annotations=["row"]), "expected an object"),
    Case("duplicate row", coco_with(annotations=[ROW, ROW]), "read: 2 boxes found = 2 used"),
    Case("an image id twice", coco_with(images=[{"id": 5, "file_name": n} for n in "ab"]), "id 5 twice"),
    Case("an image twice", coco_with(images=[{"id": i, "file_name": "a.png"} for i in (5, 6)]), "two images have"),
    Case("a category id twice", coco_with(categories=[{"id": 3, "name": n} for n in "ab"]), "id 3 twice"),
    Case("no category", coco_with(categories=[]), "there is no class to find"),
    Case("an id as text", coco_with(images=[{"id": "5", "file_name": "a.png"}]), "with a whole number `id`"),
    Case("an image without name", coco_with(images=[{"id": 5}]), "image 5 has no `file_name`"),
    Case("an image that is not there", coco_image(lambda _: "gone.png"), "1 images missing"),
    Case("no image there", coco_with(images=[{"id": 5, "file_name": "gone.png"}]), "none of the 1 named there"),
    Case("a name too long for a file", coco_image(lambda _: "a" * 300), "1 images missing"),
    Case("a name with a zero byte", coco_image(lambda _: "a\0.png"), "1 images missing"),
    Case("half a UTF-16 pair as name", coco_image(lambda _: "\ud800.png"), "1 images missing"),
    Case("a name that leads out with ..", coco_image(lambda _: "../../private/images/s.png"), "lies outside of"),
    Case("a name that leads out with an absolute path", coco_image(lambda f: str(outside_image(f))), "outside of"),
    Case("a system file as image", coco_image(lambda _: "/etc/passwd"), "/etc/passwd lies outside of"),
    Case("an image that is a link out of the folder", coco_image(coco_link), "lies outside of"),
    Case("not JSON", coco_text('{"images": [],\n "annotations" []}'), "train.json:2: not JSON"),
    Case("cut off", coco_text('{"images": [{"id": 5, "file_na'), "train.json:1: not JSON"),
    Case("empty", coco_text(""), "train.json:1: not JSON"),
    Case("a list", coco_text("[]"), "expected an object with the list `images`"),
    Case("no annotations", coco_text('{"images": []}'), "expected an object with the list `annotations`"),
    Case("nested 100,000 deep", coco_text("[" * 100_000), "nested too deeply"),
    Case("an image nested 900 deep", coco_text(NESTED), "expected an object with a whole number `id`"),
    Case("a number of 5,000 digits", coco_text('{"images": ' + "9" * 5000 + "}"), "a number of thousands of digits"),
    Case("not UTF-8", coco_text(b'{\n"info": "caf\xe9"}'), "train.json:2: not UTF-8"),
]  # fmt: skip


# Pascal VOC.


def item(name: str = "cat", box: str = "1 2 30 20") -> str:
    corners = zip(("xmin", "ymin", "xmax", "ymax"), box.split(), strict=False)
    return f"<object><name>{name}</name><bndbox>{''.join(f'<{k}>{v}</{k}>' for k, v in corners)}</bndbox></object>\n"


def voc(folder: Path, *objects: str, head: str = "") -> Path:
    blank(folder / "JPEGImages" / "a.png")
    write(folder / "Annotations" / "a.xml", f"{head}<annotation>\n{''.join(objects)}</annotation>\n")
    return folder


def voc_with(*objects: str, head: str = "") -> Make:
    return lambda folder: told_of(voc(folder, item(), *objects, head=head))


def voc_text(content: str | bytes) -> Make:
    return lambda folder: told_of(write(voc(folder, item()) / "Annotations" / "a.xml", content).parents[1])


def voc_and(change: Callable[[Path], object]) -> Make:
    def make(folder: Path) -> str:
        outside_image(folder)
        change(voc(folder, item()))
        return told_of(folder)

    return make


def voc_names(name: str) -> Callable[[Path], object]:
    head = f"<annotation><filename>{name}</filename>"
    return lambda folder: write(folder / "Annotations" / "s.xml", f"{head}{item()}</annotation>")


LAUGHS = '<!DOCTYPE a [<!ENTITY a "ha">' + "".join(
    f'<!ENTITY {b} "{f"&{a};" * 10}">' for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)

MAIN = "ImageSets/Main"
VOC = [
    Case("not a number", voc_with(item(box="nan 2 9 20")), "is not finite"),
    Case("infinite", voc_with(item(box="1 2 inf 20")), "is not finite"),
    Case("swapped corners", voc_with(item(box="30 2 1 20")), "both must be above 0"),
    Case("zero area", voc_with(item(box="1 2 1 20")), "both must be above 0"),
    Case("outside of the image", voc_with(item(box="60 2 70 20")), "has no area inside"),
    Case("reaching out of the image", voc_with(item(box="-5 2 30 20")), "clipped"),
    Case("a word as corner", voc_with(item(box="1 2 x 20")), "<xmax> is 'x', not a number"),
    Case("a corner less", voc_with(item(box="1 2 3")), "no <ymax>"),
    Case("no box", voc_with("<object><name>cat</name></object>\n"), "object without <bndbox>"),
    Case("no name", voc_with(item(name="")), "object without <name>"),
    Case("duplicate object", voc_with(item()), "read: 2 boxes found = 2 used"),
    Case("an entity bomb", voc_with(head=LAUGHS + "]>\n"), "a.xml:1: a document type declaration is not allowed"),
    Case("an external entity", voc_with(head='<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]>\n'),
         "a document type declaration is not allowed"),
    Case("an entity that is not declared", voc_with("&x;"), "not XML: undefined entity"),
    Case("cut off", voc_text("<annotation>\n<object>"), "a.xml:2: not XML"),
    Case("empty", voc_text(""), "a.xml:1: not XML: no element found"),
    Case("a web page", voc_text("<html><body/></html>"), "its root is <html>, expected <annotation>"),
    Case("an unknown encoding", voc_text('<?xml version="1.0" encoding="nonsense"?><annotation/>'), "not XML"),
    Case("nested 100,000 deep", voc_text("<annotation>" + "<a>" * 100_000), "not XML: no element found"),
    Case("a folder called .xml", voc_and(lambda f: (f / "Annotations/b.xml").mkdir()), "cannot be read"),
    Case("an XML file without image", voc_and(voc_names("gone.png")), "gone.png not found"),
    Case("a name that leads out with ..", voc_and(voc_names("../../private/images/s.png")), "lies outside of"),
    Case("a system file as image", voc_and(voc_names("/etc/passwd")), "/etc/passwd lies outside of"),
    Case("two images of one stem", voc_and(second_image("JPEGImages/a.jpg")), "name one in <filename>"),
    Case("a list with an unknown name", voc_and(lambda f: write(f / MAIN / "train.txt", "a\nz\n")), "train.txt:2"),
    Case("a list with a name twice", voc_and(lambda f: write(f / MAIN / "train.txt", "a\na\n")), "list it once"),
    Case("no object anywhere", voc_text("<annotation/>"), "there is no class to find"),
]  # fmt: skip


# Weights.

INFO = WeightsInfo("pico", ("cat", "dog"), (3, 17), (64, 96), {"lr": "auto"}, {})


def tensors() -> dict[str, Any]:
    network = GridNetwork(Config(model="pico"), 2, np.zeros(3, np.float32), np.eye(3, dtype=np.float32))
    return {name: tensor.contiguous() for name, tensor in network.state_dict().items() if tensor.is_floating_point()}


def weights_of(content: Callable[[], bytes]) -> Make:
    return lambda folder: refusal(lambda: load_weights(write(folder / "w.safetensors", content())))


def whole() -> bytes:
    return save_tensors(tensors(), to_metadata(INFO))


def said(**changes: Any) -> Make:
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in changes.items()}
    return weights_of(lambda: save_tensors(tensors(), to_metadata(INFO) | texts))


def tensors_with(change: Callable[[dict[str, Any]], object]) -> Make:
    def content() -> bytes:
        changed = tensors()
        change(changed)
        return save_tensors(changed, to_metadata(INFO))

    return weights_of(content)


LAST = "heads.0.output.bias"
WEIGHTS = [
    Case("not there", lambda folder: refusal(lambda: load_weights(folder / "w.safetensors")), "no such weights file"),
    Case("a very long name", lambda folder: refusal(lambda: load_weights("a" * 5000)), "no such weights file"),
    Case("empty", weights_of(lambda: b""), "not a readable safetensors file"),
    Case("cut off", weights_of(lambda: whole()[:-1000]), "not a readable safetensors file"),
    Case("a pickle of PyTorch's", weights_of(lambda: b"PK\3\4" + bytes(500)), "not a readable safetensors file"),
    Case("a head of a terabyte", weights_of(lambda: struct.pack("<Q", 10**12) + b"{}"), "not a readable safetensors"),
    Case("of another program", weights_of(lambda: save_tensors(tensors())), "weights of another program or version"),
    Case("of a newer format", said(format="detector-weights-99"), "weights of another program or version"),
    Case("with a setting of a newer version", said(config={"futuristic": 3}), "unknown setting 'futuristic'"),
    Case("with a setting that does not fit", said(config={"kernel": 99}), "kernel: must be from 3 to 9"),
    Case("of an unknown size of network", said(model='"giant"'), "model: expected pico or nano"),
    Case("settings that are no mapping", said(config=[1, 2]), "config must be a mapping of settings"),
    Case("classes that are no list", said(class_names='"cat"'), "class_names must be a list of names"),
    Case("other numbers of classes and ids", said(class_names=["cat"]), "1 class names, 2 category ids"),
    Case("an infinite canvas", said(input_hw="[Infinity, 64]"), "input_hw must be two multiples of 32"),
    Case("an input that fills the memory", said(input_hw=[3_200_000, 3_200_000]), "input_hw must be two multiples"),
    Case("metadata nested 100,000 deep", said(facts="[" * 100_000), "the metadata are damaged"),
    Case("metadata that are no JSON", said(facts="{"), "the metadata are damaged"),
    Case("a tensor less", tensors_with(lambda t: t.pop(LAST)), f"tensor {LAST} is missing"),
    Case("a tensor more", tensors_with(lambda t: t.update(more=t[LAST].clone())), "tensor more is not a part"),
    Case("another shape", tensors_with(lambda t: t.update({LAST: t[LAST][:3].clone()})), "has shape [3], expected [6]"),
    Case("another type", tensors_with(lambda t: t.update({LAST: t[LAST].long()})), "is of torch.int64"),
    Case("not a number inside", tensors_with(lambda t: t[LAST].fill_(float("nan"))), "values that are not numbers"),
]  # fmt: skip


@pytest.fixture(scope="module")
def graph() -> bytes:
    network = GridNetwork(Config(model="pico"), 2, np.full(3, 99, np.float32), np.eye(3, dtype=np.float32))
    return to_onnx(network.eval(), INFO, INFO.input_hw)


GRAPHS: dict[str, tuple[str, str]] = {
    "empty": ("empty", "not a readable ONNX file"),
    "cut": ("cut off", "not a readable ONNX file"),
    "foreign": ("of another program", "weights of another program or version"),
    "settings": ("settings that are no mapping", "config must be a mapping of settings"),
    "classes": ("other classes than it answers for", "export it again from its .safetensors"),
    "canvas": ("another canvas than it takes", "export it again from its .safetensors"),
    "input": ("an input of another name", "export it again from its .safetensors"),
    "nan": ("not a number inside", "damaged"),
}


def damaged_graph(kind: str, whole: bytes) -> bytes:
    import onnx

    if kind in ("empty", "cut"):
        return b"" if kind == "empty" else whole[:5000]
    model = onnx.load_from_string(whole)
    changes = {"settings": {"config": "[1]"}, "classes": {"class_names": '["a"]', "category_ids": "[1]"},
               "canvas": {"input_hw": "[32, 32]"}}  # fmt: skip
    if kind == "foreign":
        del model.metadata_props[:]
    elif kind == "input":
        for node in model.graph.node:
            node.input[:] = ["image" if name == "image" else name for name in node.input]
        model.graph.input[0].name = "image"
    elif kind == "nan":
        first = next(t for t in model.graph.initializer if len(t.dims) == 4)
        numbers = onnx.numpy_helper.to_array(first).copy()
        numbers.flat[0] = np.nan
        first.CopyFrom(onnx.numpy_helper.from_array(numbers, first.name))
    for prop in model.metadata_props:
        prop.value = changes.get(kind, {}).get(prop.key, prop.value)
    return bytes(model.SerializeToString())


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("kind", GRAPHS)
def test_a_damaged_graph_is_refused_by_every_runtime(graph: bytes, kind: str, runtime: Any, tmp_path: Path) -> None:
    path = write(tmp_path / "w.onnx", damaged_graph(kind, graph))
    with pytest.raises(InputError, match=re.escape(GRAPHS[kind][1])) as caught:
        load_runtime(path, runtime)
    assert str(path) in str(caught.value)


# The table.

SECTIONS = {
    "Images": IMAGES,
    "YOLO labels and lists": YOLO,
    "data.yaml and descriptors": DESCRIPTORS,
    "COCO JSON": COCO,
    "Pascal VOC XML": VOC,
    "Weights (.safetensors)": WEIGHTS,
}
CASES = [pytest.param(case, id=f"{title}: {case.what}") for title, cases in SECTIONS.items() for case in cases]

# What libraries say differs from version to version.
LIBRARIES = [
    (re.compile(r"does not decode \(.*\)"), "does not decode (...)"),
    (re.compile(r"readable safetensors file \(.*\)"), "readable safetensors file (...)"),
    (re.compile(r"too large an image \(Image size.*\):"), "too large an image (...):"),
    (re.compile(r"metadata are damaged \(.*\)"), "metadata are damaged (...)"),
    (re.compile(r"not YAML: .*"), "not YAML: ..."),
    (re.compile(r"known: model, .*"), "known: ..."),
]
TOLD: dict[str, str] = {}


@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_used_or_accounted_for_or_refused_in_words(
    case: Case, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    message = case.make(folder).replace(str(folder), "data").replace(str(tmp_path), "elsewhere")
    assert case.says in message
    assert len(message) < 2500
    for pattern, instead in LIBRARIES:
        message = pattern.sub(instead, message)
    TOLD[request.node.callspec.id] = message


def rendered() -> str:
    lines = [
        "# Bad input, and what is said about it", "",
        "Made by `tests/test_bad_input.py`, which holds it true. `data` is the folder of the data set. Every row of",
        "a label file is used, or stands in the ledger with file, line and reason, or its file is refused; \"read\"",
        "means that nothing is wrong with what was read. What a library says of a damaged file is left out, as (...).",
    ]  # fmt: skip
    for title, cases in SECTIONS.items():
        lines += ["", f"## {title}", "", "| input | message |", "| --- | --- |"]
        for case in cases:
            told = TOLD[f"{title}: {case.what}"].replace("\n", " ")
            told = re.sub(r"(.)\1{60,}", r"\1\1\1...", told)
            told = told.replace("|", "\\|").encode("ascii", "backslashreplace").decode()
            lines.append(f"| {case.what} | `` {told} `` |")
    lines += ["", "## Weights (.onnx)", "", "| input | message |", "| --- | --- |"]
    lines += [f"| {what} | ... {says} |" for what, says in GRAPHS.values()]
    return "\n".join(lines) + "\n"


def test_the_table_in_the_documents_is_what_users_are_told() -> None:
    if len(TOLD) < len(CASES):
        pytest.skip("needs all the cases above in the same run")
    if os.environ.get("WRITE_TABLES"):
        TABLE.write_text(rendered())
    assert TABLE.read_text() == rendered(), "run WRITE_TABLES=1 pytest tests/test_bad_input.py"
