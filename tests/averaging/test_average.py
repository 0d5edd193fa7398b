"""Averaging weights: the mean, batch norm statistics, metadata, and what is refused."""

import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from detector import average, evaluate
from detector.averaging.average import _with_batch_norm_of
from detector.cli.commands import main
from detector.config import Config
from detector.data.open_data import open_data
from detector.errors import ConfigError, FileError, WeightsError
from detector.image_hashes import ImageHashes
from detector.model.checkpoint import load_weights, save_weights
from detector.score_decisions import ScoreMap
from detector.training.train import train
from detector.weights_info import WeightsInfo


@pytest.fixture(scope="module")
def pair(
    tiny_weights: Path, tiny_data: Path, tiny_config: Config, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """Two weights that were trained from the same weights for a few steps."""
    folder = tmp_path_factory.mktemp("pair")
    config = replace(tiny_config, steps=8, lr=0.005, lr_adamw=0.0003, first_input_size=1.0, evaluations=1)
    runs = [
        train(tiny_data, replace(config, seed=seed), weights=tiny_weights, out=folder / str(seed)) for seed in (1, 2)
    ]
    return runs[0].weights, runs[1].weights


def changed(weights: Path, path: Path, **changes: object) -> Path:
    """Write a copy of weights with another description and slightly other weights."""
    network, info = load_weights(weights)
    with torch.no_grad():
        next(network.parameters()).add_(1e-3)
    save_weights(path, network, replace(info, **changes))  # type: ignore[arg-type]
    return path


def test_every_weight_is_the_mean_of_the_sources(pair: tuple[Path, Path], tiny_weights: Path, tmp_path: Path) -> None:
    result = average([*pair, tiny_weights], tmp_path / "mean.safetensors")
    assert (result.ap, result.sources_ap, result.is_better) == (None, (), False)
    states = [load_weights(path)[0].state_dict() for path in (*pair, tiny_weights)]
    for name, tensor in load_weights(result.path)[0].state_dict().items():
        if tensor.is_floating_point():
            expected = sum(state[name].double() for state in states) / 3
            assert torch.allclose(tensor.double(), expected, rtol=1e-6, atol=1e-7), name


def test_data_measures_the_average_and_keeps_the_better_batch_norm(
    pair: tuple[Path, Path], tiny_data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    plain = average(pair, tmp_path / "plain.safetensors")
    result = average(pair, tmp_path / "measured.safetensors", data=tiny_data)
    logged = [line.split(": val AP")[0] for line in caplog.messages if ": val AP" in line]
    assert logged == ["average, batch norm averaged", "average, batch norm recomputed", *map(str, pair)]
    assert sum("val: 4 images" in line for line in caplog.messages) == 1
    assert result.ap is not None
    assert len(result.sources_ap) == 2
    network, info = load_weights(result.path)
    assert load_weights(plain.path)[1].facts["batch_norm"] == "averaged"
    assert info.facts["batch_norm"] in ("averaged", "recomputed")
    assert result.ap.AP >= evaluate(tiny_data, plain.path, split="val", intervals=False).AP
    assert pytest.approx(evaluate(tiny_data, result.path, split="val", intervals=False).AP, abs=1e-6) == result.ap.AP
    assert info.facts["val"]["AP"] == result.ap.AP
    again = load_weights(average(pair, tmp_path / "again.safetensors", data=tiny_data).path)[0].state_dict()
    assert all(torch.equal(tensor, again[name]) for name, tensor in network.state_dict().items())


def test_images_are_logged_once_and_as_by_evaluate(
    pair: tuple[Path, Path], tiny_data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(tiny_data, tmp_path / "data")
    labels = json.loads((tmp_path / "data/val.json").read_text())
    x, y, w, h = labels["annotations"][0].pop("bbox")
    labels["annotations"][0]["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
    (tmp_path / "data/val.json").write_text(json.dumps(labels))
    caplog.set_level(logging.INFO)

    def lines() -> list[str]:
        found = [line for line in caplog.messages if line.startswith(("val: ", "bounding boxes of masks"))]
        caplog.clear()
        return found

    average(pair, tmp_path / "mean.safetensors", data=tmp_path / "data")
    of_average = lines()
    evaluate(tmp_path / "data", pair[0], split="val", intervals=False)
    assert of_average == lines()
    assert len(of_average) == 2


def test_recomputed_batch_norm_changes_only_its_statistics(tiny_weights: Path, tiny_data: Path) -> None:
    network, info = load_weights(tiny_weights)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    other = _with_batch_norm_of(network, info, open_data(tiny_data)).state_dict()
    changed_names = {name for name, tensor in other.items() if not torch.equal(tensor, before[name])}
    assert changed_names
    assert all("running_" in name or "num_batches" in name for name in changed_names)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_unrelated_networks_give_a_warning(
    tiny_weights: Path, tiny_data: Path, tiny_config: Config, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = train(tiny_data, replace(tiny_config, seed=5, evaluations=1), out=tmp_path / "run").weights
    with caplog.at_level(logging.WARNING):
        result = average([tiny_weights, other], tmp_path / "mean.safetensors", data=tiny_data)
    assert not result.is_better
    assert "the average has a lower AP on val" in caplog.text


def test_metadata_name_sources_and_attributions(tiny_weights: Path, tmp_path: Path) -> None:
    _, info = load_weights(tiny_weights)

    def source(name: str, attribution: str, **changes: object) -> Path:
        facts = dict(info.facts) | {"attribution": attribution}
        return changed(tiny_weights, tmp_path / name, facts=facts, **changes)

    hashes = ImageHashes(frozenset([b"12345678"]), frozenset([b"87654321"]))
    first = source("a.safetensors", "photos by A", score_map=ScoreMap(3.0, 0.0))
    second = source("b.safetensors", "photos by B", image_hashes=hashes)
    # `first` and `second` have the same weights otherwise.
    network, second_info = load_weights(second)
    with torch.no_grad():
        next(network.parameters()).add_(1e-3)
    save_weights(second, network, second_info)
    _, mean = load_weights(average([first, second], tmp_path / "mean.safetensors").path)
    assert mean.facts["attribution"] == "photos by A; photos by B"
    assert [own["name"] for own in mean.facts["averaged"]] == ["a.safetensors", "b.safetensors"]
    assert mean.facts["data"] == info.facts["data"]
    assert "steps" not in mean.facts
    assert mean.score_map is None
    assert mean.image_hashes.train == info.image_hashes.train | hashes.train
    assert mean.image_hashes.val == frozenset()


def other_model(weights: Path, path: Path, tiny_data: Path, tiny_config: Config) -> Path:
    return train(tiny_data, replace(tiny_config, model="nano", steps=2, evaluations=1), out=path).weights


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda info: {"class_names": ("red", "green")}, r"classes: .*green.* but .* has .*blue"),
        (lambda info: {"class_names": ("blue", "red")}, r"the classes are the same, but in another order"),
        (lambda info: {"category_ids": (1, 2)}, r"category ids: \[1, 2\]"),
        (lambda info: {"input_hw": (128, 128)}, r"input size \(height, width\): \[128, 128\]"),
        (lambda info: {"config": dict(info.config) | {"activation": "swish"}}, r"activation: swish"),
    ],
)
def test_different_networks_are_refused(change: object, message: str, tiny_weights: Path, tmp_path: Path) -> None:
    _, info = load_weights(tiny_weights)
    assert callable(change)
    other = changed(tiny_weights, tmp_path / "other.safetensors", **change(info))
    with pytest.raises(WeightsError, match=message):
        average([tiny_weights, other], tmp_path / "mean.safetensors")
    assert not (tmp_path / "mean.safetensors").exists()


def test_other_model_size_is_refused(tiny_weights: Path, tiny_data: Path, tiny_config: Config, tmp_path: Path) -> None:
    nano = other_model(tiny_weights, tmp_path / "nano", tiny_data, tiny_config)
    with pytest.raises(WeightsError, match=r"model: nano, but .* has pico"):
        average([tiny_weights, nano], tmp_path / "mean.safetensors")


def test_wrong_arguments_are_refused(tiny_weights: Path, pair: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="has the same weights as"):
        average([tiny_weights, tiny_weights], tmp_path / "mean.safetensors")
    with pytest.raises(ConfigError, match="at least two"):
        average([tiny_weights], tmp_path / "mean.safetensors")
    with pytest.raises(ConfigError, match=r"ends in \.safetensors"):
        average(pair, tmp_path / "mean.pt")
    with pytest.raises(FileError, match="the same command also uses this file"):
        average(pair, pair[0])
    (tmp_path / "mine.safetensors").write_text("of the user")
    with pytest.raises(FileError, match="not written by this program"):
        average(pair, tmp_path / "mine.safetensors")


def test_command_prints_the_ap_of_all(
    pair: tuple[Path, Path], tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "mean.safetensors")
    assert main(["average", *map(str, pair), "--out", out, "--data", str(tiny_data), "--quiet"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("val AP") == 3
    assert main(["average", *map(str, pair), "--out", out]) == 0  # replaces its own file
    assert f"--weights {out}" in capsys.readouterr().out


def test_info_of_averaged_weights_is_readable(pair: tuple[Path, Path], tmp_path: Path) -> None:
    info: WeightsInfo = load_weights(average(pair, tmp_path / "mean.safetensors").path)[1]
    assert main(["info", str(tmp_path / "mean.safetensors")]) == 0
    assert len(info.facts["averaged"]) == 2
