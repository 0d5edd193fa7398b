import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from detector.config import Config
from detector.errors import FileError, InputError, WeightsError
from detector.model.checkpoint import copy_weights, load_weights, save_weights
from detector.model.make_network import make_network
from detector.model.network import GridNetwork
from detector.shipped_weights import find_weights
from detector.weights_info import WeightsInfo

INFO = WeightsInfo("pico", ("cat", "Ähre, 穂"), (3, 17), (64, 96), {"lr": "auto", "scale": [0.6, 1.4]}, {"val": None})
IMAGES = torch.randint(0, 256, (2, 3, 64, 96), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def build(seed: int = 0, **settings: object) -> GridNetwork:
    """Return a network whose batch norm layers have the running statistics of `IMAGES`."""
    torch.manual_seed(seed)
    config = Config(**{"model": "pico"} | settings)  # type: ignore[arg-type]
    network = make_network(config, 2, np.full(3, 110, np.float32), np.eye(3, dtype=np.float32) * 3600).train()
    with torch.no_grad():
        for _ in range(30):
            network(IMAGES)
    return network.eval()


@pytest.fixture(scope="module")
def network() -> GridNetwork:
    return build()


@pytest.fixture
def path(network: GridNetwork, tmp_path: Path) -> Path:
    save_weights(tmp_path / "some" / "w.safetensors", network, INFO)
    return tmp_path / "some" / "w.safetensors"


def read_file(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors by name, and the metadata, of a safetensors file."""
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118 (no mapping)


def test_loaded_weights_equal_the_saved_weights(network: GridNetwork, path: Path) -> None:
    loaded, info = load_weights(path)
    assert info == INFO
    assert not loaded.training
    for name, tensor in network.state_dict().items():
        if tensor.is_floating_point():
            assert torch.equal(loaded.state_dict()[name], tensor), name
    with torch.inference_mode():
        assert torch.equal(loaded(IMAGES).class_logits, network(IMAGES).class_logits)


def test_weights_for_a_large_input_are_loaded_with_spp(tmp_path: Path) -> None:
    network = make_network(
        Config(model="pico"), 2, np.zeros(3, np.float32), np.eye(3, dtype=np.float32), input_hw=(416, 416)
    ).eval()
    save_weights(tmp_path / "w.safetensors", network, replace(INFO, input_hw=(416, 416)))
    loaded, _ = load_weights(tmp_path / "w.safetensors")
    with torch.inference_mode():
        assert torch.equal(loaded(IMAGES).class_logits, network(IMAGES).class_logits)


def test_float16_halves_the_file_and_barely_changes_predictions(
    network: GridNetwork, path: Path, tmp_path: Path
) -> None:
    save_weights(tmp_path / "half.safetensors", network, INFO, float16=True)
    assert (tmp_path / "half.safetensors").stat().st_size < 0.6 * path.stat().st_size
    loaded, _ = load_weights(tmp_path / "half.safetensors")
    assert all(parameter.dtype == torch.float32 for parameter in loaded.parameters())
    with torch.inference_mode():
        half, exact = loaded(IMAGES), network(IMAGES)
    torch.testing.assert_close(half.class_logits, exact.class_logits, rtol=0.01, atol=0.02)
    torch.testing.assert_close(half.distances, exact.distances, rtol=0.01, atol=0.02)


def test_saving_replaces_the_file_and_leaves_no_temporary_file(network: GridNetwork, path: Path) -> None:
    path.write_bytes(b"older")
    save_weights(path, network, INFO)
    assert load_weights(path)[1] == INFO
    assert [file.name for file in path.parent.iterdir()] == ["w.safetensors"]


@pytest.mark.parametrize("head", ["points", "yolo_v1"])
@pytest.mark.parametrize("all_classes", [True, False])
def test_copied_weights_include_outputs_for_the_same_classes_only(head: str, all_classes: bool) -> None:
    network, weights = build(1, head=head), build(2, head=head)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    copy_weights(network, weights, all_classes)
    for name, tensor in network.state_dict().items():
        fresh = 0 if all_classes or ".output." not in name else network.class_count
        given = weights.state_dict()[name]
        expected = torch.cat([before[name][:fresh], given[fresh:]]) if fresh else given
        assert torch.equal(tensor, expected), name


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def cut_header(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:20])


def clear(path: Path) -> None:
    path.write_bytes(b"")


def write_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps({"model": [1, 2, 3]}))


def write_torch_file(path: Path) -> None:
    torch.save({"weight": torch.zeros(3)}, path)


def write_other_safetensors(path: Path) -> None:
    save_file({"layer.weight": torch.zeros(3)}, path)


def with_unknown_format(path: Path) -> None:
    tensors, metadata = read_file(path)
    save_file(tensors, path, metadata | {"format": "detector-weights-99"})


def with_wrong_shape(path: Path) -> None:
    tensors, metadata = read_file(path)
    save_file(tensors | {"heads.0.output.bias": torch.zeros(7)}, path, metadata)


def with_wrong_type(path: Path) -> None:
    tensors, metadata = read_file(path)
    save_file(tensors | {"heads.0.output.bias": torch.zeros(6, dtype=torch.int64)}, path, metadata)


def with_nan(path: Path) -> None:
    tensors, metadata = read_file(path)
    tensors["heads.1.output.bias"][2] = float("nan")
    save_file(tensors, path, metadata)


def with_infinity(path: Path) -> None:
    tensors, metadata = read_file(path)
    tensors["color_mean"][0] = float("inf")
    save_file(tensors, path, metadata)


def without_a_tensor(path: Path) -> None:
    tensors, metadata = read_file(path)
    del tensors["heads.2.output.weight"]
    save_file(tensors, path, metadata)


def with_unknown_tensor(path: Path) -> None:
    tensors, metadata = read_file(path)
    save_file(tensors | {"extra.weight": torch.zeros(3)}, path, metadata)


def with_metadata(**values: object) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        tensors, metadata = read_file(path)
        save_file(tensors, path, metadata | {key: json.dumps(value) for key, value in values.items()})

    return damage


def test_a_shipped_name_means_the_shipped_weights(path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    shipped = {name: find_weights(name) for name in ("cells", "everyday", "scenes")}
    assert {file.parent.name for file in shipped.values()} == {"weights"}
    monkeypatch.chdir(tmp_path)
    path.rename("cells")  # a weights file
    Path("scenes").mkdir()
    assert {name: find_weights(name) for name in shipped} == shipped
    for source in ("./cells", str(Path("cells").resolve()), Path("cells")):
        assert load_weights(source)[1] == INFO
    with pytest.raises(FileError, match="no such weights file"):
        find_weights("./scenes")


def without_class_names(path: Path) -> None:
    tensors, metadata = read_file(path)
    del metadata["class_names"]
    save_file(tensors, path, metadata)


def with_broken_json(path: Path) -> None:
    tensors, metadata = read_file(path)
    save_file(tensors, path, metadata | {"input_hw": "[64,"})


@pytest.mark.parametrize(
    ("damage", "kind", "message"),
    [
        (
            Path.unlink,
            FileError,
            "no such weights file; pass a path, or the name of shipped weights: cells, everyday, scenes",
        ),
        (truncate, WeightsError, "not a readable safetensors file"),
        (cut_header, WeightsError, "not a readable safetensors file"),
        (clear, WeightsError, "not a readable safetensors file"),
        (write_pickle, WeightsError, "not a readable safetensors file"),
        (write_torch_file, WeightsError, "not a readable safetensors file"),
        (
            write_other_safetensors,
            WeightsError,
            "written by another program or version .format None, expected 'detector-weights-2'",
        ),
        (with_unknown_format, WeightsError, "written by another program or version .format 'detector-weights-99'"),
        (with_wrong_shape, WeightsError, r"tensor heads.0.output.bias has shape \[7\], expected \[6\]"),
        (with_wrong_type, WeightsError, "tensor heads.0.output.bias has type int64, expected float16 or float32"),
        (with_nan, WeightsError, "tensor heads.1.output.bias contains NaN or infinite values"),
        (with_infinity, WeightsError, "tensor color_mean contains NaN or infinite values"),
        (without_a_tensor, WeightsError, "tensor heads.2.output.weight is missing"),
        (with_unknown_tensor, WeightsError, "tensor extra.weight is not part of the network"),
        (with_metadata(model="nano"), WeightsError, "tensor backbone.stages.0.0.conv.weight has shape"),
        (
            with_metadata(model="giant"),
            WeightsError,
            "damaged, or was written by another version: model: expected pico",
        ),
        (with_metadata(input_hw=[64]), WeightsError, "the metadata is damaged: input_hw must be"),
        (with_metadata(input_hw=None), WeightsError, "the metadata is damaged: input_hw must be"),
        (with_metadata(class_names=["a", "b", "c"]), WeightsError, "3 class names, 2 category ids"),
        (without_class_names, WeightsError, "the metadata is damaged .KeyError: 'class_names'"),
        (with_broken_json, WeightsError, "the metadata is damaged .JSONDecodeError"),
    ],
)
def test_unusable_weights_files_are_refused(
    path: Path, damage: Callable[[Path], None], kind: type[InputError], message: str
) -> None:
    damage(path)
    with pytest.raises(kind, match=message) as caught:
        load_weights(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"category_ids": [3]}, "2 class names, 1 category ids"),
        ({"input_hw": [64, 97]}, "input_hw must be two multiples of 32"),
        ({"input_hw": [0, 0]}, "input_hw must be two multiples of 32"),
    ],
)
def test_inconsistent_metadata_is_refused(path: Path, values: dict[str, object], message: str) -> None:
    with_metadata(**values)(path)
    with pytest.raises(WeightsError, match=f"the metadata is damaged.*{message}"):
        load_weights(path)


def test_pickle_files_are_never_executed(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
            return exec, ("raise SystemExit('the pickle was executed')",)

    (tmp_path / "w.pt").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(WeightsError, match="PyTorch files are not read, since they can run code when they are loaded"):
        load_weights(tmp_path / "w.pt")


@pytest.mark.parametrize(("name", "message"), [("a.pt", "can run code"), ("a.ONNX", "an exported graph: pass the")])
def test_message_names_the_format_of_the_file(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / name).write_bytes(bytes(100))
    with pytest.raises(WeightsError, match=message):
        load_weights(tmp_path / name)
