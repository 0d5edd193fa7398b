"""Reads the ground truth of MOTChallenge: `gt/gt.txt` of a video, whose frames are images `img1/000001.jpg`.

    frame,id,x,y,width,height,flag,class,visibility
    1,1,912,484,97,109,1,1,1
    1,2,1338,418,167,379,0,8,0.5

The classes are named by `gt/labels.txt`, one name per line, or are those of MOT16, MOT17 and MOT20. In MOT15, columns 8
to 10 are -1 and all objects are pedestrians. A row with the flag 0 is a region that is ignored for every class. Tracks
are not used. A frame without rows is not in the file, so it counts as not labeled.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from detector.data.image_labels import EVERY_CLASS, BadRow, ImageLabels, LabelFormat, NamedRow
from detector.data.parsing.class_files import find_class_file, read_class_file
from detector.data.parsing.row_values import number, parse_row, shown
from detector.data.row_collector import RowError
from detector.errors import LabelError, location
from detector.files import read_text
from detector.images import IMAGE_SUFFIXES

_COLUMNS = (9, 10)
_CLASS_NAMES = (
    "pedestrian",
    "person on vehicle",
    "car",
    "bicycle",
    "motorbike",
    "non-motorized vehicle",
    "static person",
    "distractor",
    "occluder",
    "occluder on the ground",
    "occluder full",
    "reflection",
    "crowd",
)
"""Names of the classes of MOT16, MOT17 and MOT20 from 1 on."""


def _matches(lines: Sequence[str]) -> bool:
    """Return whether one of the first lines of a file is a row of MOTChallenge; its path is the better evidence."""
    return any(_values(line.lstrip("\ufeff").strip()) is not None for line in lines)


def _values(text: str) -> list[float] | None:
    """Return the numbers of a row; None if it is no row."""
    columns = text.split(",")
    values = [value for column in columns if (value := number(column)) is not None]
    is_row = len(values) == len(columns) and len(values) in _COLUMNS
    return values if is_row and _is_frame(values[0]) else None


def _is_frame(value: float) -> bool:
    """Return whether a number can be the number of a frame."""
    return value.is_integer() and 0 <= value < 10**9


def _read(path: Path) -> tuple[ImageLabels, ...]:
    """Read the ground truth of a video. The images are in the order of their first rows.

    Raises:
        InputError: the file cannot be read, or a row does not name its frame.
    """
    file = find_class_file([path.parent], "labels.txt")
    listed = _CLASS_NAMES if file is None else read_class_file(file)
    names = {float(i): name for i, name in enumerate(listed, start=1) if name} | {-1.0: _CLASS_NAMES[0]}
    frames: dict[int, tuple[int, list[NamedRow | BadRow]]] = {}
    for line, text in enumerate(read_text(path).split("\n"), start=1):
        if not text.strip():
            continue
        frame = number(text.partition(",")[0])
        if frame is None or not _is_frame(frame):
            problem = f"the row begins with {shown(text.partition(',')[0])}; expected the number of a frame"
            raise LabelError(f"{location(path, line)}: {problem}; write it, or remove the row")
        _, rows = frames.setdefault(int(frame), (line, []))
        rows.append(parse_row(lambda text: _parse(text, names), text.strip(), line, f"line {line}"))
    folder = path.parent.parent / "img1"
    images = {image.stem: image.name for image in sorted(folder.glob("*")) if image.suffix.lower() in IMAGE_SUFFIXES}
    stems = {frame: f"{frame:06d}" for frame in frames}
    return tuple(
        ImageLabels(path, line, f"../img1/{images.get(stems[frame], f'{stems[frame]}.jpg')}", tuple(rows))
        for frame, (line, rows) in frames.items()
    )


def _parse(text: str, names: Mapping[float, str]) -> NamedRow:
    """Return a row.

    Args:
        text: the row.
        names: number of a class → name.

    Raises:
        RowError: the row cannot be used.
    """
    values = _values(text)
    if values is None:
        raise RowError("malformed_row", f"the row is {shown(text)}; expected 9 or 10 numbers with commas between them")
    _, _, x, y, width, height, flag, class_id, *_ = values
    is_ignored = flag == 0
    if not is_ignored and class_id not in names:
        raise RowError("unknown_class", f"class {class_id:g} is not among the {len(names) - 1} class names")
    name = EVERY_CLASS if is_ignored else names[class_id]
    return NamedRow(None, name, (x, y, x + width, y + height), is_crowd=is_ignored)


FORMAT = LabelFormat("MOT text", "txt", _matches, _read, path_end="/gt/gt.txt")
"""Ground truth of MOTChallenge, one file per video."""
