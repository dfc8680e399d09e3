"""Predictions as text, whatever the names of files and labels hold."""

from __future__ import annotations

import csv
import io
import json
import os

import pytest

from pipeline.results.formats import FORMATS, as_csv, as_json, as_table
from pipeline.results.predict import Prediction

CAT = Prediction("photos/a.jpg", "cat", {"cat": 0.625, "dog": 0.25, "owl": 0.09375, "ant": 0.03125})
DOG = Prediction("b.jpg", "dog", {"dog": 0.5, "cat": 0.5})
SVM = Prediction("c.jpg", "cat", None)
BAD = Prediction("d.jpg", None, None, "unsupported_format")
UNSURE = Prediction("e.jpg", "unsure", {"dog": 0.5625, "cat": 0.4375}, best="dog")


def read_csv(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text, newline="")))


def test_table() -> None:
    assert as_table([CAT, DOG, SVM, BAD], None).splitlines() == [
        "image         label  probabilities",
        "------------  -----  -------------------------------",
        "photos/a.jpg  cat    cat 0.625, dog 0.250, owl 0.094",
        "b.jpg         dog    dog 0.500, cat 0.500",
        "c.jpg         cat    -",
        "d.jpg         -      unsupported_format",
    ]


def test_json() -> None:
    assert json.loads(as_json([CAT, SVM, BAD], None)) == [
        {"path": CAT.path, "label": "cat", "probabilities": CAT.probabilities},
        {"path": "c.jpg", "label": "cat", "probabilities": None},
        {"path": "d.jpg", "label": None, "probabilities": None, "error": "unsupported_format"},
    ]
    assert json.loads(as_json([UNSURE], 1)) == [
        {"path": "e.jpg", "label": "unsure", "probabilities": {"dog": 0.5625}, "best": "dog"}
    ]
    third = Prediction("a", "x", {"x": 1 / 3, "y": 2 / 3})
    assert json.loads(as_json([third], None))[0]["probabilities"] == third.probabilities  # to the last bit


def test_csv() -> None:
    assert as_csv([CAT, SVM, BAD], None).splitlines() == [
        "path,label,error,p(ant),p(cat),p(dog),p(owl)",
        "photos/a.jpg,cat,,0.03125,0.625,0.25,0.09375",
        "c.jpg,cat,,,,,",
        "d.jpg,,unsupported_format,,,,",
    ]


def test_unsure__in_table_and_csv() -> None:
    assert as_table([UNSURE], None).splitlines()[-1].split("  ") == [
        "e.jpg",
        "unsure",
        "dog 0.562, cat 0.438",
    ]
    assert as_csv([UNSURE], None).splitlines()[-1] == "e.jpg,unsure,,0.4375,0.5625"


def test_csv__classes_called_like_the_other_columns() -> None:
    prediction = Prediction("a.jpg", "path", {"path": 0.75, "label": 0.25, "error": 0.0})
    assert read_csv(as_csv([prediction], None)) == [
        {
            "path": "a.jpg", "label": "path", "error": "",
            "p(error)": "0", "p(label)": "0.25", "p(path)": "0.75",
        }
    ]  # fmt: skip


def test_nothing_predicted() -> None:
    assert as_table([], None).splitlines()[0] == "image  label  probabilities"
    assert json.loads(as_json([], None)) == []
    assert as_csv([], None) == "path,label,error"


@pytest.mark.parametrize("top", [1, 2, 9])
def test_top(top: int) -> None:
    assert CAT.probabilities is not None
    best = dict(list(CAT.probabilities.items())[:top])
    shown = ", ".join(f"{label} {p:.3f}" for label, p in best.items())
    assert as_table([CAT], top).splitlines()[-1].endswith(f"  cat    {shown}")
    assert json.loads(as_json([CAT], top))[0]["probabilities"] == best
    (row,) = read_csv(as_csv([CAT], top))
    assert {label: float(row[f"p({label})"]) for label in CAT.probabilities if row[f"p({label})"]} == best


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "＝", "＋", "－", "＠"])
def test_csv__formulas_become_text(start: str) -> None:
    name = f'{start}HYPERLINK("http://x","y").jpg'
    (row,) = read_csv(as_csv([Prediction(name, f"{start}1", {f"{start}1": 1.0})], None))
    assert (row["path"], row["label"], row[f"p({start}1)"]) == (f"'{name}", f"'{start}1", "1")


def test_csv__plain_names_are_left_alone() -> None:
    for name in ("a,b.jpg", 'a"b.jpg', "a=b.jpg", "grün ö 猫.jpg", "Screenshot 1.23\u202fPM.png", "a'b.jpg"):
        (row,) = read_csv(as_csv([Prediction(name, "x", None)], None))
        assert row["path"] == name


@pytest.mark.parametrize("form", FORMATS)
def test_control_characters_reach_no_terminal(form: str) -> None:
    name = "a\x1b[2Jb\nc\rd\te\x7f\x9bf\0.jpg"
    text = FORMATS[form]([Prediction(name, "x\x1b]0;y\x07", {"x\x1b]0;y\x07": 1.0})], None)
    assert {character for character in text if ord(character) < 32 or 127 <= ord(character) < 160} <= {"\n"}
    if form == "json":
        assert json.loads(text)[0]["path"] == name
    else:
        assert len(text.splitlines()) == {"table": 3, "csv": 2}[form]
        assert r"a\x1b[2Jb\nc\rd\te\x7f\x9bf\x00.jpg" in text


def test_csv__a_leading_tab_or_line_end_starts_no_formula() -> None:
    for start in "\t\r\n":
        (row,) = read_csv(as_csv([Prediction(f"{start}=1+1", "x", None)], None))
        assert row["path"] == f"{start!r}"[1:-1] + "=1+1"


@pytest.mark.parametrize("form", FORMATS)
def test_names_that_are_not_utf8(form: str) -> None:
    name = os.fsdecode(b"caf\xe9.jpg")
    text = FORMATS[form]([Prediction(name, "x", {"x": 1.0})], None)
    text.encode("utf-8")  # any stream and any file takes it
    assert r"caf\udce9.jpg" in text
    if form == "json":  # the same file again
        assert os.fsencode(json.loads(text)[0]["path"]) == b"caf\xe9.jpg"
