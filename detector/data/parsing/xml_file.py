"""Parses an XML label file of untrusted content. Shared by the readers of XML formats."""

from functools import lru_cache
from pathlib import Path
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from detector.errors import FileError, LabelError, location


def parse_xml(path: Path) -> Element:
    """Parse an XML file and return its root element; each element gets its line number as the attribute `line`.

    The tags are in lower case and without the prefix of a namespace: `<v:Object>` has the tag `object`.

    Raises:
        FileError: the file cannot be read.
        LabelError: the file is not XML or has a document type declaration.
    """
    builder, parser = TreeBuilder(), expat.ParserCreate()

    def start(tag: str, attributes: dict[str, str]) -> None:
        builder.start(_local_name(tag), attributes | {"line": str(parser.CurrentLineNumber)})

    def end(tag: str) -> None:
        builder.end(_local_name(tag))

    def refuse_dtd(*_: object) -> None:
        # Entities of a DTD can expand without limit or read other files, and label files do not need a DTD.
        place = location(path, parser.CurrentLineNumber)
        raise LabelError(f"{place}: a document type declaration is not allowed; remove it")

    parser.StartElementHandler = start
    parser.EndElementHandler = end
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
    return builder.close()


@lru_cache(maxsize=1024)
def _local_name(tag: str) -> str:
    """Return a tag in lower case without the prefix of its namespace."""
    return tag.rpartition(":")[2].lower()


def line_of(element: Element) -> int:
    """Return the line number of an element of `parse_xml`, counted from 1."""
    return int(element.attrib["line"])
