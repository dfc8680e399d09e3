"""The sample: balanced, chosen by content, stable."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from pipeline.dataset.sampling import sample
from pipeline.dataset.sources.walk import Candidate

Image = tuple[Candidate, str]


def image(name: str, label: str, sha256: str, split: str = "") -> Image:
    return Candidate(name, Path(name), label, split), sha256


def images(label: str, count: int, split: str = "") -> list[Image]:
    """Make images whose hashes, hexadecimal numbers, run against the order of their names."""
    return [
        image(f"{label}{split}{i:03}", label, f"{count - i:05x}{label}{split}", split) for i in range(count)
    ]


def labels(found: Sequence[Candidate]) -> dict[str, int]:
    return dict(Counter(candidate.label for candidate in found))


@pytest.mark.parametrize(
    ("counts", "limit", "expected"),
    [
        ({"a": 50, "b": 50}, 20, {"a": 10, "b": 10}),
        ({"a": 50, "b": 50, "c": 50}, 20, {"a": 6, "b": 7, "c": 7}),
        ({"a": 50, "b": 3, "c": 50}, 20, {"a": 8, "b": 3, "c": 9}),
        ({"a": 5, "b": 3}, 20, {"a": 5, "b": 3}),
    ],
)
def test_as_many_of_each_class_as_can_be(
    counts: dict[str, int], limit: int, expected: dict[str, int]
) -> None:
    found = sample([each for label, count in counts.items() for each in images(label, count)], limit)
    assert labels(found) == expected


def test_the_smallest_hashes_of_each_class() -> None:
    found = sample(images("a", 50) + images("b", 50), 6)
    assert {candidate.path for candidate in found} == {"a049", "a048", "a047", "b049", "b048", "b047"}


def test_equal_bytes_count_once() -> None:
    copies = [image(f"copy{index}", "a", "00000") for index in range(5)]
    found = sample(copies + images("a", 10) + images("b", 10), 6)
    assert labels(found) == {"a": 3, "b": 3}
    assert sum(candidate.path.startswith("copy") for candidate in found) == 1


def test_growth_displaces_few() -> None:
    small = {c.path for c in sample(images("a", 100), 40)}
    grown = {c.path for c in sample([*images("a", 100), image("new", "a", "00000")], 40)}
    assert len(small - grown) == 1
    assert grown - small == {"new"}


def test_own_splits_keep_their_proportions() -> None:
    source = (
        images("a", 80, "train")
        + images("a", 20, "test")
        + images("b", 80, "train")
        + images("b", 20, "test")
    )
    found = sample(source, 20)
    assert Counter((c.label, c.split) for c in found) == {
        ("a", "train"): 8, ("a", "test"): 2, ("b", "train"): 8, ("b", "test"): 2,
    }  # fmt: skip
