import numpy as np
import pytest
import torch

from detector.loader.batch import collate, images_to_tensor
from detector.sample import Sample


def make(n: int, image_id: int = 0, crowds: int = 0) -> Sample:
    rng = np.random.default_rng([n, image_id])
    return Sample(
        image=rng.integers(0, 256, (5, 8, 3), dtype=np.uint8),
        boxes=rng.uniform(0, 8, (n, 4)).astype(np.float32),
        class_ids=rng.integers(1, 9, n),
        is_crowd=np.arange(n) < crowds,
        image_id=image_id,
    )


@pytest.mark.parametrize("counts", [(2, 0, 500, 1), (1,), (3, 3)])
def test_collate_keeps_all_rows_and_pads_the_rest(counts: tuple[int, ...]) -> None:
    samples = [make(n, image_id, crowds=n // 3) for image_id, n in enumerate(counts, start=5)]
    batch = collate(samples)
    assert batch.images.shape == (len(counts), 3, 5, 8)
    assert batch.boxes.shape == (len(counts), max(counts), 4)
    assert batch.image_ids == tuple(range(5, 5 + len(counts)))
    for index, sample in enumerate(samples):
        for row in range(max(counts)):
            values = batch.boxes[index, row].tolist(), int(batch.class_ids[index, row])
            flags = bool(batch.is_object[index, row]), bool(batch.is_crowd[index, row])
            if row < len(sample.boxes):
                assert values == (sample.boxes[row].tolist(), sample.class_ids[row])
                assert flags == (not sample.is_crowd[row], sample.is_crowd[row])
            else:
                assert values == ([0, 0, 0, 0], 0)
                assert flags == (False, False)


def test_a_batch_of_background_images_has_no_rows() -> None:
    batch = collate([make(0), make(0, 1)])
    assert batch.boxes.shape == (2, 0, 4)
    for rows in (batch.class_ids, batch.is_object, batch.is_crowd):
        assert rows.shape == (2, 0)


def test_collate_gives_the_types_that_network_and_loss_expect() -> None:
    batch = collate([make(2), make(1, 1)])
    assert (batch.images.dtype, batch.boxes.dtype, batch.class_ids.dtype) == (torch.uint8, torch.float32, torch.int64)
    assert batch.is_object.dtype == batch.is_crowd.dtype == torch.bool


def test_images_keep_their_pixels_in_channels_last_format() -> None:
    images = [make(0, image_id).image for image_id in range(3)]
    tensor = images_to_tensor(images)
    assert tensor.is_contiguous(memory_format=torch.channels_last)
    for index, image in enumerate(images):
        for channel in range(3):
            np.testing.assert_array_equal(tensor[index, channel], image[:, :, channel])
    tensor.zero_()
    assert images[0].any(), "the tensor shares no memory with the images"


def test_images_of_different_sizes_raise() -> None:
    with pytest.raises(ValueError, match="shape"):
        images_to_tensor([np.zeros((5, 8, 3), np.uint8), np.zeros((8, 5, 3), np.uint8)])


def test_moving_a_batch_keeps_all_fields() -> None:
    batch = collate([make(2, crowds=1), make(1, 1)])
    moved = batch.to(torch.device("cpu"))
    for field in ("images", "boxes", "class_ids", "is_object", "is_crowd"):
        assert torch.equal(getattr(moved, field), getattr(batch, field))
    assert moved.image_ids == batch.image_ids
