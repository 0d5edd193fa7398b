import pickle
from dataclasses import replace

import numpy as np
import pytest

from detector.arrays import Bools
from detector.boxes import clip
from detector.data.scenes import scenes, shapes
from detector.data.scenes.scenes import CLASS_NAMES, IMAGE_HW, MIN_VISIBLE, SPLIT_SIZES, Placement
from detector.errors import LabelError
from detector.geometry import rotation_matrix

Mask = Bools

MARGIN = 160
"""Width in pixels of the margin around an image, in which the parts of objects outside of the image are drawn."""


def silhouette(placement: Placement) -> Mask:
    """Return a mask of an image with margin: True where the object is drawn.

    The object is drawn on a black and on a white background. Where it is opaque, both images have the same pixels. The
    shadow is not part of the mask, because its opacity is below one half.
    """
    moved = replace(placement, matrix=placement.matrix + np.array([[0, 0, MARGIN], [0, 0, MARGIN]]))
    height, width = IMAGE_HW
    images = [np.full((height + 2 * MARGIN, width + 2 * MARGIN, 3), level, dtype=np.uint8) for level in (0, 255)]
    for image in images:
        scenes.paint(image, moved, (0.6, 0.8), np.random.default_rng(0))
    on_black, on_white = (image.astype(np.float64).mean(axis=2) for image in images)
    return np.asarray(on_white - on_black < 255 / 2)


def bounds(mask: Mask) -> list[int]:
    rows, columns = np.flatnonzero(mask.any(axis=1)) - MARGIN, np.flatnonzero(mask.any(axis=0)) - MARGIN
    return [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]


@pytest.mark.parametrize("kind", range(len(CLASS_NAMES)), ids=CLASS_NAMES)
def test_box_is_tight_around_the_object_at_any_rotation(kind: int) -> None:
    for size, degrees in ((28, 0), (28, 110), (77.7, 35), (150, -20), (150, 200)):
        matrix = np.column_stack([size * rotation_matrix(degrees), (240.3, 191.6)])
        placement = Placement(shapes.OBJECTS[kind], kind, matrix, outline_radius=max(1.0, 0.02 * size))
        np.testing.assert_allclose(placement.box(), bounds(silhouette(placement)), atol=1)


def test_boxes_cover_complete_objects_clipped_to_the_image() -> None:
    for index in range(8):
        placements = [placement for placement in scenes.layout("val", index) if placement.class_id is not None]
        sample = scenes.render("val", index)
        assert sample.class_ids.tolist() == [placement.class_id for placement in placements]
        for placement, box in zip(placements, sample.boxes, strict=True):
            complete = np.array(bounds(silhouette(placement)), dtype=np.float32)
            np.testing.assert_allclose(box, clip(complete, IMAGE_HW), atol=1)


def test_enough_of_every_object_is_visible() -> None:
    for index in range(8):
        hidden = np.ones((IMAGE_HW[0] + 2 * MARGIN, IMAGE_HW[1] + 2 * MARGIN), dtype=np.bool_)
        hidden[MARGIN:-MARGIN, MARGIN:-MARGIN] = False
        for placement in reversed(scenes.layout("val", index)):
            mask = silhouette(placement)
            # The layout counts the pixels of a coarser mask, without the outline and with filled holes.
            assert (mask & ~hidden).sum() > (MIN_VISIBLE - 0.1) * mask.sum()
            hidden |= mask


@pytest.mark.parametrize("split", SPLIT_SIZES)
def test_every_annotation_is_valid(split: str) -> None:
    read = scenes.read_split(split)
    assert [annotation.image_id for annotation in read.annotations] == list(range(SPLIT_SIZES[split]))
    for annotation in read.annotations:
        boxes, class_ids = annotation.boxes, annotation.class_ids
        assert annotation.image_hw == IMAGE_HW
        assert (boxes[:, :2] >= 0).all()
        assert (boxes[:, 2:] <= IMAGE_HW[::-1]).all()
        assert (boxes[:, 2:] - boxes[:, :2] >= 3).all()
        assert ((class_ids >= 0) & (class_ids < len(CLASS_NAMES))).all()
    counts = [len(annotation.boxes) for annotation in read.annotations]
    assert read.ledger.found == read.ledger.used == sum(counts)
    assert read.ledger.background == counts.count(0)
    assert 0 < counts.count(0) < 0.12 * len(counts)
    assert max(counts) <= 10


def test_every_class_is_common_in_every_split() -> None:
    for split in SPLIT_SIZES:
        class_ids = np.concatenate([annotation.class_ids for annotation in scenes.read_split(split).annotations])
        assert np.bincount(class_ids, minlength=len(CLASS_NAMES)).min() > 0.05 * len(class_ids)


def test_rendering_an_image_again_gives_the_same_bytes() -> None:
    first = scenes.render("train", 3)
    scenes.render("train", 4)
    again = scenes.render("train", 3)
    np.testing.assert_array_equal(first.image, again.image)
    np.testing.assert_array_equal(first.boxes, again.boxes)
    np.testing.assert_array_equal(first.class_ids, again.class_ids)


def test_images_match_their_annotations_also_after_pickling() -> None:
    read = scenes.read_split("val")
    assert not read.from_files
    for annotation in read.annotations[:3]:
        sample = scenes.render("val", annotation.image_id)
        image = pickle.loads(pickle.dumps(read.read_image))(annotation)
        assert image.dtype == np.uint8
        assert image.shape == (*IMAGE_HW, 3)
        np.testing.assert_array_equal(image, sample.image)
        np.testing.assert_array_equal(annotation.boxes, sample.boxes)
        np.testing.assert_array_equal(annotation.class_ids, sample.class_ids)


def test_no_two_images_are_equal_within_or_across_splits() -> None:
    images = [scenes.render(split, index).image for split in SPLIT_SIZES for index in range(4)]
    assert len({image.tobytes() for image in images}) == len(images)


def test_rendering_does_not_change_the_global_random_state() -> None:
    before = np.random.get_state(legacy=False)  # noqa: NPY002
    scenes.render("train", 0)
    after = np.random.get_state(legacy=False)  # noqa: NPY002
    np.testing.assert_equal(after, before)


def test_an_unknown_split_is_refused_with_known_names() -> None:
    with pytest.raises(LabelError, match="'dev'; known: train, val, test"):
        scenes.read_split("dev")
    with pytest.raises(LabelError, match="'dev'; known: train, val, test"):
        scenes.render("dev", 0)


@pytest.mark.parametrize("index", [-1, SPLIT_SIZES["val"]])
def test_an_index_outside_the_split_is_refused(index: int) -> None:
    with pytest.raises(LabelError, match="0 to 119"):
        scenes.render("val", index)
