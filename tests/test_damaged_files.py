"""Damage every file that a command reads, in every way: the result is an InputError, never another exception."""

import copy
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from detector.comparing.table import Conditions, RunRecord, read_runs, to_csv
from detector.comparing.variations import read_variations
from detector.config import Config, read_config
from detector.data.open_data import open_data
from detector.detecting.journal import Journal
from detector.errors import InputError
from detector.evaluating.evaluate_results import evaluate_results
from detector.exporting.certificate import Certificate, certificate_path
from detector.exporting.export import export
from detector.exporting.verify import verify
from detector.files import write_json
from detector.graph.metadata import read_metadata
from detector.model.checkpoint import load_weights
from detector.output_folder import claim_folder
from detector.runtime.load import load_runtime
from detector.training.run_record import parse_record
from detector.training.run_state import read_state
from detector.training.train import resume
from detector.weights_info import to_metadata

RUN = Conditions("data", "base", 1)
RECORD = RunRecord("data", "base", 1, "flip=0", 0, 3, 0.5, 0.75, 1.0, 1.0, 300.0, "")
ENTRY = {"image_id": 1, "file_name": "a.png", "height": 64, "width": 96, "stem": "a", "detections": [
    {"class": "red", "category_id": 3, "bbox": [1.0, 2.0, 3.0, 4.0], "score": 0.5, "track_id": 1}]}  # fmt: skip

BIG = 10**400
NUMBER = re.compile(rb"(?<![\w.])\d+(\.\d+)?")

DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "truncated": lambda content: content[: len(content) // 2],
    "list": lambda content: b"[]",
    "null": lambda content: b"null",
    "one number": lambda content: b"3",
    "text": lambda content: b'"x"',
    "NaN": lambda content: NUMBER.sub(b"NaN", content),
    "big numbers": lambda content: NUMBER.sub(str(BIG).encode(), content, count=50),
    "deep": lambda content: b"[" * 2_000,
    "deep object": lambda content: b'{"a":' * 2_000,
    "not UTF-8": lambda content: content[:1] + b"\xff\xfe\x80" + content[1:],
    "zeros": lambda content: bytes(len(content)),
}


class Reader(NamedTuple):
    """A file that a command reads.

    Attributes:
        path: the file, relative to the prepared folder.
        read: reads the file, as the command does.
        accepts: kinds of damage that leave a valid file.
    """

    path: str
    read: Callable[[Path], object]
    accepts: tuple[str, ...] = ()


def open_journal(path: Path) -> Journal:
    with claim_folder(path.parent, "testing") as folder:
        journal = Journal(folder, {"conf": 0.5}, resume=True, files={})
        journal.begin()
    return journal


def read_journal(path: Path) -> None:
    list(open_journal(path).entries())


READERS = {
    "run.json": Reader("run/run.json", lambda path: resume(path.parent)),
    "weights": Reader("run/weights/best.safetensors", load_weights),
    "onnx, ONNX Runtime": Reader("a.onnx", lambda path: load_runtime(path, runtime="onnxruntime")),
    "onnx, OpenVINO": Reader("a.onnx", lambda path: load_runtime(path, runtime="openvino"), ("not UTF-8",)),
    "model.xml": Reader("a_openvino/model.xml", lambda path: load_runtime(path.parent)),
    "model.bin": Reader("a_openvino/model.bin", lambda path: load_runtime(path.parent)),
    "certificate": Reader("a.onnx.certificate.json", lambda path: verify(path.parent / "a.onnx")),
    # A damaged line and all lines after it are removed, and an empty file is a new journal.
    "journal": Reader("detections.jsonl", read_journal, tuple(set(DAMAGES) - {"not UTF-8"})),
    "compare.csv": Reader("compare.csv", lambda path: read_runs(path, RUN), ("empty",)),
    "settings": Reader("settings.yaml", read_config, ("empty", "null", "truncated")),
    "variations": Reader("variations.txt", lambda path: read_variations([str(path)], Config(steps=3)),
                         ("empty", "truncated", "list")),
    "results": Reader("results.json", lambda path: evaluate_results(open_data(path.parent / "data"), "val", path),
                      ("list",)),
    "COCO": Reader("data/val.json", lambda path: open_data(path.parent).read("val")),
}  # fmt: skip


@pytest.fixture(scope="module")
def prepared(tiny_run: Path, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a valid file for each reader."""
    folder = tmp_path_factory.mktemp("valid")
    shutil.copytree(tiny_run, folder / "run")
    shutil.copytree(tiny_data, folder / "data")
    best = folder / "run" / "weights" / "best.safetensors"
    export(best, folder / "a.onnx")
    export(best, folder / "a_openvino", format="openvino", certify=False)
    (folder / "compare.csv").write_bytes(to_csv([RECORD]))
    (folder / "settings.yaml").write_text("lr: 0.01\nscale: [0.5, 2]\nseed: 3\n")
    (folder / "variations.txt").write_text("[group]\nlr=0.01 seed=0 # remark\nflip={0,0.25}\n")
    write_json(folder / "results.json", [{"image_id": 13, "category_id": 3, "bbox": [1, 2, 30, 40], "score": 0.5}])
    lines = ({"settings": {"conf": 0.5}}, ENTRY)
    (folder / "detections.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def message_of(action: Callable[[], object]) -> str | None:
    """Return the message of the InputError that an action raises; None if it raises nothing."""
    try:
        action()
    except InputError as error:
        return str(error)
    return None


@pytest.mark.parametrize("name", READERS)
def test_damaged_file_is_refused_with_a_message(name: str, prepared: Path, tmp_path: Path) -> None:
    reader = READERS[name]
    path = tmp_path / prepared.name / reader.path
    shutil.copytree(prepared, path.parents[len(Path(reader.path).parts) - 1])
    valid = path.read_bytes()
    if name != "run.json":  # the run is finished, which is an error too
        reader.read(path)
    for kind, damage in DAMAGES.items():
        path.write_bytes(damage(valid))
        message = message_of(lambda: reader.read(path))
        assert message is not None or kind in reader.accepts, kind
        assert message is None or ("finished" not in message and len(message) < 2000), kind
    path.unlink()
    path.mkdir()
    with pytest.raises(InputError):
        reader.read(path)


@pytest.mark.posix
def test_damaged_checkpoint_is_skipped_with_a_warning(
    prepared: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(prepared / "run" / "state", tmp_path / "state")
    last = max((tmp_path / "state").iterdir())
    valid = last.read_bytes()
    for damage in DAMAGES.values():
        caplog.clear()
        last.write_bytes(damage(valid))
        state = read_state(tmp_path / "state")
        assert state is not None
        assert state[0].step == 40
        assert "the checkpoint is damaged" in caplog.text
    for create in (Path.mkdir, os.mkfifo):  # to read a pipe would wait forever
        last.rmdir() if last.is_dir() else last.unlink()
        create(last)
        assert read_state(tmp_path / "state") is not None


VALUES: tuple[Any, ...] = (
    None,
    True,
    -1,
    1.5,
    BIG,
    -BIG,
    float("nan"),
    float("inf"),
    1e308,
    "x",
    "\udcff",
    [],
    [[]],
    {},
    {"a": []},
)


def mutations(value: Any) -> Iterator[Any]:
    """Yield copies of a JSON value: in each, one element is replaced by another value or is missing."""
    places: list[tuple[Any, ...]] = []

    def walk(element: Any, path: tuple[Any, ...]) -> None:
        for key in element if isinstance(element, dict) else range(min(len(element), 2)):
            places.append((*path, key))
            if isinstance(element[key], dict | list):
                walk(element[key], (*path, key))

    walk(value, ())
    for *path, key in places:
        for number in range(len(VALUES) + 1):
            changed = copy.deepcopy(value)
            parent = changed
            for step in path:
                parent = parent[step]
            if number < len(VALUES):
                parent[key] = VALUES[number]
            else:
                del parent[key]
            yield changed


def check_mutations(value: Any, parse: Callable[[Any], object]) -> None:
    """Parse a valid value and all its mutations; each is accepted, or raises InputError."""
    parse(value)
    assert sum(message_of(partial(parse, changed)) is not None for changed in mutations(value)) > 20


def test_wrong_value_in_run_record_is_refused(prepared: Path) -> None:
    values = json.loads((prepared / "run" / "run.json").read_text())
    _, info = load_weights(prepared / "run" / "weights" / "best.safetensors")
    values |= {"weights": "w.safetensors", "initial_weights": to_metadata(info)}
    check_mutations(values, lambda changed: parse_record(changed, Path("run.json")))


def test_wrong_value_in_certificate_is_refused(prepared: Path) -> None:
    values = json.loads(certificate_path(prepared / "a.onnx").read_text())
    values["detections"] = {name: rows[:2] for name, rows in list(values["detections"].items())[:1]}
    [name] = values["detections"]

    def parse(changed: Any) -> None:
        certificate = Certificate.from_json(changed, "certificate")
        if name in certificate.detections:
            with suppress(ValueError):  # `verify` reports it
                certificate.detections_of(name, ("red", "blue"))

    check_mutations(values, parse)


def test_wrong_value_in_metadata_is_refused(prepared: Path) -> None:
    _, info = load_weights(prepared / "run" / "weights" / "best.safetensors")
    texts = to_metadata(info) | {"nms": '{"score_threshold": 0.1, "iou_threshold": 0.5, "max_detections": 9}'}
    refused = 0
    for key, text in texts.items():
        if key == "format":
            continue
        for changed in mutations([json.loads(text)]):
            damaged = texts | {key: json.dumps(changed[0]) if changed else "x"}
            refused += message_of(partial(read_metadata, damaged, "file")) is not None
    assert refused > 50


def test_wrong_value_in_journal_is_processed_again(tmp_path: Path) -> None:
    settings = json.dumps({"settings": {"conf": 0.5}}) + "\n"
    for changed in mutations(ENTRY):
        path = tmp_path / "detections.jsonl"
        path.write_text(settings + json.dumps(changed) + "\n")
        journal = open_journal(path)
        entries = list(journal.entries())
        assert len(journal.done) == len(entries)
        for entry in entries:
            assert all(abs(side) < 1e16 for row in entry["detections"] for side in row["bbox"])
