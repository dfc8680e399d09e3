"""Pictures with captions, drawn as one PNG.

Owns the drawing. Captions are foreign text: `pipeline.results.fonts` says how they can be written.
"""

from __future__ import annotations

import io
import math
from bisect import bisect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.results.fonts import ELLIPSIS, plain_font, written
from pipeline.results.pictures import Picture

if TYPE_CHECKING:
    from PIL import ImageDraw

    from pipeline.results.fonts import Font

#: Pixels of a picture's side.
SIDE = 176
_GAP, _MARGIN = 16, 24
# A little wider than high, as screens are.
_COLUMNS_PER_ROW = 1.4

_TITLE, _LABEL, _NAME = 20, 16, 13  # pixels
_LINE, _BASE = 1.3, 1.0  # of a font's size
_PAPER, _INK, _FAINT, _NO_PICTURE = "#ffffff", "#1a1a1a", "#5f6368", "#d5d7da"


@dataclass(frozen=True, slots=True, eq=False)
class Tile:
    """A picture with what is written below it.

    Attributes
    ----------
    picture : Picture
        Of `SIDE` × `SIDE` pixels, or none.
    labels : tuple of str
        What is said of it, a line each.
    name : str
        Which it is; fainter.
    """

    picture: Picture
    labels: tuple[str, ...]
    name: str


def drawn(title: str, tiles: Sequence[Tile]) -> bytes:
    """Draw tiles in rows, below a title.

    Parameters
    ----------
    title : str
        Broken into lines where it is wider than the rows.
    tiles : sequence of Tile
        Each with as many labels as the others. Lines that are too wide lose their middle.

    Returns
    -------
    bytes
        A PNG. The same tiles give the same bytes.
    """
    from PIL import Image, ImageDraw

    columns = max(1, math.ceil(math.sqrt(len(tiles) * _COLUMNS_PER_ROW)))
    width = columns * SIDE + (columns - 1) * _GAP
    shown, font = written(title, _TITLE)
    titles = list(_wrapped(shown, font, width))
    labels = max((len(tile.labels) for tile in tiles), default=0)
    top = _MARGIN + _height(_TITLE) * len(titles) + _GAP
    row_height = SIDE + _GAP // 2 + _height(_LABEL) * labels + _height(_NAME) + _GAP
    rows = math.ceil(len(tiles) / columns)
    sheet = Image.new("RGB", (width + 2 * _MARGIN, top + row_height * rows + _MARGIN - _GAP), _PAPER)
    pen = ImageDraw.Draw(sheet)
    for number, line in enumerate(titles):
        _write(pen, (_MARGIN, _MARGIN + _height(_TITLE) * number), line, _TITLE, font)
    for number, tile in enumerate(tiles):
        x = _MARGIN + number % columns * (SIDE + _GAP)
        y = top + number // columns * row_height
        if tile.picture.pixels is None:
            _draw_fault(pen, x, y, tile.picture.fault)
        else:
            sheet.paste(Image.fromarray(tile.picture.pixels), (x, y))
        y += SIDE + _GAP // 2
        for label in tile.labels:
            _caption(pen, (x, y), label, _LABEL)
            y += _height(_LABEL)
        _caption(pen, (x, y), tile.name, _NAME, _FAINT)
    png = io.BytesIO()
    sheet.save(png, "PNG")
    return png.getvalue()


def _caption(pen: ImageDraw.ImageDraw, place: tuple[int, int], text: str, size: int, ink: str = _INK) -> None:
    shown, font = written(text, size)
    _write(pen, place, _shortened(shown, font, SIDE), size, font, ink)


def _write(
    pen: ImageDraw.ImageDraw, place: tuple[int, int], line: str, size: int, font: Font, ink: str = _INK
) -> None:
    """Write a line below `place`, on the same base whatever the font."""
    x, y = place
    base = round(size * _BASE)
    pen.text((x, y + base), line, ink, font, anchor="ls")


def _draw_fault(pen: ImageDraw.ImageDraw, x: int, y: int, fault: str) -> None:
    font = plain_font(_NAME)
    pen.rectangle((x, y, x + SIDE - 1, y + SIDE - 1), _NO_PICTURE)
    for place, line in ((-0.5, "no picture:"), (0.5, _shortened(fault, font, SIDE - _GAP))):
        centre = (x + SIDE / 2, y + SIDE / 2 + place * _height(_NAME))
        pen.text(centre, line, _INK, font, anchor="mm")


def _wrapped(text: str, font: Font, width: int) -> Iterator[str]:
    """Break text between words."""
    line = ""
    for word in text.split():
        longer = f"{line} {word}".strip()
        if line and font.getlength(longer) > width:
            yield line
            longer = word
        line = _shortened(longer, font, width)
    yield line


def _shortened(text: str, font: Font, width: int) -> str:
    """Cut out the middle of text that is too wide, so that its end, which tells most names apart, stays."""
    if len(text) <= width and font.getlength(text) <= width:
        return text
    most = range(min(len(text), width))  # no character is narrower than a pixel
    fitting = bisect(most, width, key=lambda count: math.ceil(font.getlength(_without_middle(text, count))))
    return _without_middle(text, fitting - 1)


def _without_middle(text: str, kept: int) -> str:
    """Keep so many characters, half of them from either end."""
    return f"{text[: kept // 2]}{ELLIPSIS}{text[len(text) - (kept - kept // 2) :]}"


def _height(size: int) -> int:
    return round(size * _LINE)
