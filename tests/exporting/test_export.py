"""Exports appear whole or not at all, and replace nothing but exports."""

from dataclasses import replace
from pathlib import Path

import pytest

from detector.errors import InputError
from detector.exporting.export import export, training_images
from detector.graph.metadata import NmsSettings
from detector.graph.openvino_ir import export_files
from detector.model.checkpoint import load_weights, save_weights


@pytest.fixture(scope="module")
def folder(tiny_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("export") / "tiny_openvino"
    export(tiny_weights, path, "openvino")
    return path


def test_a_folder_holds_two_files_and_nothing_is_left_beside_it(folder: Path) -> None:
    assert sorted(folder.iterdir()) == sorted(export_files(folder))
    assert list(folder.parent.iterdir()) == [folder]


def test_an_export_is_replaced_by_another_one_its_certificate_included(tiny_weights: Path, folder: Path) -> None:
    (folder / "certificate.json").write_text("{}")
    before = (folder / "model.xml").read_bytes()
    export(tiny_weights, folder, "openvino", long_side=128)
    assert (folder / "model.xml").read_bytes() != before
    assert sorted(folder.iterdir()) == sorted(export_files(folder))
    assert list(folder.parent.iterdir()) == [folder]


def test_an_empty_folder_is_taken(tiny_weights: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    export(tiny_weights, tmp_path / "empty", "openvino")
    assert len(list((tmp_path / "empty").iterdir())) == 2


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"notes.txt": "mine"}, r"holds notes\.txt, which is no part of an export"),
        ({"model.xml": "<net name='theirs'/>", "model.bin": ""}, "holds another program's model"),
    ],
)
def test_a_folder_of_anything_else_is_left_alone(files: dict[str, str], said: str, tmp_path: Path) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=said):
        export("scenes", tmp_path, "openvino")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == files


def test_a_name_that_does_not_go_with_the_format_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder.onnx").mkdir()
    with pytest.raises(InputError, match=r"ends in \.onnx"):
        export("scenes", tmp_path / "graph.onx")
    (tmp_path / "other.onnx").write_text("mine")
    with pytest.raises(InputError, match=r"other\.onnx: is there already and no export of ours"):
        export("scenes", tmp_path / "other.onnx")
    assert (tmp_path / "other.onnx").read_text() == "mine"
    with pytest.raises(InputError, match="is a folder"):
        export("scenes", tmp_path / "folder.onnx")
    with pytest.raises(InputError, match="expected the name of a folder, such as graph_openvino"):
        export("scenes", tmp_path / "graph.onnx", "openvino")
    with pytest.raises(InputError, match="expected the name of a folder"):
        export("scenes", tmp_path / "file", "openvino")
    with pytest.raises(InputError, match="cannot be written"):
        export("scenes", tmp_path / "file" / "below", "openvino")


def test_a_folder_that_cannot_be_finished_leaves_what_was_there(
    tiny_weights: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    rename = Path.rename

    def fail_at_the_new(self: Path, target: Path) -> Path:
        if self.name == "new":
            raise OSError(28, "No space left on device")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail_at_the_new)
    with pytest.raises(InputError, match="tiny_openvino: cannot be written"):
        export(tiny_weights, folder, "openvino")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert list(folder.parent.iterdir()) == [folder]


@pytest.mark.parametrize("setting", [{"suppression": "soft"}, {"class_agnostic": True}])
def test_another_suppression_than_classic_is_not_put_inside(
    setting: dict[str, object], tiny_weights: Path, tmp_path: Path
) -> None:
    network, info = load_weights(tiny_weights)
    path = tmp_path / "w.safetensors"
    save_weights(path, network, replace(info, config=dict(info.config) | setting))
    with pytest.raises(InputError, match=r"nms: inside the graph it is classic and per class.*--nms out"):
        export(path, tmp_path / "w.onnx", nms=NmsSettings())
    assert list(tmp_path.iterdir()) == [path]


def test_training_images_are_those_of_the_split(tiny_data: Path) -> None:
    images = training_images(tiny_data)
    assert len(images) == 12
    assert images[0].read().shape == (64, 96, 3)
