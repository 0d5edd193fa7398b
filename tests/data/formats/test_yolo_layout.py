import json
from pathlib import Path

import numpy as np
import pytest

from detector.data.open_data import open_data
from detector.data.split import Split
from detector.errors import LabelError
from detector.images import write_image

ROW = "1 0.5 0.5 0.5 0.5\n"
"""A row of class 1; in an image of 80 x 40 pixels, the box (20, 10, 60, 30)."""


def image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_image(path, np.zeros((40, 80, 3), np.uint8))


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def labeled(folder: Path, images: str, labels: str, stem: str = "a", rows: str = ROW) -> None:
    """Write an image and its label file into the two folders."""
    image(folder / images / f"{stem}.png")
    write(folder / labels / f"{stem}.txt", rows)


def assert_read(split: Split, names: tuple[str, ...] = ("cat", "dog"), count: int = 1) -> None:
    assert split.class_names == names
    assert [a.boxes.tolist() for a in split.annotations] == [[[20, 10, 60, 30]]] * count
    assert [a.class_ids.tolist() for a in split.annotations] == [[1]] * count


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        ("images", "labels"),
        ("images", "images"),
        ("photos", "photos"),
        ("photos", "texts"),
        (".", "."),
        ("data", "yolo"),
    ],
)
def test_label_files_are_found_in_any_folder(tmp_path: Path, images: str, labels: str) -> None:
    labeled(tmp_path, images, labels)
    write(tmp_path / "classes.txt", "cat\ndog\n")
    assert_read(open_data(tmp_path).read("train"))


@pytest.mark.parametrize("folders", [("{}/images", "{}/labels"), ("images/{}", "labels/{}"), ("{}", "{}")])
def test_splits_follow_from_folders_without_a_data_yaml(tmp_path: Path, folders: tuple[str, str]) -> None:
    for split, stems in (("train", "ab"), ("valid", "c"), ("test", "d")):
        for stem in stems:
            labeled(tmp_path, folders[0].format(split), folders[1].format(split), stem)
    write(tmp_path / "classes.txt", "cat\ndog\n")
    data_set = open_data(tmp_path)
    assert data_set.split_names == ("train", "val", "test")
    assert_read(data_set.read("train"), count=2)
    assert_read(data_set.read("val"))


def test_a_folder_without_label_files_is_not_a_split(tmp_path: Path) -> None:
    labeled(tmp_path, "images", "labels")
    image(tmp_path / "examples/b.png")
    write(tmp_path / "classes.txt", "cat\ndog\n")
    assert len(open_data(tmp_path).read("train").annotations) == 1


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("classes.txt", "cat\ndog\n"),
        ("labels/classes.txt", "cat\ndog\n"),
        ("obj.names", "cat\ndog"),
        ("train/_darknet.labels", "cat\ndog\n\n"),
        ("notes.json", json.dumps({"categories": [{"id": 1, "name": "dog"}, {"id": 0, "name": "cat"}]})),
    ],
)
def test_class_names_come_from_the_files_of_labeling_tools(tmp_path: Path, file: str, text: str) -> None:
    labeled(tmp_path, "images", "labels")
    write(tmp_path / file, text)
    assert_read(open_data(tmp_path).read("train"))


def test_without_names_the_classes_are_numbered_over_all_splits(tmp_path: Path) -> None:
    labeled(tmp_path, "train/images", "train/labels")
    labeled(tmp_path, "val/images", "val/labels", "b", "2 0.5 0.5 0.5 0.5\n")
    split = open_data(tmp_path).read("train")
    assert_read(split, ("class_0", "class_1", "class_2"))
    [note] = split.ledger.notes
    assert note.startswith("no file names the classes, so they are called class_0, class_1, class_2; ")
    # The note contains a data.yaml that gives the same dataset.
    write(tmp_path / "data.yaml", note.partition("\n")[2])
    assert_read(open_data(tmp_path).read("train"), ("class_0", "class_1", "class_2"))


def test_data_yaml_wins_over_other_name_files(tmp_path: Path) -> None:
    labeled(tmp_path, "images", "labels")
    write(tmp_path / "data.yaml", "train: images\nnames: [cat, dog]\n")
    write(tmp_path / "classes.txt", "dog\ncat\n")
    split = open_data(tmp_path).read("train")
    assert_read(split)
    assert split.ledger.notes == (
        "data.yaml names the classes ['cat', 'dog'], classes.txt names ['dog', 'cat']; data.yaml is used",
    )


def test_an_id_without_name_stops_if_name_files_differ(tmp_path: Path) -> None:
    labeled(tmp_path, "images", "labels")
    write(tmp_path / "data.yaml", "train: images\nnames: [cat]\n")
    write(tmp_path / "classes.txt", "cat\ndog\n")
    with pytest.raises(LabelError, match=r"\['cat'\] are used, but .*classes\.txt has \['cat', 'dog'\]"):
        open_data(tmp_path).read("train")


def test_darknet_files_are_read(tmp_path: Path) -> None:
    labeled(tmp_path, "obj_train_data", "obj_train_data")
    labeled(tmp_path, "obj_valid_data", "obj_valid_data", "b")
    write(tmp_path / "train.txt", "data/obj_train_data/a.png\n")
    write(tmp_path / "valid.txt", "data/obj_valid_data/b.png\n")
    write(tmp_path / "obj.names", "cat\ndog\n")
    obj = "classes = 2\ntrain = data/train.txt\nvalid = data/valid.txt\nnames = data/obj.names\nbackup = backup/\n"
    write(tmp_path / "obj.data", obj)
    for spec in (tmp_path, tmp_path / "obj.data"):
        assert open_data(spec).split_names == ("train", "val")
        assert_read(open_data(spec).read("train"))
        assert_read(open_data(spec).read("val"))


def test_lists_beside_the_images_define_the_splits(tmp_path: Path) -> None:
    for stem in "abc":
        labeled(tmp_path, "images", "labels", stem)
    write(tmp_path / "classes.txt", "cat\ndog\n")
    write(tmp_path / "train.txt", "C:\\set\\images\\a.png\nC:\\set\\images\\b.png\n")
    write(tmp_path / "val.txt", "/home/me/set/images/c.png\n")
    data_set = open_data(tmp_path)
    assert_read(data_set.read("train"), count=2)
    assert_read(data_set.read("val"))


@pytest.mark.parametrize(
    "yaml",
    [
        "train: train\\images\nnames: [cat, dog]\n",
        "train: /content/My-Project-3/train/images\nnames: [cat, dog]\n",
        "train: C:\\Users\\me\\set\\train\\images\nnames: [cat, dog]\n",
        "train: set/train/images\nnames: [cat, dog]\n",
        "path: /Users/me/set\ntrain: train/images\nnames: [cat, dog]\n",
        "train:train/images\nnc:2\nnames:['cat', 'dog']\n",
        "train: train/images\nnames: classes.names\n",
    ],
)
def test_paths_of_other_computers_are_found_by_their_end(tmp_path: Path, yaml: str) -> None:
    labeled(tmp_path, "train/images", "train/labels")
    write(tmp_path / "classes.names", "cat\ndog\n")
    assert_read(open_data(write(tmp_path / "data.yaml", yaml)).read("train"))


def test_images_of_another_split_are_not_used_for_an_absent_one(tmp_path: Path) -> None:
    labeled(tmp_path, "images", "labels")
    yaml = "train: images\nval: /content/set/val/images\nnames: [cat, dog]\n"
    data_set = open_data(write(tmp_path / "data.yaml", yaml))
    assert data_set.split_names == ("train",)


def test_a_list_without_any_existing_image_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "train.txt", "/home/kim/gone/a.png\n")
    yaml = write(tmp_path / "data.yaml", "train: train.txt\nnames: [cat, dog]\n")
    with pytest.raises(
        LabelError, match=r"train\.txt: none of the 1 images in this list exists; the first is .*a\.png"
    ):
        open_data(yaml).read("train")


def test_keypoints_after_the_box_are_ignored(tmp_path: Path) -> None:
    labeled(tmp_path, "images", "labels", rows="1 0.5 0.5 0.5 0.5 0.9 0.9 2 0.1 0.1 2\n")
    yaml = write(tmp_path / "data.yaml", "train: images\nnames: [cat, dog]\nkpt_shape: [2, 3]\n")
    assert_read(open_data(yaml).read("train"))


def test_polygons_and_oriented_boxes_are_counted(tmp_path: Path) -> None:
    labeled(tmp_path, "images", "labels", rows="1 0.25 0.5 0.5 0.25 0.75 0.5 0.5 0.75\n")
    split = open_data(write(tmp_path / "data.yaml", "train: images\nnames: [cat, dog]\n")).read("train")
    assert_read(split)
    assert split.ledger.notes == ("bounding boxes replace 1 polygon or oriented box",)


def test_corners_instead_of_centers_are_refused(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    corners = rng.uniform(0.3, 0.6, (40, 2))
    rows = "".join(f"0 {x:.4f} {y:.4f} {x + 0.35:.4f} {y + 0.35:.4f}\n" for x, y in corners)
    labeled(tmp_path, "images", "labels", rows=rows)
    yaml = write(tmp_path / "data.yaml", "train: images\nnames: [cat, dog]\n")
    with pytest.raises(LabelError, match="the rows look like `class x1 y1 x2 y2`"):
        open_data(yaml).read("train")


def test_a_text_file_without_label_rows_is_left_alone(tmp_path: Path) -> None:
    labeled(tmp_path, "train", "train")
    notes = write(tmp_path / "train/README.dataset.txt", "my data\nhttps://example.org\n")
    write(tmp_path / "train/labels.txt", "cat\ndog\n")
    split = open_data(write(tmp_path / "data.yaml", "train: train\nnames: [cat, dog]\n")).read("train")
    assert_read(split)
    assert f"{notes} contains no label rows and is not used" in split.ledger.notes
    assert split.ledger.found == 1


def test_absent_darknet_lists_leave_the_folders_to_use(tmp_path: Path) -> None:
    labeled(tmp_path, "train", "train")
    labeled(tmp_path, "val", "val", "b")
    write(tmp_path / "obj.data", "classes = 2\ntrain = data/train.txt\nvalid = data/val.txt\nnames = data/obj.names\n")
    write(tmp_path / "train/_darknet.labels", "cat\ndog\n")
    write(tmp_path / "other.names", "dog\ncat\n")
    data = open_data(tmp_path)
    assert data.split_names == ("train", "val")
    split = data.read("train")
    assert_read(split)
    assert split.ledger.notes[0].startswith("obj.data: train is data/train.txt, which does not exist")
    assert any("other.names names ['dog', 'cat']" in note for note in split.ledger.notes)


def test_images_of_a_list_are_searched_in_other_folders(tmp_path: Path) -> None:
    labeled(tmp_path, "photos", "obj_train_data")
    for name in ("x/same.png", "photos/b.png"):
        image(tmp_path / name)
    write(tmp_path / "obj.data", "train = train.txt\nnames = obj.names\n")
    write(tmp_path / "obj.names", "cat\ndog\n")
    write(tmp_path / "train.txt", "data/obj_train_data/a.png\n/home/me/1/same.png\n/home/me/2/same.png\n")
    split = open_data(tmp_path).read("train")
    assert_read(split)
    assert [path.name for path in split.ledger.missing] == ["same.png", "same.png"]


def test_images_in_folders_without_labels_are_reported(tmp_path: Path) -> None:
    labeled(tmp_path, "test", "test")
    image(tmp_path / "train/b.png")
    image(tmp_path / "train/c.png")
    write(tmp_path / "classes.txt", "cat\ndog\n")
    [note] = open_data(tmp_path).read("test").ledger.notes
    assert note.startswith("2 images in folders without label files are not used, first: ")


def test_two_folders_with_their_own_classes_are_refused(tmp_path: Path) -> None:
    labeled(tmp_path, "a", "a")
    labeled(tmp_path, "b", "b", "b")
    write(tmp_path / "a/_darknet.labels", "cat\ndog\n")
    write(tmp_path / "b/_darknet.labels", "bell\nbuzzer\n")
    with pytest.raises(LabelError, match="name different classes; pass the path of one of their folders"):
        open_data(tmp_path)
    assert_read(open_data(tmp_path / "a").read("train"))


def test_a_data_yaml_without_existing_split_leaves_the_folders(tmp_path: Path) -> None:
    labeled(tmp_path, "dataset/sample/images/train", "dataset/sample/labels/train")
    write(tmp_path / "data.yaml", "path: dataset\ntrain: images/train\nval: images/val\nnames: [cat, dog]\n")
    data = open_data(tmp_path)
    assert data.split_names == ("train",)
    split = data.read("train")
    assert_read(split)
    assert split.ledger.notes[0].startswith("data.yaml: train is images/train, which does not exist")


def test_darknet_lists_are_read_if_the_data_yaml_has_no_images(tmp_path: Path) -> None:
    labeled(tmp_path, "obj", "obj")
    write(tmp_path / "data.yaml", "train: ../train/images\nval: ../valid/images\nnames: [dog, cat]\n")
    write(tmp_path / "obj.data", "train = /content/x/train.txt\nnames = /content/x/obj.names\n")
    write(tmp_path / "train.txt", "/content/x/obj/a.png\n")
    write(tmp_path / "obj.names", "cat\ndog\n")
    split = open_data(tmp_path).read("train")
    assert_read(split)
    assert (
        "data.yaml names the classes ['dog', 'cat'], but ['cat', 'dog'] are used, from another file"
        in split.ledger.notes
    )


@pytest.mark.parametrize("with_list", [False, True])
def test_label_files_without_image_are_counted_in_every_layout(tmp_path: Path, with_list: bool) -> None:
    labeled(tmp_path, "images", "labels")
    for name in ("B.txt", "c.TXT"):
        write(tmp_path / "labels" / name, ROW)
    image(tmp_path / "images/b.png")
    image(tmp_path / "images/c.png")
    write(tmp_path / "classes.txt", "cat\ndog\n")
    if with_list:
        write(tmp_path / "train.txt", "images/a.png\nimages/b.png\nimages/c.png\n")
        write(tmp_path / "data.yaml", "train: train.txt\nnames: [cat, dog]\n")
    ledger = open_data(tmp_path).read("train").ledger
    assert [(entry.path.name, entry.code) for entry in ledger.entries] == [
        ("B.txt", "unknown_image"),
        ("c.TXT", "unknown_image"),
    ]


def test_label_places_may_differ_between_image_folders(tmp_path: Path) -> None:
    labeled(tmp_path, "one", "one", "a")
    labeled(tmp_path, "two", "two_texts", "b")
    write(tmp_path / "classes.txt", "cat\ndog\n")
    assert_read(open_data(tmp_path).read("train"), count=2)


@pytest.mark.parametrize("kind", ["copies", "links"])
@pytest.mark.parametrize("labels", ["labels", "images"])
def test_copies_of_labeled_images_are_not_background_images(tmp_path: Path, kind: str, labels: str) -> None:
    labeled(tmp_path, "images/train", f"{labels}/train", "a")
    labeled(tmp_path, "images/val", f"{labels}/val", "b")
    write(tmp_path / "classes.txt", "cat\ndog\n")
    for name in ("train/a.png", "val/b.png"):
        copy = tmp_path / "visualized" / Path(name).name
        copy.parent.mkdir(exist_ok=True)
        copy.symlink_to(tmp_path / "images" / name) if kind == "links" else image(copy)
    data_set = open_data(tmp_path)
    for name, stem in (("train", "a"), ("val", "b")):
        split = data_set.read(name)
        assert_read(split)
        assert split.annotations[0].image_path == tmp_path / f"images/{name}/{stem}.png"
        assert split.ledger.background == 0
        assert any("2 images in folders without label files are not used" in note for note in split.ledger.notes)


def test_an_image_and_links_to_it_are_used_once(tmp_path: Path) -> None:
    """Splits are often made of links into a folder with all images."""
    for stem, name in (("a", "train"), ("b", "val")):
        labeled(tmp_path, "all/images", "all/labels", stem)
        for path in (f"images/{stem}.png", f"labels/{stem}.txt"):
            (tmp_path / name / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name / path).symlink_to(tmp_path / "all" / path)
    write(tmp_path / "classes.txt", "cat\ndog\n")
    data_set = open_data(tmp_path)
    for name, stem in (("train", "a"), ("val", "b")):
        split = data_set.read(name)
        assert_read(split)
        assert [a.image_path for a in split.annotations] == [tmp_path / f"{name}/images/{stem}.png"]
        assert [note for note in split.ledger.notes if "2 images found by two paths, because of links" in note]
        assert not any("label file" in note for note in split.ledger.notes)


def test_links_to_images_of_splits_move_no_image(tmp_path: Path) -> None:
    labeled(tmp_path, "images/train", "labels/train", "a")
    labeled(tmp_path, "images/val", "labels/val", "b")
    (tmp_path / "favorites").mkdir()
    (tmp_path / "favorites/b.png").symlink_to(tmp_path / "images/val/b.png")
    (tmp_path / "favorites/b.txt").symlink_to(tmp_path / "labels/val/b.txt")
    write(tmp_path / "classes.txt", "cat\ndog\n")
    for name in ("train", "val"):
        assert_read(open_data(tmp_path).read(name))


def test_a_label_file_of_two_splits_is_refused(tmp_path: Path) -> None:
    labeled(tmp_path, "train", "texts")
    image(tmp_path / "val/a.png")
    write(tmp_path / "data.yaml", "train: train\nval: val\nnames: [cat, dog]\n")
    with pytest.raises(LabelError, match=r"a\.txt: is the label file of both .*val/a\.png and .*train/a\.png"):
        open_data(tmp_path).read("train")


@pytest.mark.parametrize("points", ["0.75 0.75 2 0.85 0.85 1", "0.79 0.79 0.81 0.81 0.8 0.79 0 0"])
def test_keypoints_without_kpt_shape_are_refused(tmp_path: Path, points: str) -> None:
    labeled(tmp_path, "images", "labels", rows=f"0 0.8 0.8 0.2 0.2 {points}\n" * 3)
    write(tmp_path / "data.yaml", "train: images\nnames: [cat, dog]\n")
    with pytest.raises(LabelError, match="look like boxes with keypoints"):
        open_data(tmp_path).read("train")


def test_a_path_that_may_be_another_data_set_is_refused(tmp_path: Path) -> None:
    labeled(tmp_path, "train/images", "train/labels")
    labeled(tmp_path / "set", "train/images", "train/labels")
    write(tmp_path / "set/data.yaml", "train: ../train/images\nnames: [cat, dog]\n")
    with pytest.raises(LabelError, match=r"\.\./train/images may be .*/train/images or .*/set/train/images"):
        open_data(tmp_path / "set")


@pytest.mark.parametrize("corners", [3, 4, 5, 8, 12])
def test_polygons_anywhere_do_not_look_like_keypoints(tmp_path: Path, corners: int) -> None:
    generator = np.random.default_rng(corners)
    angles = np.linspace(0, 2 * np.pi, corners, endpoint=False)
    rows = ""
    for center, radius in zip(generator.uniform(0.1, 0.9, (200, 2)), generator.uniform(0.01, 0.1, 200), strict=True):
        turned = angles + generator.uniform(0, 6.3)
        points = center + radius * generator.uniform(0.5, 1, (corners, 1)) * np.stack(
            [np.cos(turned), np.sin(turned)], 1
        )
        rows += f"1 {' '.join(f'{value:.6f}' for value in points.flat)}\n"
    labeled(tmp_path, "images", "labels", rows=rows)
    write(tmp_path / "data.yaml", "train: images\nnames: [cat, dog]\n")
    assert len(open_data(tmp_path).read("train").annotations[0].boxes) == 200
