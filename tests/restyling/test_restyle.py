"""`restyle`: labels stay equal, the same seed gives the same images, and no file of the user is overwritten."""

import json
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import detector
from detector.annotation import Annotation
from detector.cli.commands import main
from detector.data.open_data import open_data
from detector.errors import ConfigError, FileError, ImageError, InputError
from detector.images import read_image
from detector.model.checkpoint import load_weights, save_weights
from detector.restyling.restyle import RestyledData, choose_styles
from detector.restyling.style_transfer import StyleTransfer

Style = str | Path | list[str | Path]


@pytest.fixture
def styles(tmp_path: Path) -> Path:
    """A folder with three style images: RGB, gray, and with transparency."""
    folder = tmp_path / "styles"
    folder.mkdir()
    rng = np.random.default_rng(0)
    levels = rng.integers(0, 255, (24, 40, 4)).astype(np.uint8)
    Image.fromarray(levels[..., :3]).resize((80, 48)).save(folder / "a.jpg")
    Image.fromarray(levels[..., 0]).resize((80, 48)).save(folder / "gray.png")
    Image.fromarray(levels, "RGBA").resize((80, 48)).save(folder / "with_alpha.png")
    return folder


def restyle(data: Path, style: Style, out: Path, split: str = "val", **options: object) -> RestyledData:
    return detector.restyle(data, style, out, split=split, **{"steps": 1, **options})  # type: ignore[arg-type]


def assert_same_labels(found: Annotation, expected: Annotation) -> None:
    assert (found.image_id, found.image_hw) == (expected.image_id, expected.image_hw)
    for name in ("boxes", "class_ids", "is_crowd", "areas"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))


def test_labels_are_equal_and_images_are_changed(tiny_data: Path, styles: Path, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in tiny_data.rglob("*") if path.is_file()}
    out = tmp_path / "out"
    result = restyle(tiny_data, styles, out)
    assert before == {path: path.read_bytes() for path in tiny_data.rglob("*") if path.is_file()}
    source, found = open_data(tiny_data).read("val"), open_data(out).read("val")
    assert open_data(out).split_names == ("val",)
    assert (found.class_names, found.category_ids) == (source.class_names, source.category_ids)
    assert not found.ledger.entries
    assert len(found.annotations) == len(source.annotations) == len(result.split.annotations)
    for new, old in zip(found.annotations, source.annotations, strict=True):
        assert_same_labels(new, old)
        assert new.image_path.parent == (out / "images" / "val").resolve()
        image, original = found.decode(new), source.decode(old)
        assert image.shape == original.shape
        assert np.abs(image.astype(int) - original).mean() > 3
    assert (result.styles, dict(result.failed)) == (3, {})
    ledger = json.loads((out / "ledger.json").read_text())
    assert [row["new"] for row in ledger["images"]] == [f"images/val/{n}.jpg" for n in (13, 14, 15, 16)]
    assert len({row["styles"][0] for row in ledger["images"]}) == 3
    assert read_image(out / "sheet.jpg").shape[1] == 6 * 320


def test_the_same_seed_gives_the_same_images(tiny_data: Path, styles: Path, tmp_path: Path) -> None:
    images = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        restyle(tiny_data, styles, tmp_path / name, seed=seed)
        images.append([path.read_bytes() for path in sorted((tmp_path / name / "images").rglob("*.jpg"))])
    assert images[0] == images[1]
    assert images[0] != images[2]


def test_styles_are_used_in_turn() -> None:
    choice = choose_styles(images=7, styles=3, per_image=1, seed=0)
    assert choice.shape == (7, 1)
    assert sorted(np.bincount(choice[:, 0])) == [2, 2, 3]
    several = choose_styles(images=5, styles=4, per_image=3, seed=0)
    assert all(len(set(row)) == 3 for row in several.tolist())
    for per_image in (0, 5):
        with pytest.raises(ConfigError, match="expected 1 to 4"):
            choose_styles(images=5, styles=4, per_image=per_image, seed=0)


def test_several_styles_per_image_are_listed(tiny_data: Path, styles: Path, tmp_path: Path) -> None:
    restyle(tiny_data, styles, tmp_path / "out", styles_per_image=2)
    ledger = json.loads((tmp_path / "out" / "ledger.json").read_text())
    assert all(len(set(row["styles"])) == 2 for row in ledger["images"])


def test_unreadable_style_image_stops_before_anything_is_written(tiny_data: Path, styles: Path, tmp_path: Path) -> None:
    (styles / "broken.jpg").write_bytes(b"no image")
    with pytest.raises(ImageError, match=r"broken\.jpg.*remove it"):
        restyle(tiny_data, styles, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(FileError, match=r"missing\.jpg"):
        restyle(tiny_data, styles / "missing.jpg", tmp_path / "out")


def test_files_of_the_user_are_not_overwritten(tiny_data: Path, styles: Path, tmp_path: Path) -> None:
    mine = tmp_path / "out" / "images" / "val" / "14.jpg"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    with pytest.raises(FileError, match=r"14\.jpg"):
        restyle(tiny_data, styles, tmp_path / "out")
    assert mine.read_text() == "mine"
    assert [path.name for path in (tmp_path / "out").rglob("*.*g")] == ["14.jpg"]
    restyle(tiny_data, styles, tmp_path / "out", overwrite=True)
    assert mine.read_bytes() != b"mine"


def test_a_second_run_replaces_the_first(tiny_data: Path, styles: Path, tmp_path: Path) -> None:
    restyle(tiny_data, styles, tmp_path / "out", split="test")
    restyle(tiny_data, styles, tmp_path / "out")
    assert open_data(tmp_path / "out").split_names == ("val",)
    assert len(list((tmp_path / "out").rglob("*.jpg"))) == 4 + 1


@pytest.mark.parametrize("place", ["inside", "images"])
def test_output_inside_of_the_data_set_is_refused(tiny_data: Path, styles: Path, place: str) -> None:
    with pytest.raises(FileError, match="is inside of"):
        restyle(tiny_data, styles, tiny_data / place)
    assert not (tiny_data / "inside").exists()


def test_unreadable_images_are_left_out_with_their_labels(tiny_data: Path, styles: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    (data / "images").mkdir(parents=True)
    (data / "val.json").write_bytes((tiny_data / "val.json").read_bytes())
    for number in (13, 14, 15, 16):
        content = (tiny_data / "images" / f"{number}.png").read_bytes()
        (data / "images" / f"{number}.png").write_bytes(content[:300] if number == 14 else content)
    command = ["restyle", "--data", str(data), "--style", str(styles), "--steps", "1", "--out", str(tmp_path / "out")]
    assert main(command) == 3
    found = open_data(tmp_path / "out").read("val")
    assert [a.image_id for a in found.annotations] == [13, 15, 16]
    ledger = json.loads((tmp_path / "out" / "ledger.json").read_text())
    assert [("left_out" in row) for row in ledger["images"]] == [False, True, False, False]
    labels = ledger["labels"]
    assert labels["found"] == 8 == labels["used"] + labels["clipped"] + labels["dropped"]
    assert labels["dropped"] == 2


def test_interrupt_keeps_complete_images(
    tiny_data: Path, styles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    apply, calls = StyleTransfer.apply, []

    def interrupted(*arguments: object) -> object:
        calls.append(1)
        if len(calls) == 2:
            signal.raise_signal(signal.SIGINT)
        return apply(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(StyleTransfer, "apply", interrupted)
    with pytest.raises(KeyboardInterrupt):
        restyle(tiny_data, styles, tmp_path / "out")
    assert [a.image_id for a in open_data(tmp_path / "out").read("val").annotations] == [13, 14]
    assert len(list((tmp_path / "out" / "images").rglob("*"))) == 1 + 2


def test_rendered_images_can_be_restyled(
    styles: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("detector.data.scenes.scenes._split_size", lambda split: 3)
    out = tmp_path / "out"
    command = ["restyle", "--data", "scenes", "--split", "val", "--style", str(styles / "a.jpg"), "--steps", "1"]
    command += ["--max-side", "16", "--out", str(out)]
    assert main(command) == 0
    source, found = open_data("scenes").read("val"), open_data(out).read("val")
    assert len(found.annotations) == len(source.annotations)
    for new, old in zip(found.annotations, source.annotations, strict=True):
        assert_same_labels(new, old)
    assert f"{len(source.annotations)} images" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["missing", "valid padding"])
def test_unusable_weights_stop_before_anything_is_written(
    tiny_data: Path, styles: Path, tmp_path: Path, kind: str
) -> None:
    weights = tmp_path / "weights.safetensors"
    if kind == "valid padding":
        network, info = load_weights("scenes")
        save_weights(weights, network, replace(info, config=dict(info.config) | {"padding": "valid"}))
    with pytest.raises(InputError, match=r"weights\.safetensors"):
        restyle(tiny_data, styles, tmp_path / "out", weights=weights)
    assert not (tmp_path / "out").exists()
