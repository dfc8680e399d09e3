from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from pipeline.results.pictures import Picture
from pipeline.results.tiles import SIDE, Tile, drawn

WHITE = (255, 255, 255)
LEFT, GAP = 24, 16


def plain(colour: tuple[int, int, int]) -> Picture:
    return Picture(np.full((SIDE, SIDE, 3), colour, np.uint8), "")


def sheet_of(title: str, tiles: list[Tile]) -> npt.NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(drawn(title, tiles))))


def test_drawn__pictures_stand_in_rows_in_their_order() -> None:
    colours = [(10 * number, 0, 200) for number in range(7)]
    sheet = sheet_of("title", [Tile(plain(colour), ("label",), "name") for colour in colours])
    corners = []
    for colour in colours:
        y, x = np.nonzero((sheet == colour).all(axis=2))
        assert [int(np.ptp(y)) + 1, int(np.ptp(x)) + 1, len(y)] == [SIDE, SIDE, SIDE**2]
        corners.append((y.min(), x.min()))
    assert corners == sorted(corners)
    assert len({y for y, _ in corners}) == 2
    # seven of four a row
    assert sheet.shape[1] == 2 * LEFT + 4 * SIDE + 3 * GAP


def test_drawn__same_bytes_each_time_and_nothing_but_the_picture() -> None:
    tiles = [Tile(plain((1, 2, 3)), ("cat", "-> dog, 99.0%"), "a.jpg")]
    assert drawn("title", tiles) == drawn("title", tiles)
    assert Image.open(io.BytesIO(drawn("title", tiles))).info == {}


@pytest.mark.parametrize(
    "text",
    [
        "W" * 255,
        "i" * 255,
        "犬" * 80,
        "a\nb\tc" * 30,
        "\u202e" * 90,
        "",
        "a" * 255 + ".jpg",
        "%s{}\\<b>&amp;",
    ],
    ids=["wide", "narrow", "foreign", "control", "bidirectional", "nothing", "long", "code"],
)
def test_drawn__no_text_leaves_its_tile(text: str) -> None:
    tiles = [Tile(plain((9, 9, 9)), (text, text), text)] * 3
    sheet = sheet_of("t", tiles)
    assert sheet.shape == sheet_of("t", [Tile(plain((9, 9, 9)), ("cat", "dog"), "a.jpg")] * 3).shape
    for column in (1, 2):
        edge = LEFT + column * (SIDE + GAP)
        assert (sheet[:, edge - GAP + 1 : edge - 1] == WHITE).all()
    assert (sheet[:, -LEFT + 1 :] == WHITE).all()


def test_drawn__a_picture_that_cannot_be_had_is_a_grey_tile_with_the_reason() -> None:
    sheet = sheet_of("t", [Tile(Picture(None, "vanished"), ("cat",), "a.jpg")])
    other = sheet_of("t", [Tile(Picture(None, "truncated"), ("cat",), "a.jpg")])
    there = sheet_of("t", [Tile(plain((213, 215, 218)), ("cat",), "a.jpg")])
    differs = (sheet != there).any(axis=2)
    y, x = np.nonzero(differs)
    assert differs.any()
    assert len(y) < SIDE**2 / 10
    assert (x >= LEFT).all()
    assert (x < LEFT + SIDE).all()
    assert np.ptp(y) < SIDE / 2
    assert (sheet != other).any()


def test_drawn__a_long_title_is_broken_into_lines() -> None:
    tile = Tile(plain((9, 9, 9)), ("cat",), "a.jpg")
    one, many = sheet_of("word", [tile]), sheet_of("word " * 20, [tile])
    assert many.shape[0] > one.shape[0]
    assert many.shape[1] == one.shape[1]
    assert (many[:, -LEFT + 1 :] == WHITE).all()


def test_drawn__nothing_to_draw_is_a_title() -> None:
    sheet = sheet_of("logreg: no mistake on 68 images", [])
    assert (sheet != WHITE).any()


def test_drawn__names_keep_their_ends() -> None:
    first, same, other = (
        sheet_of("t", [Tile(plain((9, 9, 9)), ("cat",), f"{'x' * 100}{middle}{'y' * 100}{end}")])
        for middle, end in (("1", "1.jpg"), ("2", "1.jpg"), ("1", "2.jpg"))
    )
    assert (first == same).all()
    assert (first != other).any()
