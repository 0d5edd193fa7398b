import io
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from detector.annotation import Annotation
from detector.arrays import ImageArray
from detector.augment.affine import transform_sample
from detector.augment.color import gain_jitter, pca_color_jitter, principal_colors
from detector.augment.mix import mixup, style_shift
from detector.augment.mosaic import mosaic
from detector.augment.pipeline import augment, random_placement
from detector.boxes import area
from detector.config import Config
from detector.data.ledger import Ledger
from detector.data.open_data import open_data
from detector.data.split import Split
from detector.errors import InputError, LabelError
from detector.images import write_image
from detector.loader.dataset import DetectionDataset, augment_strength, copy_paste_fraction, mosaic_fraction
from detector.memory import available_memory
from detector.sample import Sample

HW = tuple[int, int]
INPUT_HW = (64, 96)
LATE_MOSAIC = Config(mosaic=0.4, mosaic_from=60, mosaic_off=0.15, copy_paste=0.0)
MOSAIC = Config(mosaic=1.0, mosaic_from=0.0, mosaic_off=0.0, copy_paste=0.0)
PLAIN = Config(copy_paste=0.0)
SIZES = [(40, 60), (61, 97), (97, 61), (200, 300), (1, 1), (33, 500), (64, 96)]


def make_split(sizes: Sequence[HW] = SIZES, unreadable: Sequence[int] = ()) -> Split:
    """Return a split with one dark image per size; its object is a bright rectangle. Image ids count from 1."""
    images, annotations = {}, []
    for image_id, (h, w) in enumerate(sizes, start=1):
        x1, y1, x2, y2 = w // 4, h // 5, w // 4 + (w + 1) // 2, h // 5 + (h + 1) // 2
        images[image_id] = np.full((h, w, 3), image_id, dtype=np.uint8)
        images[image_id][y1:y2, x1:x2] = 255
        boxes = np.array([[x1, y1, x2, y2]], dtype=np.float32)
        labels = (np.array([image_id - 1]), np.array([False]), area(boxes))
        annotations.append(Annotation(image_id, Path(f"{image_id}.png"), (h, w), boxes, *labels))

    def read_image(annotation: Annotation) -> ImageArray:
        if annotation.image_id in unreadable:
            raise InputError(f"{annotation.image_path}: truncated")
        return images[annotation.image_id]

    names = tuple(f"class {image_id}" for image_id in images)
    return Split("train", names, tuple(images), tuple(annotations), Ledger(used=len(sizes)), read_image)


def make(split: Split | None = None, config: Config = MOSAIC, input_hw: HW = INPUT_HW) -> DetectionDataset:
    return DetectionDataset(split or make_split(), input_hw, config)


def same(a: Sample, b: Sample) -> bool:
    fields = ("image", "boxes", "class_ids", "is_crowd", "image_id")
    return all(np.array_equal(getattr(a, field), getattr(b, field)) for field in fields)


def test_samples_keep_their_boxes_and_are_downscaled_if_large() -> None:
    dataset = make()
    for index, (h, w) in enumerate(SIZES):
        sample = dataset.sample(index)
        scale = min(1, 1.5 * 64 / h, 1.5 * 96 / w)
        np.testing.assert_allclose(sample.image.shape, (h * scale, w * scale, 3), atol=0 if scale == 1 else 1.5)
        rows, columns = np.nonzero(sample.image[:, :, 0] > 127)
        bright = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        np.testing.assert_allclose(sample.boxes[0], bright, atol=1)
        assert (sample.image_id, sample.class_ids.tolist()) == (index + 1, [index])


def test_a_sample_depends_only_on_seed_and_position() -> None:
    first, second = make(), make()
    forwards = [first.training_sample(position, 9) for position in range(20)]
    backwards = [second.training_sample(position, 9) for position in reversed(range(20))]
    assert all(same(a, b) for a, b in zip(forwards, reversed(backwards), strict=True))
    assert all(same(first.training_sample(position, 9), forwards[position]) for position in (3, 3, 17))


def test_samples_differ_between_seeds_and_between_epochs() -> None:
    dataset, other_seed = make(), make(config=replace(MOSAIC, seed=1))
    assert not any(same(dataset.training_sample(p, 9), other_seed.training_sample(p, 9)) for p in range(20))
    first, second = ({dataset.training_sample(7 * epoch + p, 9).image.tobytes() for p in range(7)} for epoch in (2, 3))
    assert len(first | second) == 14


def test_every_epoch_contains_every_image_once_in_a_new_order() -> None:
    dataset = make()
    epochs = [[dataset.training_sample(7 * epoch + p, 9).image_id for p in range(7)] for epoch in range(4)]
    assert all(sorted(ids) == list(range(1, 8)) for ids in epochs)
    assert len({tuple(ids) for ids in epochs}) > 1


@pytest.mark.parametrize("config", [Config(), MOSAIC])
def test_images_read_from_disk_give_the_same_samples(monkeypatch: pytest.MonkeyPatch, config: Config) -> None:
    in_memory = make(config=config)
    monkeypatch.setattr("detector.loader.dataset.available_memory", lambda: 0)
    from_disk = make(config=config)
    assert (in_memory.in_memory, from_disk.in_memory) == (True, False)
    assert all(same(in_memory.sample(i), from_disk.sample(i)) for i in range(len(SIZES)))
    assert all(same(in_memory.training_sample(p, 9), from_disk.training_sample(p, 9)) for p in range(20))
    for a, b in zip(in_memory.color_statistics(), from_disk.color_statistics(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_drawing_samples_changes_no_image_and_no_annotation() -> None:
    split, untouched = make_split(), make_split()
    dataset, fresh = make(split), make(untouched)
    for position in range(30):
        dataset.training_sample(position, 9)
    assert all(same(dataset.sample(i), fresh.sample(i)) for i in range(len(SIZES)))
    for a, b in zip(split.annotations, untouched.annotations, strict=True):
        np.testing.assert_array_equal(a.boxes, b.boxes)


def test_only_mosaics_contain_objects_of_several_images() -> None:
    mixed, plain = make(), make(config=PLAIN)
    assert max(len(mixed.training_sample(p, 9).boxes) for p in range(7, 30)) > 1
    assert max(len(plain.training_sample(p, 9).boxes) for p in range(30)) == 1


@pytest.mark.parametrize("hw", [(1, 1), (7, 3)])
def test_a_split_of_one_tiny_image_can_be_used(hw: HW) -> None:
    dataset = make(make_split([hw]))
    for position in range(10):
        assert dataset.training_sample(position, 9).image.shape == (*INPUT_HW, 3)


def test_an_undecodable_image_is_dropped_in_the_datasets_ledger() -> None:
    split = make_split(unreadable=[2, 5])
    dataset = make(split)
    assert [annotation.image_id for annotation in dataset.annotations] == [1, 3, 4, 6, 7]
    assert (dataset.ledger.found, dataset.ledger.used, dataset.ledger.dropped) == (7, 5, 2)
    assert [str(entry) for entry in dataset.ledger.entries] == [
        f"{i}.png: dropped: truncated" for i in (2, 5)
    ]  # fmt: skip
    assert split.ledger == Ledger(used=7), "the ledger of the split is not changed"
    assert {dataset.training_sample(p, 9).image_id for p in range(5)} == {1, 3, 4, 6, 7}
    assert [dataset.sample(index).image_id for index in range(5)] == [1, 3, 4, 6, 7]


def test_an_image_whose_size_differs_from_its_annotation_is_dropped() -> None:
    split = make_split()
    rotated = replace(split.annotations[1], image_hw=(97, 61))
    split = replace(split, annotations=(split.annotations[0], rotated, *split.annotations[2:]))
    dataset = make(split)
    assert len(dataset) == 6
    assert (dataset.ledger.found, dataset.ledger.missing) == (7, (Path("2.png"),))
    assert "has 97x61 pixels, but its annotation says 61x97" in dataset.ledger.entries[0].reason


def test_a_split_without_readable_images_raises() -> None:
    message = r"'train': none of its 7 images can be used; 1\.png: truncated"
    with pytest.raises(LabelError, match=message):
        make(make_split(unreadable=range(1, 8)))


def write_coco(folder: Path, rows: list[tuple[list[float], int]]) -> Path:
    """Write a valid image with one box, and a truncated image with these rows (bbox, iscrowd)."""
    noise = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    write_image(folder / "valid.png", noise)
    content = (folder / "valid.png").read_bytes()
    (folder / "truncated.png").write_bytes(content[: len(content) // 2])
    bboxes = [(1, [1, 1, 5, 5], 0), *((2, bbox, crowd) for bbox, crowd in rows)]
    labels = {
        "images": [
            {"id": i, "file_name": f"{name}.png", "height": 20, "width": 30}
            for i, name in enumerate(("valid", "truncated"), start=1)
        ],
        "categories": [{"id": 1, "name": "cat"}],
        "annotations": [
            {"id": i, "image_id": image_id, "category_id": 1, "bbox": bbox, "iscrowd": crowd}
            for i, (image_id, bbox, crowd) in enumerate(bboxes)
        ],
    }
    (folder / "train.json").write_text(json.dumps(labels))
    return folder / "train.json"


def test_all_rows_of_an_unusable_image_are_counted_as_dropped(tmp_path: Path) -> None:
    rows: list[tuple[list[float], int]] = [
        ([1, 1, 5, 5], 0), ([1, 1, 5, 5], 1), ([28, 1, 5, 5], 0), ([1, 1, 0, 5], 0)
    ]  # fmt: skip
    split = open_data(write_coco(tmp_path, rows)).read("train")
    ledger = split.ledger
    assert (ledger.found, ledger.used, ledger.clipped, ledger.dropped, ledger.crowd) == (5, 3, 1, 1, 1)
    dataset = make(split)
    assert len(dataset) == 1
    ledger = dataset.ledger
    assert (ledger.found, ledger.used, ledger.clipped, ledger.dropped, ledger.crowd) == (5, 1, 0, 4, 0)
    assert ledger.missing == (tmp_path / "truncated.png",)


@pytest.mark.parametrize(("row", "before"), [(([1, 1, 5, 5], 1), 1), (([1, 1, 0, 5], 0), 0)])
def test_an_unusable_image_does_not_count_as_background(
    tmp_path: Path, row: tuple[list[float], int], before: int
) -> None:
    # An image with only crowd regions counts as background; one whose rows are all dropped does not.
    split = open_data(write_coco(tmp_path, [row])).read("train")
    assert split.ledger.background == before
    assert make(split).ledger.background == 0


def test_color_statistics_match_all_pixels() -> None:
    # Each 4 x 4 block has one color, so every fourth pixel is enough.
    rng = np.random.default_rng(0)
    split = make_split([(40, 60)] * 5)
    images = {
        a.image_id: rng.integers(0, 256, (10, 15, 3), dtype=np.uint8).repeat(4, 0).repeat(4, 1)
        for a in split.annotations
    }
    dataset = make(replace(split, read_image=lambda a: images[a.image_id]))
    mean, covariance = dataset.color_statistics()
    pixels = np.stack(list(images.values())).reshape(-1, 3)
    np.testing.assert_allclose(mean, pixels.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(covariance, np.cov(pixels.T, bias=True), rtol=1e-5)
    assert mean.dtype == covariance.dtype == np.float32
    assert dataset.color_statistics()[0] is mean, "computed once"


def test_images_of_one_color_have_variances_of_one() -> None:
    split = replace(make_split([(40, 60)] * 2), read_image=lambda _: np.full((40, 60, 3), 255, np.uint8))
    mean, covariance = make(split).color_statistics()
    assert (mean.tolist(), covariance.tolist()) == ([255] * 3, np.eye(3).tolist())


def index_and_rng(dataset: DetectionDataset, position: int) -> tuple[int, np.random.Generator]:
    """Return the image index at a position, and the random generator of its sample."""
    seed, (epoch, place) = dataset.config.seed, divmod(position, len(dataset))
    index = int(np.random.default_rng([1, seed, epoch]).permutation(len(dataset))[place])
    return index, np.random.default_rng([2, seed, epoch, index])


@pytest.mark.parametrize("config", [PLAIN, MOSAIC])
def test_settings_that_are_off_draw_no_random_numbers(config: Config) -> None:
    dataset = make(config=config)
    for position in range(21):
        index, rng = index_and_rng(dataset, position)
        if rng.random() < mosaic_fraction(config, position / len(dataset), 9):
            samples = [dataset.sample(i) for i in (index, *rng.integers(len(dataset), size=3).tolist())]
            expected = mosaic(samples, INPUT_HW, config, rng)
        else:
            strength = augment_strength(config, position / len(dataset))
            sample = dataset.sample(index)
            matrix = random_placement(sample.image.shape, INPUT_HW, config, rng, strength)
            placed = transform_sample(sample, matrix, INPUT_HW, config.min_visible)
            expected = gain_jitter(placed, config, rng, strength)
        assert same(dataset.training_sample(position, 9), expected)


@pytest.mark.parametrize(
    "config",
    [
        replace(PLAIN, mixup=1.0),
        replace(PLAIN, style_shift=1.0),
        replace(PLAIN, pca_color=0.3),
        replace(PLAIN, mixup=1.0, style_shift=1.0, pca_color=0.3),
    ],
)
def test_mixup_precedes_style_shift_which_precedes_pca_color(config: Config) -> None:
    dataset = make(config=config)
    principal = principal_colors(dataset.color_statistics()[1])

    def random_image(rng: np.random.Generator) -> Sample:
        return dataset.sample(int(rng.integers(len(dataset))))

    for position in range(10):
        index, rng = index_and_rng(dataset, position)
        strength = augment_strength(config, position / len(dataset))
        rng.random()  # decides whether it is a mosaic
        expected = augment(dataset.sample(index), INPUT_HW, config, rng, strength)
        if config.mixup:
            rng.random()
            expected = mixup(expected, augment(random_image(rng), INPUT_HW, config, rng, strength), rng)
        if config.style_shift:
            rng.random()
            expected = style_shift(expected, random_image(rng).image)
        if config.pca_color:
            expected = pca_color_jitter(expected, principal, config, rng, strength)
        assert same(dataset.training_sample(position, 9), expected)


EVERYTHING = Config(
    rotate=20.0, crop=0.3, hue=0.1, saturation=0.3, value=0.3, pca_color=0.1,
    style_shift=0.5, copy_paste=0.7, mixup=0.5, mosaic=0.5, mosaic_from=0.0, mosaic_off=0.0,
)  # fmt: skip


@pytest.mark.parametrize("sizes", [SIZES, [(40, 60)], [(1, 1)]])
def test_samples_with_all_augmentations_are_valid_and_reproducible(sizes: list[HW]) -> None:
    first, second = (make(make_split(sizes), EVERYTHING) for _ in range(2))
    forwards = [first.training_sample(position, 99) for position in range(30)]
    backwards = [second.training_sample(position, 99) for position in reversed(range(30))]
    assert all(same(a, b) for a, b in zip(forwards, reversed(backwards), strict=True))
    for sample in forwards:
        assert sample.image.shape == (*INPUT_HW, 3)
        arrays = (sample.image, sample.boxes, sample.class_ids, sample.is_crowd)
        assert [array.dtype.name for array in arrays] == ["uint8", "float32", "int64", "bool"]
        assert sample.boxes.shape == (len(sample.class_ids), 4)
        assert ((sample.boxes >= 0) & (sample.boxes <= (96, 64, 96, 64))).all()
        assert (sample.boxes[:, 2:] > sample.boxes[:, :2]).all()


def test_all_augmentations_together_change_no_stored_image() -> None:
    split, untouched = make_split(), make_split()
    dataset, fresh = make(split, EVERYTHING), make(untouched)
    for position in range(30):
        dataset.training_sample(position, 9)
    assert all(same(dataset.sample(i), fresh.sample(i)) for i in range(len(SIZES)))


@pytest.mark.parametrize("crowd", [False, True])
def test_splits_without_objects_work_with_all_augmentations(crowd: bool) -> None:
    split = make_split([(40, 60)] * 3)
    count = 1 if crowd else 0
    annotations = tuple(
        replace(
            a,
            boxes=a.boxes[:count],
            class_ids=a.class_ids[:count],
            is_crowd=np.ones(count, dtype=np.bool_),
            areas=a.areas[:count],
        )
        for a in split.annotations
    )
    dataset = make(replace(split, annotations=annotations), replace(EVERYTHING, copy_paste=1.0))
    for position in range(20):
        assert dataset.training_sample(position, 9).is_crowd.all()


@pytest.mark.parametrize(
    "config", [Config(), Config(copy_paste=0.5), replace(PLAIN, mixup=0.5), replace(PLAIN, style_shift=0.5)]
)
def test_about_the_configured_fraction_of_samples_is_mixed(config: Config) -> None:
    plain, mixed = make(config=PLAIN), make(config=config)
    # Objects of some images in SIZES cover the whole input, so some pastes find no free position.
    changed = np.mean([not same(plain.training_sample(p, 9), mixed.training_sample(p, 9)) for p in range(100)])
    assert 0.15 < changed < 0.65


def test_blending_works_at_other_input_sizes() -> None:
    dataset = make(config=replace(EVERYTHING, copy_paste=1.0, mixup=1.0, style_shift=1.0))
    assert all(dataset.training_sample(p, 9, (32, 64)).image.shape == (32, 64, 3) for p in range(10))


def test_rare_classes_are_pasted_as_often_as_common_ones() -> None:
    # One of ten images has an object of class 1; the others have class 0.
    split = make_split([(64, 96)] * 10)
    annotations = tuple(
        replace(a, boxes=np.array([[2, 2, 12, 12]], np.float32), class_ids=np.array([int(a.image_id == 1)]))
        for a in split.annotations
    )
    fixed = Config(copy_paste=1.0, scale=(1.0, 1.0), shift=0.0)
    dataset = make(replace(split, annotations=annotations), fixed)
    pasted = np.concatenate([dataset.training_sample(p, 9).class_ids[1:] for p in range(100)])
    assert len(pasted) > 90
    assert 0.3 < pasted.mean() < 0.7


@given(st.floats(0, 300), st.floats(0.1, 300))
def test_mosaic_is_phased_in_and_off_at_the_end(epoch: float, epochs: float) -> None:
    fraction = mosaic_fraction(LATE_MOSAIC, epoch, epochs)
    assert 0 <= fraction <= 0.4
    if epoch < 60 or epochs <= 60 or epoch > 0.85 * epochs:
        assert fraction == 0
    elif epoch >= 90:
        assert fraction == 0.4
    else:
        assert fraction <= mosaic_fraction(LATE_MOSAIC, epoch + 0.1, 1e6)


def test_available_memory_is_a_plausible_number_of_bytes() -> None:
    assert 1 << 20 < available_memory() < 1 << 50


def test_a_truncated_jpeg_is_used_and_named_in_the_ledger(tmp_path: Path) -> None:
    split = open_data(write_coco(tmp_path, [([1, 1, 5, 5], 0)])).read("train")
    buffer = io.BytesIO()
    Image.fromarray(np.full((20, 30, 3), 200, np.uint8)).save(buffer, "JPEG")
    (tmp_path / "truncated.png").write_bytes(buffer.getvalue()[:-2])
    ledger = make(split).ledger
    assert (ledger.used, ledger.dropped, ledger.missing) == (2, 0, ())
    assert ledger.truncated == (tmp_path / "truncated.png",)
    assert "1 image with missing last bytes (shown gray), namely: " in ledger.summary()
    assert ledger.to_json()["truncated_images"] == [str(tmp_path / "truncated.png")]


def test_objects_are_pasted_by_default_only_with_few_images() -> None:
    assert copy_paste_fraction(Config(), 300) == 0.5
    assert copy_paste_fraction(Config(), 301) == 0.0
    assert copy_paste_fraction(Config(copy_paste=0.2), 301) == 0.2
    assert copy_paste_fraction(Config(copy_paste=0.0), 10) == 0.0
