"""Fonts for foreign text: which one draws it, and what is drawn where none can.

Owns that choice. Text in ASCII is drawn by the font that Pillow brings, the same everywhere. Other text is
drawn by a font of this machine that has all of it, and otherwise without accents, or as escapes: what a font
lacks is never left to it.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from functools import lru_cache
from typing import TYPE_CHECKING

from pipeline.console import printable

if TYPE_CHECKING:
    from PIL import ImageFont

    Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

#: What stands for a part that is left out.
ELLIPSIS = "…"
# Of many scripts each, as distributions of Linux, macOS and Windows call them; Pillow knows their folders.
_FILES = (
    "DejaVuSans.ttf",
    "NotoSans-Regular.ttf",
    "NotoSansCJK-Regular.ttc",
    "wqy-microhei.ttc",
    "DroidSansFallbackFull.ttf",
    "Arial Unicode.ttf",
    "Hiragino Sans GB.ttc",
    "AppleSDGothicNeo.ttc",
    "msyh.ttc",
    "malgun.ttf",
)
_NO_CHARACTER = "\uffff"  # Unicode promises that it is none


@lru_cache
def plain_font(size: int) -> Font:
    """Return the font that Pillow brings, which has the characters of ASCII and `ELLIPSIS`.

    Parameters
    ----------
    size : int
        Pixels.
    """
    from PIL import ImageFont

    return ImageFont.load_default(size)


def written(text: str, size: int) -> tuple[str, Font]:
    """Return foreign text as it can be drawn, and the font to draw it with.

    Parameters
    ----------
    text : str
        Of any script. Control characters, and what runs from right to left or joins its neighbours, which
        takes more than a font, become escapes.
    size : int
        Pixels.
    """
    composed = unicodedata.normalize("NFC", printable(text))
    if not composed.isascii() and all(map(_stands_alone, composed)):
        for font in _fonts(size):
            if all(_has(font, character) for character in {*composed, ELLIPSIS}):
                return composed, font
    return in_ascii(text), plain_font(size)


def in_ascii(text: str) -> str:
    """Return foreign text in the characters of ASCII: ``é`` as ``e``, and ``犬`` as an escape."""
    composed = unicodedata.normalize("NFC", printable(text))
    return "".join(
        character
        if character.isascii()
        else unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode()
        or character.encode("unicode_escape").decode()
        for character in composed
    )


def _stands_alone(character: str) -> bool:
    """Whether a character looks the same whatever its neighbours, and stands to their right."""
    is_mark = unicodedata.category(character).startswith("M")
    return not is_mark and unicodedata.bidirectional(character) not in ("R", "AL", "AN")


def _fonts(size: int) -> Iterator[Font]:
    yield plain_font(size)
    yield from filter(None, (_installed(file, size) for file in _FILES))


@lru_cache
def _installed(file: str, size: int) -> Font | None:
    from PIL import ImageFont

    try:
        return ImageFont.truetype(file, size, layout_engine=ImageFont.Layout.BASIC)
    except OSError:
        return None


def _has(font: Font, character: str) -> bool:
    """Whether a font has a picture of a character: all that it lacks look alike."""
    return bytes(font.getmask(character)) != bytes(font.getmask(_NO_CHARACTER))
