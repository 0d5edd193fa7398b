"""Reads Pascal VOC: one XML file per image with its objects, and lists of splits in `ImageSets/Main/`.

The corners `xmin, ymin, xmax, ymax` are used unchanged. The code of the VOC challenge subtracts 1 from them, but
today's tools write continuous coordinates that start at 0.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PureWindowsPath
from xml.etree.ElementTree import Element

from detector.data.file_index import FileIndex
from detector.data.image_labels import BadRow, ImageLabels, LabelFormat, NamedRow
from detector.data.parsing.xml_file import line_of, parse_xml
from detector.data.row_collector import Corners, RowError
from detector.errors import LabelError, location
from detector.files import read_text

_LISTS = ("train", "val", "test", "trainval")


def read_file(path: Path) -> Iterator[ImageLabels]:
    """Read one XML file and yield the labels of its image.

    An object with `difficult` of 1 is an ignore region, as in VOC's own evaluation. The image is the one with the
    same stem as the XML file, or the one that `<filename>` names.

    Raises:
        InputError: the file cannot be read, is not XML, has a DTD, or is not a Pascal VOC file.
    """
    root = _parse_root(path)
    rows = (*(row for item in root.iter("object") for row in _parse_object(item)), *_boxes_without_object(root))
    yield ImageLabels(path, None, root.findtext("filename", "").strip(), rows, _image_hw(root))


def split_lists(index: FileIndex, files: Sequence[Path]) -> tuple[dict[str, list[Path]], dict[str, str]]:
    """Return split name → the XML files of the split, from the lists in `ImageSets/Main/`, and notes.

    Lists directly in `ImageSets/` are used if `Main/` has none, and those of `_lists_elsewhere` if it has none.
    The lists in `ImageSets/Action/`, `Layout/` and `Segmentation/` of the VOC challenge belong to other tasks and
    contain other images. A stem that is listed twice is used once. A list without any XML file, such as that of a test
    split whose labels are not published, is not used.
    Both results are empty if there is no list.

    Args:
        index: all files of the dataset.
        files: the XML files.

    Returns:
        The files, and split name → note about its list for the user.

    Raises:
        LabelError: a listed XML file does not exist, or several match equally well.
    """
    known: dict[str, list[Path]] = {}
    for path in files:
        known.setdefault(path.stem, []).append(path)
    lists: dict[str, dict[Path, None]] = {}
    notes: dict[str, str] = {}
    unlabeled: list[str] = []
    texts = [path for path in index.with_suffix(".txt") if path.stem in _LISTS]
    main = [path for path in texts if path.parts[-3:-1] == ("ImageSets", "Main")]
    # The folder VOCdevkit contains VOC2007 and VOC2012, each with its own lists.
    if not (own := main or [path for path in texts if path.parent.name == "ImageSets"]):
        return _lists_elsewhere(index, known), {}
    for path in own:
        listed = _read_list(path, known)
        if not listed:
            unlabeled.append(f"{path} is not used: none of its names has an XML file")
            continue
        unique = dict.fromkeys(listed)
        lists.setdefault(path.stem, {}).update(unique)
        if repeated := len(listed) - len(unique):
            notes[path.stem] = f"{path}: {repeated} names are listed more than once; used once"
    for name in lists if unlabeled else ():
        notes[name] = "\n".join([*([notes[name]] if name in notes else []), *unlabeled])
    return {name: list(lists[name]) for name in _LISTS if name in lists}, notes


def _lists_elsewhere(index: FileIndex, known: Mapping[str, Sequence[Path]]) -> dict[str, list[Path]]:
    """Return the XML files of each split from lists such as `train.txt` and `val_list.txt` outside of `ImageSets/`.

    They are used only if one of them is a list for training and every line of each names an XML file or its image,
    because text files with these names may contain anything.
    """
    lists: dict[str, dict[Path, None]] = {}
    for path in index.with_suffix(".txt"):
        name = path.stem.removesuffix("_list")
        if name in _LISTS and "ImageSets" not in path.parts:
            try:
                listed = _read_list(path, known)
            except LabelError:
                return {}
            lists.setdefault(name, {}).update(dict.fromkeys(listed))
    if not lists.keys() & {"train", "trainval"} or not all(lists.values()):
        return {}
    return {name: list(lists[name]) for name in _LISTS if name in lists}


def _read_list(path: Path, known: Mapping[str, Sequence[Path]]) -> list[Path]:
    """Return the XML files of the stems in a list file without comments; empty if none of them has an XML file.

    A stem may be the end of a path, and be followed by a suffix or by other columns.

    Args:
        path: the list.
        known: stem → XML files.

    Raises:
        LabelError: some of the stems have an XML file, and another one has none.
    """
    files = []
    missing = ""
    for line, text in enumerate(read_text(path).split("\n"), start=1):
        name = text.strip()
        if not name or (name.startswith("#") and name not in known):
            continue
        first = name.split()[0]
        stems = (name, Path(name).stem, first, PureWindowsPath(first).stem)
        stem = next((stem for stem in stems if stem in known), None)
        if stem is not None:
            files.append(_file_of(stem, known[stem], path, line))
        elif not missing:
            missing = f"{location(path, line)}: {name}.xml does not exist; remove the line, or add the file"
    if files and missing:
        raise LabelError(missing)
    return files


def _file_of(stem: str, files: Sequence[Path], list_file: Path, line: int) -> Path:
    """Return the XML file with a stem; of several, the one in the folder that contains the folder `ImageSets`.

    Raises:
        LabelError: several files match equally well.
    """
    root = next((folder.parent for folder in list_file.parents if folder.name == "ImageSets"), list_file.parent)
    found = [file for file in files if file.is_relative_to(root)] if len(files) > 1 else list(files)
    if len(found) != 1:
        place = location(list_file, line)
        raise LabelError(f"{place}: {stem} may be {files[0]} or {files[1]}; rename one of the files")
    return found[0]


def _image_hw(root: Element) -> tuple[int, int] | None:
    """Return the (height, width) in the element `<size>`, or None if it is missing, 0 or not a number."""
    try:
        height, width = (int(float(root.findtext(f"size/{key}", ""))) for key in ("height", "width"))
    except (ValueError, OverflowError):
        return None
    return (height, width) if height > 0 and width > 0 else None


def _parse_root(path: Path) -> Element:
    """Parse an XML file and return its root element; raise InputError if it is not a Pascal VOC file."""
    root = parse_xml(path)
    if not _is_voc(root.tag):
        raise LabelError(
            f"{location(path, 1)}: not a Pascal VOC file: the root element is <{root.tag:.60}>, expected <annotation>"
        )
    return root


def _is_voc(tag: str) -> bool:
    return tag.lower() == "annotation"


def _parse_object(item: Element) -> list[NamedRow | BadRow]:
    """Return the row of an `<object>` element, or why it cannot be used; several rows if it has several boxes."""
    line = line_of(item)
    boxes = item.findall("bndbox")
    try:
        name = _only_text(item, "name")
        if not name:
            raise RowError("malformed_row", "the object has no <name>")
        if not boxes:
            raise RowError("malformed_row", f"{name}: the object has no <bndbox>")
        if len(boxes) > 1:
            problem = f"{name}: the object has {len(boxes)} <bndbox>; write one <object> for each box"
            raise RowError("malformed_row", problem)
        corners = _parse_box(boxes[0], name)
        is_crowd = _only_text(item, "difficult") == "1"
    except RowError as error:
        return [BadRow(line_of(box), error) for box in boxes] if len(boxes) > 1 else [BadRow(line, error)]
    return [NamedRow(line, name, corners, is_crowd)]


def _boxes_without_object(root: Element) -> list[BadRow]:
    """Return the `<bndbox>` elements that are in no `<object>`, such as those of `<obj>`, as rows that are dropped."""
    inside = {id(box) for item in root.iter("object") for box in item.iter("bndbox")}
    error = RowError("malformed_row", "the <bndbox> is in no <object>")
    return [BadRow(line_of(box), error) for box in root.iter("bndbox") if id(box) not in inside]


def _only_text(item: Element, tag: str) -> str:
    """Return the text of the only element with a tag in `item`, or an empty text if there is none.

    Raises:
        RowError: there are several.
    """
    found = item.findall(tag)
    if len(found) > 1:
        raise RowError("malformed_row", f"<{item.tag}> has {len(found)} <{tag}>; remove all but one")
    return (found[0].text or "").strip() if found else ""


def _parse_box(box: Element, name: str) -> Corners:
    """Return the corners in the element `<bndbox>` of an object.

    Raises:
        RowError: a coordinate is missing, occurs twice, or is not a number.
    """
    values = []
    for key in ("xmin", "ymin", "xmax", "ymax"):
        text = _only_text(box, key)
        try:
            values.append(float(text))
        except ValueError:
            problem = f"<{key}> is {text!r:.60}, not a number" if text else f"the box has no <{key}>"
            raise RowError("malformed_row", f"{name}: {problem}") from None
    x1, y1, x2, y2 = values
    return x1, y1, x2, y2


FORMAT = LabelFormat("Pascal VOC", "xml", matches=_is_voc, read=read_file, per_image=True)
