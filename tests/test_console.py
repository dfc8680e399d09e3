from __future__ import annotations

import io
import sys

import pytest

from pipeline import console
from pipeline.console import counted, note, printable, progress, speaking, table, warn


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cat photo.jpg", "cat photo.jpg"),
        ("Größe 猫 🐈 €", "Größe 猫 🐈 €"),
        ("a\nb\r\tc\0", r"a\nb\r\tc\x00"),
        ("\x1b[2J\x07\x7f\x9b", r"\x1b[2J\x07\x7f\x9b"),
        ("\udcff", r"\udcff"),  # a byte that is not UTF-8, as Python hands it over
        ("\u202egpj.exe", r"\u202egpj.exe"),  # would read backwards
        ("\u2028\u200b\xa0\ufeff", r"\u2028\u200b\xa0\ufeff"),
        ("\U000e0001", r"\U000e0001"),
        ("", ""),
        ("back\\slash", "back\\slash"),
    ],
)
def test_printable(text: str, expected: str) -> None:
    assert printable(text) == expected
    assert printable(expected) == expected
    assert expected.isprintable()
    expected.encode("utf-8")


def test_note_and_warn__go_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    note("one")
    warn("two")
    assert capsys.readouterr() == ("", "one\nwarning: two\n")


# Tables


def test_table__alignment() -> None:
    assert table(("head", "accuracy", "n"), [("logreg", "0.9", "150"), ("k", "0.8125", "9")]).split("\n") == [
        "head    accuracy    n",
        "------  --------  ---",
        "logreg       0.9  150",
        "k         0.8125    9",
    ]


def test_table__left_columns_and_no_trailing_spaces() -> None:
    assert table(("a", "b"), [("1", "long"), ("22", "")], left=2).split("\n") == [
        "a   b",
        "--  ----",
        "1   long",
        "22",
    ]


def test_table__no_rows() -> None:
    assert table(("path", "n"), []) == "path  n\n----  -"


def test_table__control_characters_cannot_break_it() -> None:
    text = table(("path", "n"), [("a\nb\x1b[2J", "1")])
    assert text.split("\n")[2] == r"a\nb\x1b[2J  1"


def test_table__wide_characters_are_two_columns() -> None:
    lines = table(("label", "n"), [("猫", "1"), ("dog", "2")]).split("\n")
    assert lines[2:] == ["猫     1", "dog    2"]


def test_table__ragged_row_is_a_programming_error() -> None:
    with pytest.raises((ValueError, IndexError)):
        table(("a", "b"), [("1",)])


# Progress


class Clock:
    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(console, "time", made)
    return made


def test_progress__plain_lines_now_and_then(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with progress("extract", 100) as advance:
        for _ in range(10):
            clock.now += 4
            advance(10)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.split("\n") == [
        "extract: 30/100 images, 2.5/s, 28 s left",
        "extract: 60/100 images, 2.5/s, 16 s left",
        "extract: 90/100 images, 2.5/s, 4 s left",
        "extract: 100 images in 40.0 s",
        "",
    ]


def test_progress__nothing_done_yet(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with progress("extract", 100) as advance:
        clock.now += 20
        advance(0)
    assert capsys.readouterr().err.splitlines()[0] == "extract: 0/100 images, 0.0/s"


def test_progress__quick_work_is_one_line(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with progress("check", 3, unit="files") as advance:
        advance(3)
    assert capsys.readouterr().err == "check: 3 files in 0.0 s\n"


def test_progress__one_is_not_several(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    for unit in ("images", "MB"):
        with progress("check", 1, unit) as advance:
            advance(1)
    assert capsys.readouterr().err == "check: 1 image in 0.0 s\ncheck: 1 MB in 0.0 s\n"


def test_progress__failure_claims_nothing(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    def work() -> None:
        with progress("extract", 3):
            raise OSError

    with pytest.raises(OSError, match=r"^$"):
        work()
    assert capsys.readouterr().err == ""


def terminal(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """Have stderr be a terminal, from within the test: before it pytest puts its own there."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    made = Terminal()
    monkeypatch.setattr(sys, "stderr", made)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.delenv("NO_COLOR", raising=False)
    return made


def work() -> None:
    with progress("extract", 4) as advance:
        advance(1)
        advance(3)


def test_progress__bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = terminal(monkeypatch)
    work()
    assert "extract" in shown.getvalue()
    assert "4/4" in shown.getvalue()
    assert "\x1b[" in shown.getvalue()


@pytest.mark.parametrize(("plain", "no_color"), [(True, ""), (False, "1")])
def test_progress__plain_on_a_terminal(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, plain: bool, no_color: str
) -> None:
    shown = terminal(monkeypatch)
    monkeypatch.setenv("NO_COLOR", no_color)
    with speaking(plain=plain):
        work()
    assert shown.getvalue() == "extract: 4 images in 0.0 s\n"


def test_speaking__quiet_says_nothing_and_ends_with_the_block(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        with speaking(quiet=True):
            note("one")
            warn("two")
            work()
            raise OSError

    with pytest.raises(OSError, match=r"^$"):
        fail()
    assert capsys.readouterr() == ("", "")
    note("three")
    assert capsys.readouterr().err == "three\n"


def test_counted() -> None:
    assert counted(1, "image") == "1 image"
    assert counted(2, "image") == "2 images"
    assert counted(0, "exact copy", "exact copies") == "0 exact copies"


def test_table__the_rule_stands_under_its_headings() -> None:
    laid = table(("", "seconds", ""), [("a long name", "1.5", "x")]).splitlines()
    assert laid == ["             seconds", "             -------", "a long name      1.5  x"]
