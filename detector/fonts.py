"""Draws texts in any script: with Pillow's own font if it has all characters, else with system fonts that have them.

Pillow's own font has only a few letters beyond ASCII. So the usual font folders of Linux, macOS and Windows are
searched for a font with the characters of a text. All results are cached, since a video asks again for each frame.
"""

import os
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from PIL import ImageDraw, ImageFont

_PREFERRED = (
    # Latin, Greek, Cyrillic; some of them also Arabic and Hebrew
    "DejaVuSans", "NotoSans", "Arial", "LiberationSans", "SegoeUI", "Helvetica", "FreeSans",
    # Chinese, Japanese, Korean
    "NotoSansCJK", "NotoSansSC", "NotoSansJP", "NotoSansKR", "SourceHanSans", "PingFang", "HiraginoSansGB", "STHeiti",
    "msyh", "YuGoth", "meiryo", "malgun", "msgothic", "simsun", "AppleSDGothicNeo", "wqy", "DroidSansFallback",
    # Arabic, Hebrew, the scripts of India, Thai
    "NotoSansArabic", "NotoNaskhArabic", "GeezaPro", "tahoma", "NotoSansHebrew", "Nirmala", "NotoSansDevanagari",
    "Kohinoor", "NotoSansThai", "leelaw", "Thonburi",
    # many scripts in one font
    "ArialUnicode", "unifont",
)  # fmt: skip
"""Beginnings of the names of font files, the best first; compared without case, spaces, hyphens and underscores."""

_STYLES = ("bold", "italic", "oblique", "mono", "serif", "condensed", "light", "thin", "black")
"""Parts of the name of a font file that has another style. A plain font is preferred."""

_SUFFIXES = (".ttf", ".otf", ".ttc", ".otc")
_MAX_FILES = 2000
"""Largest number of font files that are considered."""

_SAMPLE_SIZE = 24
"""Font size at which the glyphs of a font are compared, in pixels."""

_NO_CHARACTER = "\uffff"
"""A code point that is never a character. Its glyph is the sign for a missing character."""

_INVISIBLE = ("Mn", "Me", "Cf", "Zs", "Cc")
"""Unicode categories of characters without an own glyph: combining marks, formatting characters, spaces."""


class Run(NamedTuple):
    """A piece of a text that one font can draw.

    Attributes:
        text: the characters.
        path: path of the font file; "": Pillow's own font.
    """

    text: str
    path: str


class TextLayout(NamedTuple):
    """A text with the positions of its runs, in pixels.

    Attributes:
        runs: font, text and x of the start of each run; the baseline is at y = 0.
        box: left, top, right and bottom of the ink.
    """

    runs: tuple[tuple[ImageFont.FreeTypeFont, str, float], ...]
    box: tuple[float, float, float, float]

    @property
    def size(self) -> tuple[float, float]:
        """Width and height of the ink."""
        left, top, right, bottom = self.box
        return right - left, bottom - top


@lru_cache(maxsize=4096)
def layout_text(text: str, size: int) -> TextLayout:
    """Return the layout of a text on one line; characters that no font has are drawn as the sign for a missing one.

    Args:
        text: the text.
        size: font size in pixels.
    """
    runs = split_runs(text) or (Run(text, ""),)
    placed, boxes, x = [], [], 0.0
    for run in runs:
        font = load_font(run.path, size)
        left, top, right, bottom = font.getbbox(run.text, anchor="ls", direction=_direction(font))
        placed.append((font, run.text, x))
        boxes.append((x + left, top, x + right, bottom))
        x += font.getlength(run.text, direction=_direction(font))
    lefts, tops, rights, bottoms = zip(*boxes, strict=True)
    return TextLayout(tuple(placed), (min(lefts), min(tops), max(rights), max(bottoms)))


def draw_text(pen: ImageDraw.ImageDraw, xy: tuple[float, float], layout: TextLayout, fill: str) -> None:
    """Draw a text: its ink starts at the x of `xy`, and its baseline is at the y of `xy`."""
    for font, text, x in layout.runs:
        pen.text(
            (xy[0] + x - layout.box[0], xy[1]), text, font=font, fill=fill, anchor="ls", direction=_direction(font)
        )


@lru_cache(maxsize=4096)
def split_runs(text: str) -> tuple[Run, ...] | None:
    """Split a text into runs that one font each can draw, and return the runs from left to right.

    If one font has all characters, the text is one run. Else it is split at spaces. None: no font on this machine has
    the characters of one of the words.
    """
    if (path := _font_file(text)) is not None:
        return (Run(text, path),)
    words = text.split(" ")
    paths = [_font_file(word) for word in words]
    if None in paths:
        return None
    runs = groupby(zip(words, paths, strict=True), key=lambda pair: pair[1])
    pieces = [(" ".join(word for word, _ in pairs), path or "") for path, pairs in runs]
    last = len(pieces) - 1
    return tuple(Run(text + " " * (index < last), path) for index, (text, path) in enumerate(pieces))


@lru_cache(maxsize=32)
def load_font(path: str, size: int) -> ImageFont.FreeTypeFont:
    """Return the font in the file `path`, or Pillow's own font if `path` is empty; `size` is in pixels."""
    font = ImageFont.truetype(path, size) if path else ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont)  # every build of Pillow has FreeType, unless built without it
    return font


def _direction(font: ImageFont.FreeTypeFont) -> str | None:
    """Return the direction of a line of text for Pillow: "ltr", or None if the font is not laid out with Raqm.

    With Raqm, Pillow joins Arabic letters, and orders words from right to left inside a line from left to right.
    Without it, the letters are drawn one by one from left to right. Pillow's own font is never laid out with Raqm.
    """
    return "ltr" if font.layout_engine == ImageFont.Layout.RAQM else None


@lru_cache(maxsize=4096)
def _font_file(text: str) -> str | None:
    """Return the path of the first font that has all characters of `text`, "" for Pillow's own font, None for none."""
    if text.isascii():
        return ""
    visible = frozenset(char for char in text if unicodedata.category(char) not in _INVISIBLE)
    return next((path for path in ("", *_font_files()) if all(_has_glyph(path, char) for char in visible)), None)


@lru_cache(maxsize=65536)
def _has_glyph(path: str, char: str) -> bool:
    """Return True if a font has a glyph for a visible character, False also if the font cannot be read."""
    try:
        font = load_font(path, _SAMPLE_SIZE)
        glyph, missing = (font.getmask(sign) for sign in (char, _NO_CHARACTER))
    except (OSError, ValueError):  # damaged, or a font of color bitmaps
        return False
    return glyph.size != missing.size or bytes(glyph) != bytes(missing)


@lru_cache(maxsize=1)
def _font_files() -> Sequence[str]:
    """Return the paths of the fonts of this machine, the best first."""
    found: list[str] = []
    for folder in _font_folders():
        for root, folders, names in os.walk(folder):
            folders.sort()
            found += [f"{root}/{name}" for name in sorted(names) if name.lower().endswith(_SUFFIXES)]
            if len(found) >= _MAX_FILES:
                break
    return sorted(dict.fromkeys(found[:_MAX_FILES]), key=_rank)


def _rank(path: str) -> tuple[int, int, str]:
    """Return the sort key of a font file: its place in `_PREFERRED`, the number of other styles, and its name."""
    name = Path(path).stem.lower().translate({ord(sign): None for sign in " -_"})
    place = next((index for index, start in enumerate(_PREFERRED) if name.startswith(start.lower())), len(_PREFERRED))
    return place, sum(style in name for style in _STYLES), path


def _font_folders() -> list[str]:
    """Return the folders in which Linux, macOS and Windows keep fonts; those of other systems do not exist."""
    env = os.environ
    home = env.get("HOME") or env.get("USERPROFILE") or "/"
    data = [env.get("XDG_DATA_HOME", f"{home}/.local/share"), *env.get("XDG_DATA_DIRS", "").split(os.pathsep)]
    data += ["/usr/local/share", "/usr/share"]
    return [
        *(f"{folder}/fonts" for folder in data if folder),
        f"{home}/.fonts",
        f"{home}/Library/Fonts",
        "/Library/Fonts",
        "/System/Library/Fonts",
        f"{env.get('LOCALAPPDATA', home)}/Microsoft/Windows/Fonts",
        f"{env.get('WINDIR', 'C:/Windows')}/Fonts",
    ]
