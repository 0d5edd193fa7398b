"""JPEG files that are decoded at a reduced size show the whole image, upright, and are never smaller than needed."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

import detector.data.split as split_module
from detector.annotation import Annotation
from detector.arrays import ImageArray
from detector.boxes import area
from detector.config import Config
from detector.data.ledger import Ledger
from detector.data.split import Split
from detector.errors import ImageError, ImageTooLargeError
from detector.evaluating.evaluate import read_letterboxed_split
from detector.images import is_truncated, read_image, read_reduced
from detector.loader.dataset import DetectionDataset


def photograph(h: int, w: int) -> ImageArray:
    """Return a smooth random image, whose four corners differ."""
    coarse = np.random.default_rng(0).integers(0, 256, (max(2, h // 40), max(2, w // 40), 3)).astype(np.uint8)
    return np.asarray(cv2.resize(coarse, (w, h), interpolation=cv2.INTER_CUBIC), dtype=np.uint8)


def write_jpeg(path: Path, hw: tuple[int, int], orientation: int = 1) -> Path:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(photograph(*hw)).save(path, quality=95, exif=exif)
    return path


def shrink(image: ImageArray, hw: tuple[int, int]) -> ImageArray:
    return np.asarray(cv2.resize(image, hw[::-1], interpolation=cv2.INTER_AREA), dtype=np.uint8)


def mean_difference(a: ImageArray, b: ImageArray) -> float:
    return float(np.abs(a.astype(int) - b).mean())


@pytest.mark.parametrize(
    ("hw", "min_hw", "expected"),
    [
        ((240, 320), (30, 40), (30, 40)),
        ((240, 320), (31, 40), (60, 80)),
        ((240, 320), (60, 81), (120, 160)),
        ((240, 320), (121, 160), (240, 320)),
        ((240, 320), (500, 700), (240, 320)),
        ((244, 324), (20, 20), (61, 81)),  # 1/8 would not be a whole number of pixels
        ((241, 320), (20, 20), (241, 320)),
    ],
)
def test_size_is_a_whole_fraction_and_large_enough(
    hw: tuple[int, int], min_hw: tuple[int, int], expected: tuple[int, int], tmp_path: Path
) -> None:
    path = write_jpeg(tmp_path / "a.jpg", hw)
    image, full_hw = read_reduced(path, min_hw)
    assert (image.shape, full_hw) == ((*expected, 3), hw)
    assert mean_difference(image, shrink(read_image(path), expected)) < 1.5


@pytest.mark.parametrize("orientation", range(1, 9))
def test_reduced_image_is_upright(orientation: int, tmp_path: Path) -> None:
    path = write_jpeg(tmp_path / "a.jpg", (240, 320), orientation)
    whole = read_image(path)
    min_hw = (50, 70) if orientation < 5 else (70, 50)
    image, full_hw = read_reduced(path, min_hw)
    assert full_hw == whole.shape[:2]
    assert image.shape[:2] == tuple(side // 4 for side in full_hw)
    assert mean_difference(image, shrink(whole, image.shape[:2])) < 1.5


@pytest.mark.parametrize("mode", ["L", "CMYK"])
@pytest.mark.parametrize("progressive", [False, True])
def test_other_jpeg_files_are_reduced_too(mode: str, progressive: bool, tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    Image.fromarray(photograph(240, 320)).convert(mode).save(path, quality=95, progressive=progressive)
    image, _ = read_reduced(path, (60, 80))
    assert mean_difference(image, shrink(read_image(path), (60, 80))) < 1.5


def test_other_formats_and_damaged_files_are_read_as_usual(tmp_path: Path) -> None:
    png = tmp_path / "a.png"
    Image.fromarray(photograph(240, 320)).save(png)
    assert np.array_equal(read_reduced(png, (30, 40))[0], read_image(png))
    path = write_jpeg(tmp_path / "a.jpg", (240, 320))
    data = path.read_bytes()
    path.write_bytes(data[:-200])
    image, full_hw = read_reduced(path, (30, 40))
    assert (image.shape, full_hw) == ((240, 320, 3), (240, 320))
    assert is_truncated(path)
    path.write_bytes(data)
    assert read_reduced(path, (30, 40))[0].shape == (30, 40, 3)
    assert not is_truncated(path)
    path.write_bytes(data[:300])
    with pytest.raises(ImageError):
        read_reduced(path, (30, 40))
    with pytest.raises(ImageTooLargeError):
        read_reduced(write_jpeg(path, (240, 320)), (30, 40), max_pixels=1000)


def make_split(path: Path, hw: tuple[int, int], count: int = 1) -> Split:
    box = np.array([[10, 20, hw[1] / 2, hw[0] / 3]], dtype=np.float32)
    annotations = tuple(
        Annotation(image_id, path, hw, box, np.array([0]), np.array([False]), area(box))
        for image_id in range(1, count + 1)
    )
    return Split("train", ("a",), (1,), annotations, Ledger(used=count))


def test_large_training_images_are_decoded_at_a_reduced_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hw = (960, 1280)
    split = make_split(write_jpeg(tmp_path / "a.jpg", hw), hw)
    reduced = DetectionDataset(split, (64, 96), Config()).sample(0)
    monkeypatch.setattr(split_module, "read_reduced", lambda path, min_hw, max_pixels: (read_image(path), hw))
    whole = DetectionDataset(split, (64, 96), Config()).sample(0)
    assert reduced.image.shape == whole.image.shape == (96, 127, 3)
    np.testing.assert_array_equal(reduced.boxes, whole.boxes)
    assert mean_difference(reduced.image, whole.image) < 1.5


def test_size_that_differs_from_the_annotation_is_still_noticed(tmp_path: Path) -> None:
    split = make_split(write_jpeg(tmp_path / "a.jpg", (960, 1280)), (480, 640))
    with pytest.raises(ImageError, match="the image has 1280x960 pixels, but its annotation says 640x480"):
        split.decode(split.annotations[0], (64, 96))


def test_small_jpeg_images_beyond_the_limit_give_the_same_samples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hw = (60, 80)
    split = make_split(write_jpeg(tmp_path / "a.jpg", hw), hw, count=4)
    every = DetectionDataset(split, (64, 96), Config())
    monkeypatch.setattr("detector.jpeg_content.SMALL_IMAGES_BYTES", 2 * 60 * 80 * 3)
    half = DetectionDataset(split, (64, 96), Config())
    assert [isinstance(image, bytes) for image in every._images] == [False] * 4
    assert [isinstance(image, bytes) for image in half._images] == [False, False, True, True]
    assert half.fingerprint == every.fingerprint
    for position in range(8):
        a, b = every.training_sample(position, 2), half.training_sample(position, 2)
        assert np.array_equal(a.image, b.image)
        assert np.array_equal(a.boxes, b.boxes)


def test_only_files_that_opencv_decodes_to_the_same_pixels_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("detector.jpeg_content.SMALL_IMAGES_BYTES", 0)

    def is_kept_as_file(split: Split) -> bool:
        dataset = DetectionDataset(split, (64, 96), Config())
        annotation = dataset.annotations[0]
        whole = split.decode(annotation)
        if dataset.sample(0).image.shape == whole.shape:
            assert np.array_equal(dataset.sample(0).image, whole)
        return isinstance(dataset._images[0], bytes)

    hw, path = (60, 80), tmp_path / "a.jpg"
    assert is_kept_as_file(make_split(write_jpeg(path, hw), hw))
    is_kept_as_file(make_split(write_jpeg(path, hw, orientation=3), hw))
    assert not is_kept_as_file(make_split(write_jpeg(path, (120, 160)), (120, 160)))  # larger than the input
    write_jpeg(path, hw)
    rendered = replace(make_split(path, hw), read_image=lambda annotation: np.zeros((*hw, 3), dtype=np.uint8))
    assert not is_kept_as_file(rendered)
    path.write_bytes(path.read_bytes()[:-200])
    assert not is_kept_as_file(make_split(path, hw))
    Image.fromarray(photograph(*hw)).save(tmp_path / "b.png")
    assert not is_kept_as_file(make_split(tmp_path / "b.png", hw))


def test_val_images_kept_as_files_have_the_same_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hw = (60, 80)
    split = make_split(write_jpeg(tmp_path / "a.jpg", hw), hw, count=3)
    _, decoded = read_letterboxed_split(split, (64, 96))
    monkeypatch.setattr("detector.jpeg_content.SMALL_IMAGES_BYTES", 64 * 96 * 3)
    _, mixed = read_letterboxed_split(split, (64, 96))
    assert [isinstance(image.stored, bytes) for image in decoded] == [False] * 3
    assert [isinstance(image.stored, bytes) for image in mixed] == [False, True, True]
    for a, b in zip(decoded, mixed, strict=True):
        assert np.array_equal(a.pixels, b.pixels)
        assert a.letterbox == b.letterbox
