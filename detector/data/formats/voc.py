"""Reads Pascal VOC: XML files in `Annotations/`, images in `JPEGImages/`, lists of splits in `ImageSets/Main/`.

The corners `xmin, ymin, xmax, ymax` are used unchanged. The code of the VOC challenge subtracts 1 from them, but
today's tools write continuous coordinates that start at 0.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from detector.data.path_guard import PathGuard
from detector.data.row_collector import Corners, LabelRow, RowCollector, RowError
from detector.data.split import Split, read_file
from detector.errors import FileError, LabelError, location
from detector.files import read_text
from detector.images import find_images
from detector.options import ReadOptions


def split_names(folder: Path) -> tuple[str, ...]:
    """Return the names of the splits that have a list in `ImageSets/Main/`; ("train",) if there is no list."""
    names = ("train", "val", "test", "trainval")
    return tuple(name for name in names if _list_file(folder, name).is_file()) or ("train",)


def read_split(
    folder: Path,
    name: str,
    class_names: Sequence[str] = (),
    options: ReadOptions = ReadOptions(),  # noqa: B008 (immutable)
) -> Split:
    """Read the labels of one split of a VOC folder and return the split; the images are not decoded.

    If there is no list file for the split, the split contains all images. An object with `difficult` of 1 is an ignore
    region, as in VOC's own evaluation. Image sizes are read from the image files. The image id is the position of the
    XML file among all XML files of the folder, so image ids are unique across splits.

    Args:
        folder: the folder that contains `Annotations/`.
        name: one of `split_names(folder)`.
        class_names: names of the C classes in the order of the class ids; empty: all class names in the XML files of
            the folder, sorted.
        options: `allow_outside` allows files outside of the folder; `max_pixels` is the largest number of pixels of an
            image that is decoded.

    Raises:
        InputError: an XML file cannot be parsed or has a DTD, a listed XML file is missing, there is no class, an image
            is outside of the folder, an XML file matches more than one image, or no image exists.
    """
    guard = PathGuard([folder], options)
    xml_files = {path.stem: path for path in sorted((folder / "Annotations").glob("*.xml"))}
    stems = _split_stems(folder, name, xml_files)
    for path in xml_files.values():
        guard.check(path, path.parent)
    roots = {stem: _parse_xml(xml_files[stem]) for stem in (stems if class_names else xml_files)}
    class_names = class_names or sorted({n for root in roots.values() for n in map(_name, root.iter("object")) if n})
    if not class_names:
        raise LabelError(f"{folder / 'Annotations'}: no XML file contains an object with a name; expected at least one")
    class_ids = {class_name: i for i, class_name in enumerate(class_names)}
    image_ids = {stem: i for i, stem in enumerate(xml_files, start=1)}
    images = _images_by_stem(folder / "JPEGImages")
    collector = RowCollector(options)
    for stem in stems:
        path = xml_files[stem]
        image = _find_image(path, roots[stem], folder / "JPEGImages", images.get(stem, []))
        guard.check(image, path)
        collector.add_image(image_ids[stem], image)
        _add_objects(collector, image_ids[stem], path, roots[stem], class_ids)
    annotations, ledger = collector.finish(folder)
    return Split(
        name,
        tuple(class_names),
        category_ids=tuple(range(1, len(class_names) + 1)),
        annotations=annotations,
        ledger=ledger,
        read_image=partial(read_file, max_pixels=options.max_pixels),
        max_pixels=options.max_pixels,
    )


def _list_file(folder: Path, name: str) -> Path:
    return folder / "ImageSets" / "Main" / f"{name}.txt"


def _split_stems(folder: Path, name: str, xml_files: Mapping[str, Path]) -> list[str]:
    """Return the stems of the XML files of a split, in the order of the list file.

    If the split has no list file, return the stems of all XML files.
    """
    list_file = _list_file(folder, name)
    if not list_file.is_file():
        return list(xml_files)
    stems: dict[str, None] = {}  # an ordered set
    for line, text in enumerate(read_text(list_file).split("\n"), start=1):
        if not (stem := text.strip()):
            continue
        if stem not in xml_files:
            raise LabelError(f"{location(list_file, line)}: {folder / 'Annotations' / stem}.xml does not exist")
        if stem in stems:
            raise LabelError(f"{location(list_file, line)}: {stem} is listed twice; list it once")
        stems[stem] = None
    return list(stems)


def _images_by_stem(folder: Path) -> dict[str, list[Path]]:
    images: dict[str, list[Path]] = {}
    for image in find_images(folder) if folder.is_dir() else ():
        images.setdefault(image.stem, []).append(image)
    return images


def _find_image(path: Path, root: Element, folder: Path, same_stem: Sequence[Path]) -> Path:
    """Return the path of the image of an XML file.

    This is the image with the same stem as the XML file. If there is no such image or more than one, it is the image
    that `<filename>` names, or STEM.jpg if `<filename>` is empty; this image may be missing.

    Args:
        path: the XML file.
        root: root element of the XML file.
        folder: the folder `JPEGImages`.
        same_stem: all images in `folder` with the same stem as the XML file.

    Raises:
        LabelError: more than one image has the same stem, and `<filename>` names none of them.
    """
    file_name = root.findtext("filename", "").strip()
    named = folder / (file_name or f"{path.stem}.jpg")
    if len(same_stem) > 1 and not (file_name and named in same_stem):
        names = " or ".join(image.name for image in same_stem)
        raise LabelError(f"{path}: the image may be {names}; name one of these files in <filename>")
    return named if len(same_stem) != 1 else same_stem[0]


def _parse_xml(path: Path) -> Element:
    """Parse an XML file and return its root element; each element gets its line number as the attribute `line`.

    Raises:
        FileError: the file cannot be read.
        LabelError: the file is not XML, has a document type declaration, or is not a Pascal VOC file.
    """
    builder, parser = TreeBuilder(), expat.ParserCreate()

    def start(tag: str, attributes: dict[str, str]) -> None:
        builder.start(tag, attributes | {"line": str(parser.CurrentLineNumber)})

    def refuse_dtd(*_: object) -> None:
        # Entities of a DTD can expand without limit or read other files, and label files do not need a DTD.
        place = location(path, parser.CurrentLineNumber)
        raise LabelError(f"{place}: a document type declaration is not allowed; remove it")

    parser.StartElementHandler = start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    parser.StartDoctypeDeclHandler = refuse_dtd
    try:
        parser.Parse(path.read_bytes(), True)
    except expat.ExpatError as error:
        place, message = location(path, error.lineno), expat.ErrorString(error.code)
        raise LabelError(f"{place}: not XML: {message} in column {error.offset + 1}") from None
    except LabelError:
        raise
    except (LookupError, ValueError) as error:
        raise LabelError(f"{path}: not XML: the text cannot be decoded ({error}); save the file as UTF-8") from None
    except OSError as error:
        raise FileError(f"{path}: cannot be read ({error.strerror})") from None
    root = builder.close()
    if root.tag.lower() != "annotation":
        raise LabelError(
            f"{location(path, 1)}: not a Pascal VOC file: the root element is <{root.tag:.60}>, expected <annotation>"
        )
    return root


def _name(item: Element) -> str:
    return item.findtext("name", "").strip()


def _add_objects(
    collector: RowCollector, image_id: int, path: Path, root: Element, class_ids: Mapping[str, int]
) -> None:
    """Add all objects of an XML file to the collector as label rows; drop objects that cannot be used.

    Args:
        collector: gets the rows.
        image_id: id of the image of the XML file.
        path: the XML file.
        root: root element of the XML file.
        class_ids: class name → class id.
    """
    for item in root.iter("object"):
        line = int(item.attrib["line"])
        try:
            class_id, corners = _parse_object(item, class_ids)
        except RowError as error:
            collector.drop(image_id, path, line, error)
        else:
            is_difficult = item.findtext("difficult", "").strip() == "1"
            collector.add_row(LabelRow(image_id, path, line, class_id, corners, is_crowd=is_difficult))


def _parse_object(item: Element, class_ids: Mapping[str, int]) -> tuple[int, Corners]:
    """Return the class id and the corners of an `<object>` element.

    Args:
        item: the element.
        class_ids: class name → class id.

    Raises:
        RowError: the object cannot be used.
    """
    name, box = _name(item), item.find("bndbox")
    if name not in class_ids:
        if not name:
            raise RowError("malformed_row", "the object has no <name>")
        raise RowError("unknown_class", f"class {name!r:.60} is not among the class names")
    if box is None:
        raise RowError("malformed_row", f"{name}: the object has no <bndbox>")
    values = []
    for key in ("xmin", "ymin", "xmax", "ymax"):
        text = box.findtext(key, "").strip()
        try:
            values.append(float(text))
        except ValueError:
            problem = f"<{key}> is {text!r:.60}, not a number" if text else f"the box has no <{key}>"
            raise RowError("malformed_row", f"{name}: {problem}") from None
    x1, y1, x2, y2 = values
    return class_ids[name], (x1, y1, x2, y2)
