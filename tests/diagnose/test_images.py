from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from detector.annotation import Annotation
from detector.arrays import ImageArray
from detector.boxes import area
from detector.data import near_duplicates
from detector.data.ledger import Ledger
from detector.data.near_duplicates import find_near_duplicates, read_thumbnails
from detector.data.open_data import open_data
from detector.data.split import Split
from detector.diagnose.finding import Finding
from detector.diagnose.images import (
    diagnose_different_labels,
    diagnose_duplicate_images,
    diagnose_images,
    diagnose_leakage,
    diagnose_shared_files,
)
from detector.errors import ImageError
from detector.images import read_image


def make_split(
    images: Sequence[ImageArray | None],
    name: str = "train",
    boxes: Sequence[Sequence[float]] = ((44, 30, 84, 60),),
    file_names: Sequence[str] = (),
) -> Split:
    """Return a split of these images, with one object each; None stands for an image that cannot be decoded.

    Args:
        images: the images.
        name: name of the split.
        boxes: box of the object in each image, repeated in turn.
        file_names: names of the files; by default 0.png, 1.png, ...
    """
    names = file_names or [f"{i}.png" for i in range(len(images))]
    annotations = []
    for i, file_name in enumerate(names):
        box = np.array([boxes[i % len(boxes)]], dtype=np.float32)
        one = (box, np.zeros(1, np.int64), np.zeros(1, np.bool_), area(box))
        annotations.append(Annotation(i, Path(name) / file_name, (96, 128), *one))

    def read_image(annotation: Annotation) -> ImageArray:
        image = images[annotation.image_id]
        if image is None:
            raise ImageError(f"{annotation.image_path}: truncated")
        return image

    ledger = Ledger(used=len(images))
    return Split(name, ("ant", "bee"), (0, 1), tuple(annotations), ledger, read_image, from_files=False)


def random_images(count: int, seed: int = 0) -> list[ImageArray]:
    """Return `count` different images with soft blobs, 96 pixels high and 128 pixels wide."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, size=(count, 6, 8, 3), dtype=np.uint8)
    return [np.asarray(cv2.resize(image, (128, 96), interpolation=cv2.INTER_CUBIC), np.uint8) for image in coarse]


def assert_found(finding: Finding, verdict: str, *texts: str) -> None:
    assert finding.verdict == verdict, str(finding)
    assert all(text in str(finding) for text in texts), str(finding)
    assert bool(finding.advice) == (verdict != "ok"), str(finding)


def test_file_in_two_splits_stops() -> None:
    train = make_split(random_images(5))
    val = replace(train, name="val", annotations=train.annotations[3:])
    assert_found(diagnose_shared_files([train, val]), "stop", "2 files of train", "train/3.png")
    assert_found(diagnose_shared_files([train, make_split(random_images(5), "val")]), "ok")


@pytest.mark.parametrize(("count", "verdict"), [(0, "ok"), (1, "look"), (3, "look"), (4, "stop")])
def test_black_images_stop_if_they_are_the_majority(count: int, verdict: str) -> None:
    images, black = random_images(6), np.zeros((96, 128, 3), dtype=np.uint8)
    thumbnails = read_thumbnails([make_split([*[black] * count, *images[count:]])])
    assert_found(diagnose_images(thumbnails), verdict, f"{count} of 6 images")
    # Black images do not count as copies of each other.
    assert_found(diagnose_duplicate_images(thumbnails[0]), "ok")


def test_images_that_cannot_be_decoded_are_named() -> None:
    thumbnails = read_thumbnails([make_split([None, *random_images(3)])])
    assert_found(diagnose_images(thumbnails), "look", "1 cannot be decoded", "train/0.png")


@pytest.mark.parametrize(("copies", "verdict"), [(0, "ok"), (1, "look"), (2, "stop"), (20, "stop")])
def test_training_images_in_an_evaluation_split_are_found(copies: int, verdict: str) -> None:
    train, others = random_images(40), random_images(20, seed=1)
    val = [*train[:copies], *others[copies:]]
    finding = diagnose_leakage(read_thumbnails([make_split(train), make_split(val, "val")]))
    assert_found(finding, verdict, f"{copies} exact and 0 near in val", *["val/0.png = train/0.png"] * (copies > 0))


def darker(image: ImageArray) -> ImageArray:
    return (image * 0.6 + 10).astype(np.uint8)


def noisy(image: ImageArray) -> ImageArray:
    noise = np.random.default_rng(0).normal(0, 5, image.shape)
    return np.clip(image + noise, 0, 255).astype(np.uint8)


def shrunk(image: ImageArray) -> ImageArray:
    return np.asarray(cv2.resize(image, (80, 60), interpolation=cv2.INTER_AREA), dtype=np.uint8)


def flipped(image: ImageArray) -> ImageArray:
    return np.ascontiguousarray(image[:, ::-1])


@pytest.mark.parametrize("change", [darker, noisy, shrunk, flipped])
def test_changed_copy_is_a_near_duplicate(change: Callable[[ImageArray], ImageArray]) -> None:
    train, others = random_images(40), random_images(20, seed=1)
    val = [change(train[7]), *others[1:]]
    finding = diagnose_leakage(read_thumbnails([make_split(train), make_split(val, "val")]))
    assert_found(finding, "look", "0 exact and 1 near in val", "val/0.png = train/7.png")


def test_similar_images_with_other_boxes_are_no_copies() -> None:
    train, elsewhere = random_images(40), [(4, 10, 40, 50)]
    val = list(map(noisy, train[:20]))
    splits = [make_split(train), make_split(val, "val", elsewhere)]
    assert_found(diagnose_leakage(read_thumbnails(splits)), "ok", "0 exact and 0 near in val")
    frames = make_split([*train[:10], *val[:10]], boxes=[*[(44, 30, 84, 60)] * 10, *elsewhere * 10])
    assert_found(diagnose_duplicate_images(read_thumbnails([frames])[0]), "ok", "0 are near copies")


def test_augmentations_of_one_original_are_no_copies_in_one_split() -> None:
    images = random_images(6)
    names = [f"{i}_jpg.rf.{version}a.jpg" for i in range(6) for version in range(2)]
    both = [version for image in images for version in (image, noisy(image))]
    finding = diagnose_duplicate_images(read_thumbnails([make_split(both, file_names=names)])[0])
    assert_found(finding, "ok", "0 of 12 images", "6 are other augmentations")


def test_augmentations_of_one_original_in_two_splits_stop() -> None:
    train = make_split(random_images(6), file_names=[f"{i}_jpg.rf.0a.jpg" for i in range(6)])
    val = make_split(random_images(3, seed=1), "val", file_names=[f"{i}_jpg.rf.1b.jpg" for i in range(3)])
    finding = diagnose_leakage(read_thumbnails([train, val]))
    assert_found(finding, "stop", "augmentations of one original in both splits: 3 images", "0 exact and 0 near")


def test_equal_images_with_different_labels_are_shown() -> None:
    images = random_images(5)
    train = make_split([*images, images[2]], boxes=[(44, 30, 84, 60)] * 5 + [(50, 30, 84, 60)])
    finding = diagnose_different_labels(read_thumbnails([train]))
    assert_found(finding, "look", "1 pair", "train/2.png (ant 44 30 84 60) = train/5.png (ant 50 30 84 60)")
    same = make_split([*images, images[2]])
    assert_found(diagnose_different_labels(read_thumbnails([same])), "ok", "0 pairs")


def test_small_object_on_a_plain_background_is_not_a_single_color() -> None:
    image = np.full((960, 1280, 3), 120, dtype=np.uint8)
    image[500:506, 700:706] = 200
    assert_found(diagnose_images(read_thumbnails([make_split([image])])), "ok", "0 of 1 image ")


def test_near_duplicates_equal_a_comparison_of_all_pairs() -> None:
    base = random_images(30)
    images = [*base, *map(noisy, base[:9]), *base[4:6], *map(flipped, base[20:24])]
    thumbnails = read_thumbnails([make_split(images)])[0].pixels
    exact, near = find_near_duplicates(thumbnails)

    def correlation(a: ImageArray, b: ImageArray) -> float:
        cells = (t.astype(np.float64).reshape(16, 2, 16, 2, 3).mean(axis=(1, 3, 4)) for t in (a, b))
        one, other = (np.concatenate([np.diff(c, axis=0).ravel(), np.diff(c, axis=1).ravel()]) for c in cells)
        return float(one @ other / np.sqrt((one @ one) * (other @ other)))

    for i, thumbnail in enumerate(thumbnails):
        same = [j for j in range(i) if np.array_equal(thumbnail, thumbnails[j])]
        similar = [
            j
            for j in range(i)
            if max(correlation(thumbnail, t) for t in (thumbnails[j], thumbnails[j][:, ::-1])) > 0.97
        ]
        assert exact.get(i) == (same[0] if same else None)
        assert (i in near) == (bool(similar) and not same)
        assert i not in near or near[i] in similar
    assert (len(exact), len(near)) == (2, 13)


def test_many_images_are_sampled_evenly_and_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(near_duplicates, "_MAX_RENDERED", 10)
    train, val = make_split(random_images(30)), make_split(random_images(10, seed=1), "val")
    thumbnails = read_thumbnails([train, val])
    assert [len(t.paths) for t in thumbnails] == [8, 2]
    assert thumbnails[0].paths[0].name == "0.png"
    assert thumbnails[0].paths[-1].name == "29.png"
    assert "10 images (a sample of 40)" in diagnose_leakage(thumbnails).measured


def test_thumbnails_of_files_equal_those_of_read_images(tiny_data: Path) -> None:
    split = open_data(tiny_data).read("train")
    in_memory = replace(split, read_image=lambda annotation: read_image(annotation.image_path), from_files=False)
    from_files, read = read_thumbnails([split])[0], read_thumbnails([in_memory])[0]
    assert from_files.paths == read.paths
    np.testing.assert_allclose(from_files.pixels.astype(int), read.pixels, atol=2)
