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
from detector.errors import InputError
from detector.model.checkpoint import load_weights, save_weights
from detector.model.network import GridNetwork
from detector.weights_info import WeightsInfo

INFO = WeightsInfo("pico", ("cat", "Ähre, 穂"), (3, 17), (64, 96), {"lr": "auto", "scale": [0.6, 1.4]}, {"val": None})
IMAGES = torch.randint(0, 256, (2, 3, 64, 96), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def build() -> GridNetwork:
    """A network whose norms have seen images."""
    torch.manual_seed(0)
    network = GridNetwork(
        Config(model="pico"), 2, np.full(3, 110, np.float32), np.eye(3, dtype=np.float32) * 3600
    ).train()
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


def parts(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118 (no mapping)


def test_weights_come_back_bit_by_bit_with_all_that_is_said_of_them(network: GridNetwork, path: Path) -> None:
    loaded, info = load_weights(path)
    assert info == INFO
    assert not loaded.training
    for name, tensor in network.state_dict().items():
        if tensor.is_floating_point():
            assert torch.equal(loaded.state_dict()[name], tensor), name
    with torch.inference_mode():
        assert torch.equal(loaded(IMAGES).class_logits, network(IMAGES).class_logits)


def test_weights_of_a_large_canvas_come_back_with_their_pooling(tmp_path: Path) -> None:
    network = GridNetwork(
        Config(model="pico"), 2, np.zeros(3, np.float32), np.eye(3, dtype=np.float32), spp=True
    ).eval()
    save_weights(tmp_path / "w.safetensors", network, replace(INFO, input_hw=(416, 416)))
    loaded, _ = load_weights(tmp_path / "w.safetensors")
    with torch.inference_mode():
        assert torch.equal(loaded(IMAGES).class_logits, network(IMAGES).class_logits)


def test_half_precision_halves_the_file_and_nearly_keeps_the_answers(
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


def test_saving_replaces_what_was_there_and_leaves_nothing_else_behind(network: GridNetwork, path: Path) -> None:
    path.write_bytes(b"older")
    save_weights(path, network, INFO)
    assert load_weights(path)[1] == INFO
    assert [file.name for file in path.parent.iterdir()] == ["w.safetensors"]


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def cut_head(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:20])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def pickled(path: Path) -> None:
    path.write_bytes(pickle.dumps({"model": [1, 2, 3]}))


def torch_saved(path: Path) -> None:
    torch.save({"weight": torch.zeros(3)}, path)


def foreign(path: Path) -> None:
    save_file({"layer.weight": torch.zeros(3)}, path)


def with_format(path: Path) -> None:
    tensors, metadata = parts(path)
    save_file(tensors, path, metadata | {"format": "detector-weights-99"})


def with_wrong_shape(path: Path) -> None:
    tensors, metadata = parts(path)
    save_file(tensors | {"heads.0.output.bias": torch.zeros(7)}, path, metadata)


def with_nan(path: Path) -> None:
    tensors, metadata = parts(path)
    tensors["heads.1.output.bias"][2] = float("nan")
    save_file(tensors, path, metadata)


def with_infinity(path: Path) -> None:
    tensors, metadata = parts(path)
    tensors["color_mean"][0] = float("inf")
    save_file(tensors, path, metadata)


def without_a_tensor(path: Path) -> None:
    tensors, metadata = parts(path)
    del tensors["heads.2.output.weight"]
    save_file(tensors, path, metadata)


def with_another_tensor(path: Path) -> None:
    tensors, metadata = parts(path)
    save_file(tensors | {"extra.weight": torch.zeros(3)}, path, metadata)


def with_metadata(**values: object) -> Callable[[Path], None]:
    def spoil(path: Path) -> None:
        tensors, metadata = parts(path)
        save_file(tensors, path, metadata | {key: json.dumps(value) for key, value in values.items()})

    return spoil


def without_class_names(path: Path) -> None:
    tensors, metadata = parts(path)
    del metadata["class_names"]
    save_file(tensors, path, metadata)


def with_broken_json(path: Path) -> None:
    tensors, metadata = parts(path)
    save_file(tensors, path, metadata | {"input_hw": "[64,"})


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (Path.unlink, "no such weights file, and no shipped weights of that name"),
        (truncate, "not a readable safetensors file"),
        (cut_head, "not a readable safetensors file"),
        (empty, "not a readable safetensors file"),
        (pickled, "not a readable safetensors file"),
        (torch_saved, "not a readable safetensors file"),
        (foreign, "weights of another program or version .format None, expected 'detector-weights-2'"),
        (with_format, "weights of another program or version .format 'detector-weights-99'"),
        (with_wrong_shape, r"tensor heads.0.output.bias has shape \[7\], expected \[6\]"),
        (with_nan, "tensor heads.1.output.bias holds values that are not numbers"),
        (with_infinity, "tensor color_mean holds values that are not numbers"),
        (without_a_tensor, "tensor heads.2.output.weight is missing"),
        (with_another_tensor, "tensor extra.weight is not a part of the network"),
        (with_metadata(model="nano"), "tensor .* is missing|tensor .* has shape"),
        (with_metadata(model="giant"), "made by another version, or damaged: model: expected pico"),
        (with_metadata(input_hw=[64]), "the metadata are damaged"),
        (with_metadata(input_hw=None), "the metadata are damaged"),
        (with_metadata(class_names=["a", "b", "c"]), "3 class names, 2 category ids"),
        (without_class_names, "the metadata are damaged"),
        (with_broken_json, "the metadata are damaged"),
    ],
)
def test_weights_that_cannot_be_used_are_refused_by_name(
    path: Path, spoil: Callable[[Path], None], message: str
) -> None:
    spoil(path)
    with pytest.raises(InputError, match=message) as caught:
        load_weights(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("values", [{"category_ids": [3]}, {"input_hw": [64, 97]}, {"input_hw": [0, 0]}])
def test_metadata_that_contradict_each_other_are_refused(path: Path, values: dict[str, object]) -> None:
    with_metadata(**values)(path)
    with pytest.raises(InputError, match="metadata"):
        load_weights(path)


def test_a_pickle_is_never_run(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
            return exec, ("raise SystemExit('the pickle was run')",)

    (tmp_path / "w.pt").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(InputError, match="may run code when it is loaded and is not read"):
        load_weights(tmp_path / "w.pt")


@pytest.mark.parametrize(("name", "message"), [("a.pt", "may run code"), ("a.ONNX", "an export: expected the")])
def test_files_of_other_makes_are_named(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / name).write_bytes(bytes(100))
    with pytest.raises(InputError, match=message):
        load_weights(tmp_path / name)
