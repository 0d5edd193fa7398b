"""Pascal VOC: one XML file per image in `Annotations/`, images in `JPEGImages/`, splits in `ImageSets/Main/`.

Corners are taken as they stand (`xmin, ymin, xmax, ymax`), without the shift by one of the VOC challenge's own code:
today's tools write continuous coordinates that start at 0.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from detector.data.label_rows import Corners, RowCollector
from detector.data.path_guard import PathGuard
from detector.data.split import Split
from detector.errors import InputError, location
from detector.files import read_text
from detector.images import find_images


def split_names(folder: Path) -> tuple[str, ...]:
    """Return the splits of a VOC folder: those listed in `ImageSets/Main/`, else all images as "train"."""
    names = ("train", "val", "test", "trainval")
    return tuple(name for name in names if _list_file(folder, name).is_file()) or ("train",)


def read_split(folder: Path, name: str, class_names: Sequence[str] = (), allow_outside: bool = False) -> Split:
    """Read one split; `difficult` of 1 marks an object as to be ignored, as VOC's own evaluation does.

    ImageLike sizes come from the images. Image ids count all XML files of the folder, so they are unique over splits.

    Args:
        folder: holds `Annotations/`.
        name: one of `split_names`.
        class_names: C names; without any, all names that occur in the folder, sorted.
        allow_outside: let it read files outside of the folder.

    Raises:
        InputError: an XML file does not parse or has a DTD, a listed one is missing, no class, an image lies outside
            of the folder or cannot be told from another, or no image is there.
    """
    fence = PathGuard([] if allow_outside else [folder])
    paths = {path.stem: path for path in sorted((folder / "Annotations").glob("*.xml"))}
    stems = _listed(folder, name, paths)
    for path in paths.values():
        fence.check(path, path.parent)
    roots = {stem: _parse(paths[stem]) for stem in (stems if class_names else paths)}
    class_names = class_names or sorted({n for root in roots.values() for n in map(_name, root.iter("object")) if n})
    if not class_names:
        raise InputError(f"{folder / 'Annotations'}: no XML file there names an object: there is no class to find")
    class_ids = {class_name: i for i, class_name in enumerate(class_names)}
    image_ids = {stem: i for i, stem in enumerate(paths, start=1)}
    image_folder = folder / "JPEGImages"
    images: dict[str, list[Path]] = {}
    for image in find_images(image_folder) if image_folder.is_dir() else ():
        images.setdefault(image.stem, []).append(image)
    collector = RowCollector()
    for stem in stems:
        path, image_id, root = paths[stem], image_ids[stem], roots[stem]
        image = _image(path, root, image_folder, images.get(stem, []))
        fence.check(image, path)
        collector.add_image(image_id, image)
        for item in root.iter("object"):
            line = int(item.attrib["line"])
            try:
                class_id, corners = _read_object(item, class_ids)
            except ValueError as fault:
                collector.drop(image_id, path, line, str(fault))
            else:
                is_difficult = item.findtext("difficult", "").strip() == "1"
                collector.add_box(image_id, path, line, class_id, corners, is_crowd=is_difficult)
    annotations = collector.annotations(folder)
    return Split(name, tuple(class_names), tuple(range(1, len(class_names) + 1)), annotations, collector.ledger)


def _list_file(folder: Path, name: str) -> Path:
    return folder / "ImageSets" / "Main" / f"{name}.txt"


def _listed(folder: Path, name: str, paths: Mapping[str, Path]) -> list[str]:
    """Return the stems of a split's images, in the order of its list."""
    list_file = _list_file(folder, name)
    if not list_file.is_file():
        return list(paths)
    stems: dict[str, None] = {}  # a set that keeps the order
    for line, text in enumerate(read_text(list_file).split("\n"), start=1):
        if not (stem := text.strip()):
            continue
        if stem not in paths:
            raise InputError(f"{location(list_file, line)}: there is no {folder / 'Annotations' / stem}.xml")
        if stem in stems:
            raise InputError(f"{location(list_file, line)}: {stem} is listed twice; list it once")
        stems[stem] = None
    return list(stems)


def _image(path: Path, root: Element, folder: Path, of_stem: Sequence[Path]) -> Path:
    """Return the image of an XML file: the one of its stem, or else the one it names."""
    file_name = root.findtext("filename", "").strip()
    named = folder / (file_name or f"{path.stem}.jpg")
    if len(of_stem) > 1 and not (file_name and named in of_stem):
        raise InputError(
            f"{path}: its image may be {' or '.join(image.name for image in of_stem)}: name one in <filename>"
        )
    return named if len(of_stem) != 1 else of_stem[0]


def _parse(path: Path) -> Element:
    """Return the root of an XML file, whose elements bear their line as the attribute `line`."""
    builder, parser = TreeBuilder(), expat.ParserCreate()

    def start(tag: str, attributes: dict[str, str]) -> None:
        builder.start(tag, attributes | {"line": str(parser.CurrentLineNumber)})

    def refuse(*_: object) -> None:
        # Entities can be made to grow without bound or to read other files; annotations need none.
        raise InputError(
            f"{location(path, parser.CurrentLineNumber)}: a document type declaration is not allowed; remove it"
        )

    parser.StartElementHandler = start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    parser.StartDoctypeDeclHandler = refuse
    try:
        parser.Parse(path.read_bytes(), True)
    except expat.ExpatError as error:
        place, message = location(path, error.lineno), expat.ErrorString(error.code)
        raise InputError(f"{place}: not XML: {message} in column {error.offset + 1}") from None
    except InputError:
        raise
    except (LookupError, ValueError) as error:
        raise InputError(f"{path}: not XML that can be read ({error}); save it as UTF-8") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    root = builder.close()
    if root.tag.lower() != "annotation":
        raise InputError(
            f"{location(path, 1)}: its root is <{root.tag:.60}>, expected <annotation>: not a file of Pascal VOC"
        )
    return root


def _name(item: Element) -> str:
    return item.findtext("name", "").strip()


def _read_object(item: Element, class_ids: Mapping[str, int]) -> tuple[int, Corners]:
    """Return class and corners of an `<object>`; ValueError says what is wrong with it."""
    name, box = _name(item), item.find("bndbox")
    if name not in class_ids:
        raise ValueError(f"class {name!r:.60} is not among the class names" if name else "object without <name>")
    if box is None:
        raise ValueError(f"{name}: object without <bndbox>")
    values = []
    for key in ("xmin", "ymin", "xmax", "ymax"):
        text = box.findtext(key, "").strip()
        try:
            values.append(float(text))
        except ValueError:
            raise ValueError(
                f"{name}: <{key}> is {text!r:.60}, not a number" if text else f"{name}: no <{key}>"
            ) from None
    x1, y1, x2, y2 = values
    return class_ids[name], (x1, y1, x2, y2)
