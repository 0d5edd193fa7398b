import shutil
from collections.abc import Sequence
from dataclasses import replace
from hashlib import blake2b
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from detector.annotation import Annotation
from detector.data.holdout import Holdout, hold_back
from detector.data.holdout_sides import Group, choose_sides
from detector.data.ledger import Ledger, LedgerEntry
from detector.data.split import Split
from detector.errors import InputError
from detector.image_hashes import ImageHashes, hash_files
from detector.images import write_image


def annotation(image_id: int, path: Path, class_ids: Sequence[int] = (0,), x: int = 4) -> Annotation:
    boxes = np.array([[x + 3 * i, 4, x + 20 + 3 * i, 24] for i in range(len(class_ids))], np.float32).reshape(-1, 4)
    count = len(class_ids)
    areas = np.full(count, 400, np.float32)
    return Annotation(image_id, path, (32, 48), boxes, np.array(class_ids, np.int64), np.zeros(count, np.bool_), areas)


def split_of(annotations: Sequence[Annotation], class_count: int = 3) -> Split:
    names = tuple("abcdefghij"[:class_count])
    used = sum(len(a.boxes) for a in annotations)
    background = sum(len(a.boxes) == 0 for a in annotations)
    return Split("train", names, tuple(range(class_count)), tuple(annotations), Ledger(used, background=background))


def noise(seed: int) -> np.ndarray:
    """Return an image that is similar to no other image: large random squares."""
    cells = np.random.default_rng(seed).integers(0, 255, size=(8, 8, 3), dtype=np.uint8)
    return np.repeat(np.repeat(cells, 4, axis=0), 6, axis=1)


def make_split(folder: Path, count: int, start: int = 0) -> Split:
    """Write `count` different images and return them as a split; every image has an object of class 0."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{number}.png" for number in range(start, start + count)]
    for path in paths:
        write_image(path, noise(int(path.stem)))
    return split_of([annotation(int(path.stem) + 1, path) for path in paths])


def divide(split: Split, fraction: float = 0.15, known: ImageHashes | None = None) -> Holdout:
    hashes = hash_files(a.image_path for a in split.annotations)
    return hold_back(split, fraction, hashes, known=known or ImageHashes())


def names(split: Split | None) -> set[str]:
    return {a.image_path.name for a in split.annotations} if split else set()


def position(path: Path) -> float:
    """The position of an image that is alone in its group, computed from the definition."""
    inner = blake2b(path.read_bytes(), digest_size=8).digest()
    return int.from_bytes(blake2b(inner, digest_size=8, person=b"val").digest(), "big") / 2**64


def test_side_follows_from_the_hash_of_the_file(tmp_path: Path) -> None:
    split = make_split(tmp_path, 80)
    expected = {a.image_path.name for a in split.annotations if position(a.image_path) < 0.15}
    assert 5 <= len(expected) <= 26  # so that no group is moved
    result = divide(split)
    assert names(result.held_back) == expected
    assert names(result.train) == names(split) - expected
    assert result.notes == (f"val: {len(expected)} of 80 images are held back for validation",)


def test_order_and_folder_do_not_change_the_sides(tmp_path: Path) -> None:
    split = make_split(tmp_path / "a", 40)
    shutil.copytree(tmp_path / "a", tmp_path / "elsewhere" / "b")
    order = np.random.default_rng(1).permutation(40)
    moved = [
        annotation(i + 1, tmp_path / "elsewhere" / "b" / split.annotations[k].image_path.name)
        for i, k in enumerate(order)
    ]
    assert names(divide(split).held_back) == names(divide(split_of(moved)).held_back) != set()


def test_added_images_move_no_others(tmp_path: Path) -> None:
    before = make_split(tmp_path, 80)
    after = make_split(tmp_path, 160)
    old = names(before)
    assert names(divide(after).held_back) & old == names(divide(before).held_back)


@pytest.mark.parametrize(("count", "least", "most"), [(9, 0, 0), (10, 3, 3), (15, 5, 5), (20, 5, 6), (60, 5, 20)])
@pytest.mark.parametrize("fraction", [0.001, 0.33])
def test_number_of_images_is_within_its_limits(
    tmp_path: Path, count: int, least: int, most: int, fraction: float
) -> None:
    assert least <= len(names(divide(make_split(tmp_path, count), fraction).held_back)) <= most


def test_each_class_of_two_groups_is_on_both_sides(tmp_path: Path) -> None:
    base = make_split(tmp_path, 40)
    class_ids = [[0] + [c for c in range(1, 6) if i in (7 * c % 40, (7 * c + 3) % 40)] for i in range(40)]
    class_ids[11].append(6)  # in one image only: it must be trained on
    annotations = [
        annotation(a.image_id, a.image_path, ids) for a, ids in zip(base.annotations, class_ids, strict=True)
    ]
    result = divide(split_of(annotations, 7))
    assert result.held_back is not None
    train, val = ({int(c) for a in s.annotations for c in a.class_ids} for s in (result.train, result.held_back))
    assert (train, val) == ({*range(7)}, {*range(6)})
    assert 5 <= len(result.held_back.annotations) <= 13


@pytest.mark.parametrize("seed", range(20))
def test_sides_of_random_groups_satisfy_all_rules(seed: int) -> None:
    rng = np.random.default_rng(seed)
    groups = []
    for _ in range(int(rng.integers(10, 60))):
        class_ids = rng.choice(8, size=int(rng.integers(0, 3)), replace=False, p=np.arange(1, 9) / 36).tolist()
        images = [annotation(1, Path("x"), class_ids)] * int(rng.integers(1, 4))
        u = float(rng.random())
        groups.append(Group(images, u, is_held_back=u < 0.15))
    limit = sum(map(len, groups)) // 3
    choose_sides(groups, limit)
    size = sum(len(group) for group in groups if group.is_held_back)
    assert min(5, limit) <= size <= limit
    for c in range(8):
        sides = [group.is_held_back for group in groups if c in group.classes]
        assert not sides or False in sides


def test_identical_files_are_on_one_side(tmp_path: Path) -> None:
    split = make_split(tmp_path, 30)
    copies = []
    for a in split.annotations:
        copy = tmp_path / f"copy-{a.image_path.name}"
        shutil.copy(a.image_path, copy)
        # Other labels: identical files are on one side in any case.
        copies.append(annotation(a.image_id + 100, copy, (1, 1)))
    held_back = names(divide(split_of([*split.annotations, *copies])).held_back)
    assert held_back
    assert {name.removeprefix("copy-") for name in held_back if name.startswith("copy-")} == {
        name for name in held_back if not name.startswith("copy-")
    }


def test_near_duplicates_with_the_same_boxes_are_on_one_side(tmp_path: Path) -> None:
    split = make_split(tmp_path, 30)
    copies = []
    for a in split.annotations:
        number = int(a.image_path.stem)
        darker = tmp_path / f"{number}-darker.png"
        write_image(darker, (noise(number) * 0.8).astype(np.uint8))
        copies.append(annotation(a.image_id + 100, darker))
    held_back = names(divide(split_of([*split.annotations, *copies])).held_back)
    numbers = [name.removesuffix(".png").removesuffix("-darker") for name in held_back]
    assert numbers
    assert all(numbers.count(number) == 2 for number in numbers)


def test_augmentations_of_one_original_are_on_one_side(tmp_path: Path) -> None:
    paths = [tmp_path / f"p{i // 3}_jpg.rf.{i:03x}.png" for i in range(60)]
    for i, path in enumerate(paths):
        write_image(path, noise(i))
    held_back = names(divide(split_of([annotation(i + 1, path) for i, path in enumerate(paths)])).held_back)
    originals = [name.split("_")[0] for name in held_back]
    assert originals
    assert all(originals.count(original) == 3 for original in originals)


def test_one_large_group_is_divided_by_file_name(tmp_path: Path) -> None:
    paths = [tmp_path / f"frame{i}.png" for i in range(60)]
    for i, path in enumerate(paths):
        image = noise(0)
        image[0, 0] = i
        write_image(path, image)
    result = divide(split_of([annotation(i + 1, path) for i, path in enumerate(paths)]))
    numbers = sorted(int(name[5:-4]) for name in names(result.held_back))
    assert len(numbers) in (6, 9)  # 15 %; the last of the parts may be smaller
    assert all(b - a == 1 for a, b in pairwise(numbers))
    assert "60 images look the same and have the same boxes" in result.warnings[0]


def test_images_of_one_camera_with_different_boxes_are_no_group(tmp_path: Path) -> None:
    paths = [tmp_path / f"{i}.png" for i in range(20)]
    for i, path in enumerate(paths):
        image = noise(0)
        image[0, 0] = i
        write_image(path, image)
    annotations = [annotation(i + 1, path, (0,) * (1 + i % 2), x=2 * i // 2) for i, path in enumerate(paths)]
    boxes = [replace(a, boxes=a.boxes + np.float32(7 * i)) for i, a in enumerate(annotations)]
    result = divide(split_of(boxes))
    assert result.warnings == ()
    assert 5 <= len(names(result.held_back)) <= 6


def test_large_data_is_grouped_without_decoding(tmp_path: Path) -> None:
    split = make_split(tmp_path, 30)
    huge = split_of([replace(a, image_hw=(20_000, 20_000)) for a in split.annotations])
    result = divide(huge)
    assert len(names(result.held_back)) >= 5
    assert "too many for a search of near-duplicates" in result.notes[1]


def test_unreadable_images_are_not_held_back(tmp_path: Path) -> None:
    split = make_split(tmp_path, 30)
    missing = [annotation(100 + i, tmp_path / f"missing-{i}.png") for i in range(20)]
    (tmp_path / "damaged.png").write_bytes(b"\x89PNG, but no image")
    damaged = annotation(200, tmp_path / "damaged.png")
    result = divide(split_of([*split.annotations, *missing, damaged]))
    assert names(result.held_back)
    assert not any(name.startswith("missing") for name in names(result.held_back))
    assert len(result.train.annotations) + len(names(result.held_back)) == 51


def test_identical_images_cannot_be_divided(tmp_path: Path) -> None:
    for i in range(20):
        write_image(tmp_path / f"{i}.png", noise(0))
    split = split_of([annotation(i + 1, tmp_path / f"{i}.png") for i in range(20)])
    result = divide(split)
    assert result.held_back is None
    assert result.train is split


def test_images_of_initial_weights_keep_their_sides(tmp_path: Path) -> None:
    split = make_split(tmp_path, 60)
    hashes = hash_files(a.image_path for a in split.annotations)
    own = [hashes[a.image_path] for a in split.annotations]
    known = ImageHashes(train=frozenset(own[:30]), val=frozenset(own[30:36]))
    held_back = names(divide(split, known=known).held_back)
    assert {f"{i}.png" for i in range(30, 36)} <= held_back
    assert not held_back & {f"{i}.png" for i in range(30)}


def test_no_image_of_initial_weights_is_held_back(tmp_path: Path) -> None:
    split = make_split(tmp_path, 20)
    hashes = frozenset(hash_files(a.image_path for a in split.annotations).values())
    result = divide(split, known=ImageHashes(train=hashes))
    assert result.held_back is None
    assert "the initial weights were trained on them" in result.notes[0]
    with pytest.raises(InputError, match="held back all 20 images"):
        divide(split, known=ImageHashes(val=hashes))


def test_ledger_rows_are_divided_without_loss(tmp_path: Path) -> None:
    split = make_split(tmp_path, 40)
    images = [a.image_path for a in split.annotations]
    entries = [LedgerEntry("clipped", Path("l.txt"), i, "clipped", image) for i, image in enumerate(images[::3])]
    entries += [LedgerEntry("no_area", Path("l.txt"), i, "flat", image) for i, image in enumerate(images[::2])]
    entries += [LedgerEntry("unknown_image", Path("l.txt"), 9, "no image")]
    ledger = Ledger(40 - len(images[::3]), missing=(Path("gone.png"),), entries=tuple(entries))
    result = divide(replace(split, ledger=ledger))
    assert result.held_back is not None
    parts = [result.train.ledger, result.held_back.ledger]
    for attribute in ("used", "clipped", "dropped", "found", "crowd", "background"):
        assert sum(getattr(part, attribute) for part in parts) == getattr(ledger, attribute), attribute
    assert parts[0].missing == ledger.missing
    for part, own in zip(parts, (result.train, result.held_back), strict=True):
        assert part.used + part.clipped == len(own.annotations)


def test_coco_ground_truth_is_divided(tmp_path: Path) -> None:
    split = make_split(tmp_path, 40)
    images = [{"id": a.image_id} for a in split.annotations]
    rows = [{"id": 7, "image_id": a.image_id, "area": 3} for a in split.annotations]
    result = divide(replace(split, ground_truth={"images": images, "annotations": rows, "categories": []}))
    assert result.held_back is not None
    truth = result.held_back.ground_truth
    assert truth is not None
    expected = [a.image_id for a in result.held_back.annotations]
    assert [image["id"] for image in truth["images"]] == [row["image_id"] for row in truth["annotations"]] == expected
