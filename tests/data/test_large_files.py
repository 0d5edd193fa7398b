"""Large label files are read in linear time, or refused: tests have generous limits, against hanging only."""

import time
from pathlib import Path

import numpy as np
import pytest

from detector.data.ledger import Ledger, LedgerEntry, UnusableImage
from detector.data.open_data import open_data
from detector.data.yaml_files import read_data_yaml
from detector.errors import LabelError
from detector.images import write_image

TOO_LONG = 60.0
"""CPU seconds; each of these tests takes one or two."""


def make_yolo(folder: Path, yaml: str) -> Path:
    for name in ("images", "labels"):
        (folder / name).mkdir(exist_ok=True)
    write_image(folder / "images/a.png", np.zeros((40, 60, 3), np.uint8))
    (folder / "labels/a.txt").write_text("0 0.5 0.5 0.1 0.1\n")
    (folder / "data.yaml").write_text(yaml)
    return folder


def test_many_class_names_are_read(tmp_path: Path) -> None:
    names = [f"class {i}" for i in range(30_000)]
    start = time.process_time()
    data = open_data(make_yolo(tmp_path, f"train: images\nnames: [{', '.join(names)}]\n"))
    assert data.read("train").class_names == tuple(names)
    assert time.process_time() - start < TOO_LONG


def test_a_key_twice_among_many_is_found(tmp_path: Path) -> None:
    keys = "".join(f"k{i}: v\n" for i in range(20_000))
    (tmp_path / "data.yaml").write_text(f"train: images\nnames: [a]\n{keys}k0: w\n")
    with pytest.raises(LabelError, match="the key 'k0' occurs twice"):
        read_data_yaml(tmp_path / "data.yaml")


def test_a_yaml_file_of_many_megabytes_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data.yaml").write_text("train: images\nnames: [" + "a" * 4_000_000 + "]\n")
    with pytest.raises(LabelError, match="more than 4 MB"):
        read_data_yaml(tmp_path / "data.yaml")


def test_aliases_do_not_multiply_the_values(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x,x,x,x,x,x,x,x,x,x]"]
    lines += [f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 60)]  # 10^60 values as text
    (tmp_path / "data.yaml").write_text("\n".join([*lines, "train: images", "names: *a59\n"]))
    with pytest.raises(LabelError, match="`names` must list the classes"):
        open_data(tmp_path / "data.yaml")


def test_a_list_of_many_missing_images_is_read(tmp_path: Path) -> None:
    folder = make_yolo(tmp_path, "train: train.txt\nnames: [cat]\n")
    missing = "".join(f"/content/set/images/train/{i}.jpg\n" for i in range(5_000))
    (folder / "train.txt").write_text(f"images/a.png\n{missing}")
    start = time.process_time()
    ledger = open_data(folder).read("train").ledger
    assert (ledger.used, len(ledger.missing)) == (1, 5_000)
    assert time.process_time() - start < TOO_LONG


def test_many_unusable_images_are_left_out_at_once() -> None:
    clipped = tuple(LedgerEntry("clipped", Path("l"), i, "r", Path(str(i))) for i in range(4_000))
    before = Ledger(used=8_000, background=4_000, entries=clipped)
    lost = [UnusableImage(Path(str(i)), 3 if i < 4_000 else 0, 0, f"{i}: bad") for i in range(8_000)]
    start = time.process_time()
    after = before.without_images(lost)
    assert time.process_time() - start < TOO_LONG
    assert (after.found, after.used, after.clipped, after.dropped) == (12_000, 0, 0, 12_000)
    assert (after.background, len(after.missing)) == (0, 8_000)
    one_by_one = before
    for each in lost[:20]:
        one_by_one = one_by_one.without_images([each])
    assert one_by_one == before.without_images(lost[:20])
