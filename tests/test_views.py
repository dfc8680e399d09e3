from __future__ import annotations

import re

import pytest

from pipeline.errors import ParamsError
from pipeline.features.layout import VIEW_TYPE
from pipeline.params import parse_params
from pipeline.views import VIEWS


def views_of(text: str) -> tuple[str, ...]:
    return parse_params(f"extract: {{views: {text}}}\n".encode()).extract.views


def test_extract_views__one_order_whatever_that_of_the_file() -> None:
    assert parse_params(b"").extract.views == ("center",)
    assert views_of("[hflip, center]") == views_of("[center, hflip]") == ("center", "hflip")
    assert views_of(f"[{', '.join(reversed(VIEWS))}]") == VIEWS


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[hflip]", "extract.views: expected center among them"),
        ("[]", "found none"),
        ("[center, center]", "extract.views: each view may be named once, found center, center."),
        ("[center, flip]", "extract.views[1]: expected one of center, hflip, top-left"),
        ("center", "extract.views: expected a list, found 'center'."),
    ],
)
def test_extract_views__refused(text: str, words: str) -> None:
    with pytest.raises(ParamsError, match=re.escape(words)):
        views_of(text)


def test_head_views__a_slip_is_named() -> None:
    with pytest.raises(ParamsError, match=re.escape("heads.a.views: expected one of center, average, stack")):
        parse_params(b"heads: {a: {estimator: logreg, views: mean}}\n")


def test_views__fit_into_a_row_key() -> None:
    assert max(map(len, VIEWS)) <= VIEW_TYPE.itemsize
