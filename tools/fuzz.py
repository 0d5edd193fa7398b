"""Fuzz every file reader with damaged files, and report every exception that is not an InputError.

    python tools/fuzz.py --minutes 3                 all targets, one after the other
    python tools/fuzz.py --minutes 10 images coco    only the targets `images` and `coco`

Each target runs in its own process, because a decoder may crash. If the package atheris is installed, atheris searches
for inputs that execute new code. Otherwise valid files are mutated at random. The folder --out gets, for each kind of
finding, the input and the traceback. The exit status is 1 if there is any finding.
"""

import argparse
import contextlib
import importlib
import importlib.util
import io
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

Run = Callable[[bytes], object]
"""A function that reads one input. A target returns valid inputs (seeds) and such a function."""

SLOW = 5.0
"""An input that takes more CPU time than this number of seconds is a finding: reading a small file must be fast."""


def images(folder: Path) -> tuple[list[bytes], Run]:
    """Target: image files, read as a complete image, as a thumbnail, and only the size. Return seeds and function."""
    from PIL import Image

    from detector.images import read_image, read_image_size, read_thumbnail

    def encoded(mode: str, kind: str, **options: Any) -> bytes:
        file = io.BytesIO()
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.new(mode, (9, 6)).save(file, kind, exif=exif, **options)
        return file.getvalue()

    seeds = [
        encoded(mode, kind) for kind in ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM") for mode in ("L", "RGB")
    ]
    seeds += [encoded(mode, "PNG") for mode in ("1", "P", "LA", "RGBA", "I;16")]
    seeds += [encoded(mode, "TIFF", compression=kind) for mode in ("RGB", "CMYK") for kind in ("tiff_lzw", "packbits")]
    seeds += [encoded("CMYK", "JPEG"), encoded("RGB", "JPEG", progressive=True), encoded("RGBA", "WEBP")]

    def run(content: bytes) -> None:
        path = folder / "a.jpg"
        path.write_bytes(content)
        for read in (read_image, read_image_size, lambda file: read_thumbnail(file, 8)):
            _allow_input_error(lambda read=read: read(path))  # type: ignore[misc]

    return seeds, run


def _write_image(path: Path) -> None:
    import numpy as np

    from detector.images import write_image

    path.parent.mkdir(parents=True, exist_ok=True)
    write_image(path, np.zeros((6, 9, 3), np.uint8))


def yolo(folder: Path) -> tuple[list[bytes], Run]:
    """Target: a YOLO label file. Return seeds and function."""
    _write_image(folder / "images" / "a.png")
    (folder / "data.yaml").write_text("train: images\nnames: [a, b]\n")
    seeds = [
        b"0 0.5 0.5 0.2 0.2\n1 0.1 0.1 0.3 0.3 0.2 0.9\n",
        b"\xef\xbb\xbf# x\r\n0\t.5\t.5\t1e-3\tinf\r\n",
        b"nan -1 2 3 4",
    ]
    return seeds, _reader(folder, folder / "labels" / "a.txt", folder)


def image_list(folder: Path) -> tuple[list[bytes], Run]:
    """Target: a YOLO list of images, train.txt. Return seeds and function."""
    _write_image(folder / "images" / "a.png")
    (folder / "labels").mkdir()
    (folder / "labels" / "a.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    (folder / "data.yaml").write_text("train: train.txt\nnames: [a, b]\n")
    return [b"images/a.png\n", b"./images/a.png\r\n../x\n/etc/passwd\n# no\n"], _reader(
        folder, folder / "train.txt", folder
    )


def data_yaml(folder: Path) -> tuple[list[bytes], Run]:
    """Target: a data.yaml of YOLO, or a dataset description. Return seeds and function."""
    _write_image(folder / "images" / "a.png")
    (folder / "labels").mkdir()
    (folder / "labels" / "a.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    seeds = [
        b"path: .\ntrain: images\nval: [images]\nnames: {0: a, 1: b}\nnc: 2\n",
        b"format: yolo\npath: .\nexpected: {train: {images: 1, boxes: 1}}\nsource: x\nlicense: y\n",
        b"names: &a [x, *a]\ntrain: !!python/object:os.system [x]\n",
        b"format: voc\npath: images\nnames: [a]\n",
    ]
    return seeds, _reader(folder, folder / "data.yaml", folder / "data.yaml")


def coco(folder: Path) -> tuple[list[bytes], Run]:
    """Target: a COCO JSON file. Return seeds and function."""
    _write_image(folder / "images" / "a.png")
    image = {"id": 1, "file_name": "a.png", "height": 6, "width": 9}
    row = {"id": 1, "image_id": 1, "category_id": 2, "bbox": [1, 2, 3.5, 1], "area": 2, "iscrowd": 0}
    valid = {"info": {}, "images": [image], "annotations": [row], "categories": [{"id": 2, "name": "a"}]}
    bad = valid | {
        "annotations": [row | {"bbox": [float("nan"), -1, 1e400, 3], "image_id": "x"}, 7, row | {"area": None}]
    }
    seeds = [json.dumps(valid).encode(), json.dumps(bad, indent=1).encode()]
    read = _reader(folder, folder / "train.json", folder / "train.json")

    def run(content: bytes) -> None:
        from detector.data.formats.coco_scoring import read_ground_truth

        read(content)
        _allow_input_error(lambda: read_ground_truth(folder / "train.json"))

    return seeds, run


def voc(folder: Path) -> tuple[list[bytes], Run]:
    """Target: a Pascal VOC XML file. Return seeds and function."""
    _write_image(folder / "JPEGImages" / "a.png")
    box = "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>5</xmax><ymax>5.5</ymax></bndbox>"
    item = f"<object><name>cat</name><difficult>1</difficult>{box}</object>"
    seeds = [
        f"<annotation>\n<filename>a.png</filename>{item}</annotation>".encode(),
        f"<?xml version='1.0' encoding='latin-1'?><annotation>{item}<object/></annotation>".encode(),
        b"<!DOCTYPE a [<!ENTITY b SYSTEM 'file:///etc/passwd'>]><annotation>&b;</annotation>",
    ]
    return seeds, _reader(folder, folder / "Annotations" / "a.xml", folder)


def weights(folder: Path) -> tuple[list[bytes], Run]:
    """Target: the header of a .safetensors file. Return seeds and function.

    Each header is tested twice: followed by the tensors of a valid network, and without tensors.
    """
    import numpy as np

    from detector.config import Config
    from detector.model.checkpoint import load_weights, save_weights
    from detector.model.make_network import make_network
    from detector.weights_info import WeightsInfo

    path = folder / "w.safetensors"
    network = make_network(Config(model="pico"), 2, np.zeros(3, np.float32), np.eye(3, dtype=np.float32))
    save_weights(path, network, WeightsInfo("pico", ("a", "b"), (3, 7), (64, 96), {"lr": "auto"}, {}), float16=True)
    valid = path.read_bytes()
    end = 8 + int.from_bytes(valid[:8], "little")

    def run(content: bytes) -> None:
        # With the tensors, most mutated headers describe data that exists.
        path.write_bytes(content + valid[end:])
        _allow_input_error(lambda: load_weights(path))
        path.write_bytes(content)
        _allow_input_error(lambda: load_weights(path))

    return [valid[:end], valid[:8] + b'{"__metadata__":{"format":"detector-weights-2"}}'], run


def metadata(folder: Path) -> tuple[list[bytes], Run]:
    """Target: the metadata of weights. Return seeds and function."""
    from detector.config import config_of
    from detector.weights_info import WeightsInfo, from_metadata, to_metadata

    valid = to_metadata(
        WeightsInfo("pico", ("a", "b"), (3, 7), (64, 96), {"lr": 0.1, "input_size": [64, 96]}, {"x": None})
    )

    def run(content: bytes) -> None:
        lines = content.decode("utf-8", "replace").split("\n")
        mutated = dict(line.partition("=")[::2] for line in lines)
        _allow_input_error(lambda: config_of(from_metadata(mutated, "metadata").config))

    return ["\n".join(f"{key}={value}" for key, value in valid.items()).encode()], run


def onnx(folder: Path) -> tuple[list[bytes], Run]:
    """Target: an .onnx file. Return seeds and function.

    It is only mutated at random, because it is slow and the code that reads it is not Python.
    """
    from detector.exporting.export import export
    from detector.runtime.load import load_runtime

    export("scenes", folder / "w.onnx", certify=False)

    def run(content: bytes) -> None:
        (folder / "w.onnx").write_bytes(content)
        _allow_input_error(lambda: load_runtime(folder / "w.onnx", runtime="onnxruntime"))

    return [(folder / "w.onnx").read_bytes()], run


CAR = b"Car 0.00 0 -1.58 587.01 173.33 614.12 200.12 1.65 1.67 3.64 -0.65 1.71 46.70 -1.59\n"
BITMAP = (
    "eJzrDPBz5+WS4mJgYOD19HAJAtLMQMzECCKX7/oSCaTYAnxCXIH0////l96cfxfIYiwJ8gtmcHh2Iw3I"
    "4fF0cQypmJOckFAA5LkwOE7vzzgNZDF4uvq5rHNKaAIAit4aOA=="
)
"""A PNG of 3 x 2 pixels as Supervisely writes it."""
NAMED_FORMATS: dict[str, list[Any]] = {
    "createml": [
        [
            {"image": "a.jpg", "annotations": [{"label": "cat", "coordinates": dict.fromkeys(("x", "y", "width"), 3)}]},
            {"imagefilename": "b.jpg", "annotation": []},
        ],
        [{"image": "a.jpg", "annotations": [{"label": "a", "coordinates": {"x": 1, "y": 2, "width": 3, "height": 4}}]}],
    ],
    "via": [
        {
            "a.jpg1": {
                "filename": "a.jpg",
                "size": 1,
                "regions": [
                    {"shape_attributes": shape, "region_attributes": {"class": "cat", "z": {"a": True}}}
                    for shape in (
                        {"name": "rect", "x": 1, "y": 2, "width": 3, "height": 4},
                        {"name": "ellipse", "cx": 1, "cy": 2, "rx": 3, "ry": 4, "theta": 1},
                        {"name": "polygon", "all_points_x": [1, 2], "all_points_y": [3, 4]},
                        {"name": "circle", "cx": 1, "cy": 2, "r": 3},
                    )
                ],
            }
        },
        {"_via_img_metadata": {"a": {"filename": "a.jpg", "size": 1, "regions": {"0": {"shape_attributes": {}}}}}},
    ],
    "supervisely": [
        {
            "size": {"height": 40, "width": 60},
            "tags": [{"name": "train"}],
            "objects": [
                {"classTitle": "a", "geometryType": "rectangle", "points": {"exterior": [[1, 2], [3, 4]]}},
                {"classTitle": "a", "geometryType": "bitmap", "bitmap": {"data": BITMAP, "origin": [1, 2]}},
            ],
        }
    ],
    "labelme": [
        {
            "imagePath": "a.jpg",
            "imageHeight": 40,
            "imageWidth": 60,
            "shapes": [
                {"label": "a", "shape_type": kind, "points": [[1, 2], [3, 4]]}
                for kind in ("rectangle", "circle", "polygon", "mask")
            ],
        }
    ],
    "label_studio": [
        [
            {
                "data": {"image": "/data/local-files/?d=a.jpg"},
                "annotations": [
                    {
                        "result": [
                            {"id": "r", "type": kind, "original_width": 60, "original_height": 40, "value": value}
                            for kind, value in (
                                (
                                    "rectanglelabels",
                                    {"x": 1, "y": 2, "width": 3, "height": 4, "rectanglelabels": ["a"]},
                                ),
                                ("ellipselabels", {"x": 1, "y": 2, "radiusX": 3, "radiusY": 4, "rotation": 5}),
                                ("polygonlabels", {"points": [[1, 2], [3, 4]], "polygonlabels": ["a"]}),
                                ("rectangle", {"x": 1}),
                            )
                        ]
                    }
                ],
            }
        ],
        [{"id": 1, "image": "s3://a/b.jpg", "label": [{"x": 1, "width": 3, "height": 4, "rectanglelabels": ["a"]}]}],
    ],
    "datumaro": [
        {
            "categories": {"label": {"labels": [{"name": "a"}, {"name": "b"}]}},
            "items": [
                {
                    "id": "a",
                    "image": {"path": "a.jpg", "size": [40, 60]},
                    "annotations": [
                        {"type": "bbox", "label_id": 0, "bbox": [1, 2, 3, 4], "attributes": {"is_crowd": True}},
                        {"type": "polygon", "label_id": 1, "points": [1, 2, 3, 4]},
                        {"type": "mask", "label_id": 1, "rle": {"counts": [4, 2, 6], "size": [3, 4]}},
                        {"type": "mask", "label_id": 1, "rle": {"counts": "42120", "size": [3, 4]}},
                        {"type": "rotated_bbox", "label_id": 1, "cx": 1, "cy": 2, "w": 3, "h": 4, "r": 5},
                    ],
                }
            ],
        }
    ],
    "vott": [
        {
            "assets": {
                "0": {
                    "asset": {"name": "a.jpg", "size": {"width": 60, "height": 40}, "state": 0},
                    "regions": [{"tags": ["a"], "boundingBox": {"left": 1, "top": 2, "width": 3, "height": 4}}],
                }
            }
        }
    ],
    "scalabel": [
        {
            "frames": [
                {
                    "name": "a.jpg",
                    "videoName": "v",
                    "size": {"width": 60, "height": 40},
                    "labels": [
                        {
                            "category": "a",
                            "box2d": {"x1": 1, "y1": 2, "x2": 3, "y2": 4},
                            "attributes": {"crowd": True},
                        },
                        {"category": "b", "poly2d": []},
                    ],
                }
            ]
        }
    ],
    "superannotate": [
        {
            "metadata": {"name": "a.jpg", "width": 60, "height": 40, "status": "Skipped"},
            "instances": [
                {"type": "bbox", "className": "a", "points": {"x1": 1, "y1": 2, "x2": 3, "y2": 4}},
                {"type": "polygon", "className": "a", "points": [1, 2, 3, 4, 5, 6]},
                {"type": "ellipse", "className": "a", "cx": 1, "cy": 2, "rx": 3, "ry": 4, "angle": 5},
            ],
        }
    ],
    "visdrone": [b"1,2,3,4,1,4,0,0\n5,6,7,8,0,0,0,0,\n"],
    "dota": [b"imagesource:x\ngsd:1\n1 2 3 2 3 4 1 4 a 0\n1 2 3 3 2 5 0 4 b 1\n"],
    "mot": [b"1,1,1,2,3,4,1,1,0.5\n2,1,1,2,3,4,0,8,1\n1,2,1,2,3,4,1,-1,-1,-1\n"],
    "imagefolder": [
        b'{"file_name": "a.jpg", "width": 60, "height": 40, "objects": {"bbox": [[1, 2, 3, 4]], "categories": [0]}}\n'
        b'{"file_name": "b.jpg", "objects": [{"bbox": [1, 2, 3, 4], "label": "a", "iscrowd": 1}]}\n'
    ],
    "imagefolder_csv": [b'file_name,objects\na.jpg,"{""bboxes"": [[1, 2, 3, 4]], ""labels"": [1]}"\n'],
    "sagemaker": [
        b'{"source-ref": "s3://b/a.jpg", "x": {"image_size": [{"width": 60, "height": 40}], "annotations": ['
        b'{"class_id": 0, "left": 1, "top": 2, "width": 3, "height": 4}]}, "x-metadata": {"class-map": {"0": "a"}}}\n'
    ],
    "cvat": [
        b"<?xml version='1.0'?>\n<annotations><image id='0' name='a.jpg' width='60' height='40' subset='train'>\n"
        b"<box label='a' xtl='1' ytl='2' xbr='3' ybr='4' rotation='5'/><polygon label='a' points='1,2;3,4'/>\n"
        b"<ellipse label='a' cx='1' cy='2' rx='3' ry='4'/><mask label='a' left='1' top='2' width='3' height='4'/>"
        b"</image></annotations>",
        b"<annotations><track id='0'/></annotations>",
    ],
    "via_csv": [
        b"filename,file_size,file_attributes,region_count,region_id,region_shape_attributes,region_attributes\n"
        b'a.jpg,1,"{}",1,0,"{""name"":""rect"",""x"":1,""y"":2,""width"":3,""height"":4}","{""class"":""a""}"\n'
    ],
    "openimages": [b"ImageID,LabelName,Confidence,XMin,XMax,YMin,YMax,IsGroupOf\na,/m/1,1,0.1,0.2,0.3,0.4,1\n"],
    "csv_table": [
        b"filename,width,height,class,xmin,ymin,xmax,ymax\na.jpg,60,40,cat,1,2,3,4\na.jpg,61,40,,,,,\n",
        b"a.jpg,1,2,3,4,cat\nb.png,,,,,\n",
        b'\xef\xbb\xbfimage;label;bbox_x;bbox_y;bbox_width;bbox_height\r\na;"b;c";0.1;0.2;0.3;0.4\r\n',
    ],
    "kitti": [CAR + CAR[:-1] + b" 0.9\nDontCare" + CAR[3:]],
    "keras_txt": [b"a b.jpg 10,20,50,30,0 60,20,70.5,40,1\nc.png\nd.jpg 1,2,3,4,9 x,y\n"],
}
"""Module of a format whose rows name their classes → valid files, as bytes or as JSON values."""


def named_format(module: str, folder: Path) -> tuple[list[bytes], Run]:
    """Target: a file of a format whose rows name their classes. Return seeds and function.

    A JSON file is read twice: as it is, and with one part replaced by another value.

    Args:
        module: name of the module of the format.
        folder: folder for the file.
    """
    from detector.data.image_labels import LabelFormat

    label_format: LabelFormat = importlib.import_module(f"detector.data.formats.{module}").FORMAT
    seeds = [
        seed if isinstance(seed, bytes) else json.dumps(seed, indent=indent).encode()
        for seed in NAMED_FORMATS[module]
        for indent in (1, None)
    ]
    path = folder / "a.json"
    (folder / "classes.txt").write_text("cat\ndog\n")  # the class names of Keras YOLO text

    def read(content: bytes) -> None:
        path.write_bytes(content)
        _allow_input_error(lambda: list(label_format.read(path)))

    def run(content: bytes) -> None:
        read(content)
        if label_format.kind in ("csv", "txt"):
            label_format.matches(content.decode("utf-8", "replace").split("\n")[:20])
        elif label_format.kind == "json":
            with contextlib.suppress(ValueError, RecursionError):
                value = json.loads(content)
                label_format.matches(value)
                rng = random.Random(zlib.crc32(content))
                read(json.dumps(replace_part(value, rng)).encode())

    return seeds, run


def replace_part(value: Any, rng: random.Random) -> Any:
    """Return a JSON value in which a random part is replaced by another value."""
    if not isinstance(value, list | dict) or not value or rng.random() < 0.15:
        return rng.choice([None, True, 0, -1, 10**400, 1e400, 0.5, "", "x", "1.0", [], [[]], {}, {"x": 1}, "9" * 5000])
    if isinstance(value, list):
        index = rng.randrange(len(value))
        return [*value[:index], replace_part(value[index], rng), *value[index + 1 :]]
    key = rng.choice(list(value))
    return value | {key: replace_part(value[key], rng)}


TARGETS: dict[str, Callable[[Path], tuple[list[bytes], Run]]] = {
    f.__name__: f for f in (images, yolo, image_list, data_yaml, coco, voc, metadata, weights, onnx)
}
TARGETS |= {name: partial(named_format, name) for name in NAMED_FORMATS}
TOKENS = [
    b"-1",
    b"NaN",
    b"1e400",
    b"9" * 5000,
    b"[" * 2000,
    b"\0",
    b"\xff\xfe",
    b"\xed\xa0\x80",
    b"../" * 9,
    b"/" * 5000,
    b"a" * 5000,
    b'"',
    b"{}",
    b"null",
    b"<a>" * 300,
    b"&x;",
    b"\n",
    b"\x80\0\0\0",
    b"\xff" * 4,
    b"*a",
    b"\x1b[2J",
]
"""Byte strings that are known to break parsers."""


def _reader(folder: Path, file: Path, opened: Path) -> Run:
    """Return a function that reads a dataset after writing its input to one file of the dataset.

    Args:
        folder: folder of the dataset.
        file: the file that gets the input.
        opened: path that is passed to `open_data`; all splits are read.
    """
    from detector.data.open_data import open_data

    file.parent.mkdir(parents=True, exist_ok=True)

    def read() -> None:
        data = open_data(opened)
        for name in data.split_names:
            _allow_input_error(lambda name=name: data.read(name).ledger.to_json())  # type: ignore[misc]

    def run(content: bytes) -> None:
        file.write_bytes(content)
        _allow_input_error(read)

    return run


def _allow_input_error(action: Callable[[], object]) -> None:
    """Call `action` and ignore an InputError; any other exception is raised."""
    from detector.errors import InputError

    with contextlib.suppress(InputError):
        action()


def mutate(content: bytes, seeds: list[bytes], rng: random.Random) -> bytes:
    """Return a copy of `content` with one to eight random changes.

    A change replaces a byte, inverts bits, or removes, repeats or inserts bytes.

    Args:
        content: content of a file.
        seeds: valid contents, whose parts may be inserted.
        rng: random generator.
    """
    for _ in range(rng.choice((1, 1, 2, 4, 8))):
        start, length = rng.randrange(len(content) + 1), rng.choice((1, 1, 2, 4, 8, 64, 1000))
        before, part, after = content[:start], content[start : start + length], content[start + length :]
        changed = (
            bytes([rng.randrange(256)]) + content[start + 1 :],
            bytes(byte ^ (1 << rng.randrange(8)) for byte in part) + after,
            after,
            part * rng.choice((2, 3, 100)) + after,
            rng.choice(TOKENS) + part + after,
            rng.choice(TOKENS) + after,
            b"",
            rng.choice(seeds)[start:],
        )
        content = before + rng.choice(changed)
    return content


class Monitor:
    """Reads inputs with one target, and writes findings to a folder.

    Args:
        run: function that reads one input.
        folder: folder for `progress.json` and, for each kind of finding, the input and the traceback.

    Attributes:
        executions: number of inputs that were read.
        findings: names of the kinds of findings that occurred.
    """

    def __init__(self, run: Run, folder: Path) -> None:
        self.run, self.folder, self.executions, self.findings = run, folder, 0, set[str]()
        self._last_report = 0.0

    def __call__(self, content: bytes) -> None:
        """Read one input, and save it if it causes an exception that is not an InputError or takes too long."""
        started = time.process_time()  # CPU time of this process does not depend on the load of the machine
        try:
            self.run(content)
        except Exception as error:
            frame = traceback.extract_tb(error.__traceback__)[-1]
            self._save(f"{type(error).__name__}-{Path(frame.filename).stem}-{frame.lineno}", content)
        if time.process_time() - started > SLOW:
            self._save("slow", content)
        self.executions += 1
        if time.monotonic() - self._last_report > 1:
            self._last_report = time.monotonic()
            progress = {"executions": self.executions, "findings": sorted(self.findings)}
            (self.folder / "progress.json").write_text(json.dumps(progress))

    def _save(self, name: str, content: bytes) -> None:
        if name not in self.findings:
            self.findings.add(name)
            (self.folder / f"{name}.bin").write_bytes(content)
            (self.folder / f"{name}.txt").write_text(traceback.format_exc(), errors="backslashreplace")


def run_one(name: str, seconds: float, out: Path, guided: bool) -> None:
    """Fuzz one target in this process, and write progress and findings to a folder.

    Args:
        name: name of the target.
        seconds: duration.
        out: the folder.
        guided: True: atheris searches for inputs. False: valid inputs are mutated at random.
    """
    warnings.simplefilter("ignore")
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        if not guided:
            seeds, run = TARGETS[name](Path(folder))
            monitor, rng, end = Monitor(run, out), random.Random(0), time.monotonic() + seconds
            for seed in seeds:
                monitor(seed)
            while time.monotonic() < end:
                monitor(mutate(rng.choice(seeds), seeds, rng))
            return
        atheris = importlib.import_module("atheris")
        parts = ["detector.data", "detector.images", "detector.weights_info", "detector.config", "PIL", "yaml", "json"]
        with atheris.instrument_imports(include=parts):
            seeds, run = TARGETS[name](Path(folder))
        corpus = out / "corpus"
        corpus.mkdir(exist_ok=True)
        for number, seed in enumerate(seeds):
            (corpus / f"seed{number}").write_bytes(seed)
        options = [f"-max_total_time={int(seconds)}", "-max_len=20000", "-rss_limit_mb=4096", "-timeout=60"]
        atheris.Setup(
            [sys.argv[0], str(corpus), f"-artifact_prefix={out}/", "-print_final_stats=0", *options], Monitor(run, out)
        )
        atheris.Fuzz()  # ends the process


def main() -> int:
    """Fuzz the selected targets, print one line per target, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__ and __doc__.splitlines()[0])
    parser.add_argument("targets", nargs="*", help=f"targets: {', '.join(TARGETS)} (default: all)")
    parser.add_argument("--minutes", type=float, default=1, help="minutes for each target (default: 1)")
    parser.add_argument("--out", type=Path, default=Path("fuzz"), help="folder for the findings (default: fuzz)")
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if unknown := set(options.targets) - set(TARGETS):
        parser.error(f"unknown target: {', '.join(sorted(unknown))}")
    atheris = importlib.util.find_spec("atheris") is not None
    if options.alone:
        run_one(options.targets[0], options.minutes * 60, options.out, guided=atheris and options.targets[0] != "onnx")
        return 0
    total = 0
    for name in options.targets or TARGETS:
        out = options.out / name
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True)
        command = [sys.executable, __file__, name, "--alone", "--minutes", str(options.minutes), "--out", str(out)]
        with (out / "log.txt").open("wb") as log:
            status = subprocess.run(command, stdout=log, stderr=log, check=False).returncode
        file = out / "progress.json"
        progress = json.loads(file.read_text() if file.exists() else '{"executions": 0, "findings": ["nothing ran"]}')
        findings = [*progress["findings"], *([f"crash: exit status {status}"] if status else [])]
        engine = "atheris" if atheris and name != "onnx" else "random"
        print(
            f"{name:13} {engine:8} {options.minutes:5.1f} min {progress['executions']:10,d} runs  {findings or 'clean'}"
        )
        sys.stdout.flush()
        total += len(findings)
    return int(total > 0)


if __name__ == "__main__":
    sys.exit(main())
