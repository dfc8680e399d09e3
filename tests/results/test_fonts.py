"""Which font draws foreign text, and what is drawn where none can."""

from __future__ import annotations

import pytest
from PIL import Image, ImageDraw, ImageFont

from pipeline.results import fonts
from pipeline.results.fonts import in_ascii, plain_font, written


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain-1.jpg", "plain-1.jpg"),
        ("é", "e"),
        ("e\u0301", "e"),  # as macOS writes it
        ("Äffchen", "Affchen"),
        ("ﬁ", "fi"),
        ("ß犬", "\\xdf\\u72ac"),
        ("line\nbreak\x1b", "line\\nbreak\\x1b"),
        ("gnp\u202egpj", "gnp\\u202egpj"),
        ("\ud800", "\\ud800"),
        ("😀", "\\U0001f600"),
    ],
)
def test_in_ascii(text: str, shown: str) -> None:
    assert in_ascii(text) == shown


def test_the_font_has_all_that_is_ever_drawn() -> None:
    font = ImageFont.load_default(16)
    assert isinstance(font, ImageFont.FreeTypeFont)
    unknown = bytes(font.getmask("\uffff"))
    for character in [*map(chr, range(33, 127)), "…"]:
        assert bytes(font.getmask(character)) != unknown, character


def test_written__ascii_by_the_font_that_is_the_same_everywhere() -> None:
    assert written("cat-1.jpg", 16) == ("cat-1.jpg", plain_font(16))
    assert written("a\nb", 16)[0] == "a\\nb"


@pytest.mark.parametrize("text", ["кот", "γάτα", "Łódź", "mixed кот.jpg"])
def test_written__by_a_font_of_this_machine_that_has_all_of_it(text: str) -> None:
    try:
        dejavu = ImageFont.truetype("DejaVuSans.ttf", 16, layout_engine=ImageFont.Layout.BASIC)
    except OSError:
        pytest.skip("no DejaVu Sans here")
    shown, font = written(text, 16)
    assert shown == text

    def picture(font: fonts.Font) -> bytes:
        sheet = Image.new("L", (200, 30))
        ImageDraw.Draw(sheet).text((0, 0), text, 255, font)
        return sheet.tobytes()

    assert picture(font) == picture(dejavu)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("קט", "\\u05e7\\u05d8"),  # from right to left
        ("قط", "\\u0642\\u0637"),
        ("का", "\\u0915\\u093e"),  # a vowel sign, which joins its letter
        ("q\u0307" * 2, "q\\u0307" * 2),  # marks could pile up beyond the line
        ("\ufdd0", "\\ufdd0"),  # in no font
    ],
)
def test_written__what_takes_more_than_a_font_is_escaped(text: str, shown: str) -> None:
    assert written(text, 16) == (shown, plain_font(16))


def test_written__without_such_a_font(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fonts, "_FILES", ("nowhere.ttf",))
    assert written("кот", 16) == (in_ascii("кот"), plain_font(16))
