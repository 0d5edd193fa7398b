"""An export is written completely or not at all, and replaces nothing but an earlier export."""

from dataclasses import replace
from pathlib import Path

import pytest

from detector.errors import ConfigError, FileError, LabelError
from detector.exporting.certificate import certificate_path
from detector.exporting.export import export, training_images
from detector.graph.export_format import export_files, format_of_name
from detector.model.checkpoint import load_weights, save_weights
from detector.options import DetectOptions
from detector.outputs import write_signed_json


@pytest.fixture(scope="module")
def folder(tiny_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("export") / "tiny_openvino"
    export(tiny_weights, path, format="openvino", certify=False)
    return path


def test_folder_contains_two_files_and_no_temporary_file_remains(folder: Path) -> None:
    assert sorted(folder.iterdir()) == sorted(export_files(folder))
    assert list(folder.parent.iterdir()) == [folder]


def test_new_export_replaces_the_old_one_with_its_certificate(tiny_weights: Path, folder: Path) -> None:
    write_signed_json(folder / "certificate.json", {"a": 1})
    before = (folder / "model.xml").read_bytes()
    export(tiny_weights, folder, format="openvino", input_size=128, certify=False)
    assert (folder / "model.xml").read_bytes() != before
    assert sorted(folder.iterdir()) == sorted(export_files(folder))
    assert list(folder.parent.iterdir()) == [folder]


@pytest.mark.parametrize("name", ["model.xml", "model.bin", "certificate.json"])
def test_changed_export_is_kept(tiny_weights: Path, folder: Path, name: str) -> None:
    before = (folder / name).read_bytes() if (folder / name).exists() else b"{}"
    (folder / name).write_bytes(before + b" ")
    with pytest.raises(FileError, match=rf"{name}: was .*, so it is not overwritten"):
        export(tiny_weights, folder, format="openvino", certify=False)
    assert (folder / name).read_bytes() == before + b" "
    export(tiny_weights, folder, format="openvino", certify=False, overwrite=True)
    assert sorted(folder.iterdir()) == sorted(export_files(folder))


def test_changed_onnx_file_and_certificate_are_kept(tiny_weights: Path, tmp_path: Path) -> None:
    path = tmp_path / "tiny.onnx"
    for _ in range(2):
        export(tiny_weights, path)
    for file in (path, certificate_path(path)):
        before = file.read_bytes()
        file.write_bytes(before + b" ")
        with pytest.raises(FileError, match=rf"{file.name}: was changed after it was written"):
            export(tiny_weights, path)
        assert file.read_bytes() != before
        file.write_bytes(before)
    export(tiny_weights, path)


def test_empty_folder_is_accepted(tiny_weights: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    export(tiny_weights, tmp_path / "empty", format="openvino", certify=False)
    assert len(list((tmp_path / "empty").iterdir())) == 2


def test_export_returns_its_size_and_certificate(tiny_weights: Path, tiny_data: Path, tmp_path: Path) -> None:
    path = tmp_path / "tiny.onnx"
    images = [str(tiny_data / "images")]
    result = export(str(tiny_weights), str(path), input_size=128, certificate_images=images)
    assert result.path == path
    assert max(result.input_hw) == 128
    assert result.size_bytes == path.stat().st_size
    assert result.megabytes == pytest.approx(path.stat().st_size / 1e6)
    assert result.certificate is not None
    assert result.certificate.input_hw == result.input_hw
    assert list(result.certificate.parity) == ["built-in images", "your images"]
    assert certificate_path(path).is_file()


def test_export_without_certificate_writes_none(tiny_weights: Path, tmp_path: Path) -> None:
    result = export(tiny_weights, tmp_path / "tiny.onnx", certify=False)
    assert result.certificate is None
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.onnx"]


def test_export_without_a_runtime_to_run_it_has_no_certificate(
    tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("detector.exporting.export.find_spec", lambda name: None)
    assert export(tiny_weights, tmp_path / "tiny.onnx").certificate is None


def test_too_few_images_for_int8_are_refused(tiny_weights: Path, tiny_data: Path, tmp_path: Path) -> None:
    images = sorted((tiny_data / "images").iterdir())[:15]
    with pytest.raises(ConfigError, match="int8: 15 images are too few"):
        export(tiny_weights, tmp_path / "tiny.onnx", int8_images=images, certify=False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"notes.txt": "mine"}, r"contains notes\.txt, which is not part of an export"),
        (
            {"model.xml": "<net name='theirs'/>", "model.bin": ""},
            r"model\.xml: was not written by this program, so it is not overwritten",
        ),
    ],
)
def test_folder_with_other_files_is_unchanged(files: dict[str, str], message: str, tmp_path: Path) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(FileError, match=message):
        export("scenes", tmp_path, format="openvino")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == files


def test_name_that_does_not_fit_the_format_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder.onnx").mkdir()
    with pytest.raises(ConfigError, match="format: expected onnx, openvino, ncnn, litert, coreml, got 'pdf'"):
        export("scenes", tmp_path / "graph.pdf", format="pdf")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"ends in \.onnx"):
        export("scenes", tmp_path / "graph.onx")
    (tmp_path / "other.onnx").write_text("mine")
    with pytest.raises(FileError, match=r"other\.onnx: was not written by this program, so it is not overwritten"):
        export("scenes", tmp_path / "other.onnx")
    assert (tmp_path / "other.onnx").read_text() == "mine"
    with pytest.raises(ConfigError, match="is a folder"):
        export("scenes", tmp_path / "folder.onnx")
    with pytest.raises(ConfigError, match="expected a folder name, such as graph_openvino"):
        export("scenes", tmp_path / "graph.onnx", format="openvino")
    with pytest.raises(ConfigError, match="expected a folder name"):
        export("scenes", tmp_path / "file", format="openvino")
    with pytest.raises(FileError, match="cannot be written"):
        export("scenes", tmp_path / "file" / "below", format="openvino")


def test_folder_that_cannot_be_written_is_restored(
    tiny_weights: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    rename = Path.rename

    def rename_all_but_the_new_folder(self: Path, target: Path) -> Path:
        if self.name == "new":
            raise OSError(28, "No space left on device")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", rename_all_but_the_new_folder)
    with pytest.raises(FileError, match="tiny_openvino: cannot be written"):
        export(tiny_weights, folder, format="openvino", certify=False)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert list(folder.parent.iterdir()) == [folder]


@pytest.mark.parametrize("setting", [{"suppression": "soft"}, {"class_agnostic": True}])
def test_nms_other_than_classic_cannot_be_exported(
    setting: dict[str, object], tiny_weights: Path, tmp_path: Path
) -> None:
    network, info = load_weights(tiny_weights)
    path = tmp_path / "w.safetensors"
    save_weights(path, network, replace(info, config=dict(info.config) | setting))
    with pytest.raises(ConfigError, match=r"nms: .*classic NMS per class.*--nms out"):
        export(path, tmp_path / "w.onnx", nms=DetectOptions())
    assert list(tmp_path.iterdir()) == [path]


def test_training_images_are_those_of_the_train_split(tiny_data: Path) -> None:
    images = training_images(tiny_data)
    assert len(images) == 12
    assert images[0].read().shape == (64, 96, 3)


@pytest.mark.parametrize("name", ["model.onnx", "model_openvino"])
def test_failed_export_leaves_no_files(tiny_weights: Path, tiny_data: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(LabelError, match="no split 'tset'"):
        export(tiny_weights, tmp_path / name, format=format_of_name(tmp_path / name), data=tiny_data, split="tset")
    assert not list(tmp_path.iterdir())
