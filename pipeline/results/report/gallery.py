"""Which images the page shows, and in what order: cell by cell of the confusion matrix, the odd ones first.

Owns the choice where there are more images than a page should hold.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from pipeline.dataset.manifest import ImageRow
from pipeline.results.report.answers import Answers

# Thumbnails of a page: 1,000 images are shown whole, and it stays below 5 MB.
_MOST = 1200
_MISTAKES = 600
_LEAST_CERTAIN = 100
#: Entries of the lists of mistakes and of uncertain images.
LISTED = 24
# Larger matrices fit no screen; their confusions are listed instead.
_MOST_CLASSES = 30
_MOST_LINES = 100
_SHADES = 9


@dataclass(frozen=True)
class Entry:
    """An image with what was said of it.

    Attributes
    ----------
    number : int
        Among the answers; what the page calls its picture.
    image : ImageRow
    predicted : str
        The label that it was given.
    certainty : str
        How sure of it the head was; empty where it does not say.
    picture : str or None
        As a ``data:`` address.
    """

    number: int
    image: ImageRow
    predicted: str
    certainty: str
    picture: str | None


@dataclass(frozen=True)
class Cell:
    """Images of one class that were given one label.

    Attributes
    ----------
    name : str
        Under which the page links to it.
    actual, predicted : str
        Labels.
    count : int
        How many there are.
    shade : int
        From 0 to 9, their share among all of the class.
    entries : list of Entry
        Those that are shown.
    """

    name: str
    actual: str
    predicted: str
    count: int
    shade: int
    entries: list[Entry]

    @property
    def right(self) -> bool:
        """Whether it lies on the diagonal."""
        return self.actual == self.predicted


@dataclass(frozen=True)
class Gallery:
    """All that is shown of images.

    Attributes
    ----------
    classes : tuple of str
        Labels.
    matrix : list of list of Cell
        Own labels down, given ones across; empty where there are too many classes.
    lines : list of Cell
        The confusions, most frequent first, where there is no matrix.
    cells : list of Cell
        All that hold images and can be reached.
    mistakes, least_certain : list of Entry
        The surest mistakes; the least certain images.
    """

    classes: tuple[str, ...]
    matrix: list[list[Cell]]
    lines: list[Cell]
    cells: list[Cell]
    mistakes: list[Entry]
    least_certain: list[Entry]


def chosen(answers: Answers) -> list[int]:
    """Return the places of the images to be shown, ascending: odd ones, then some of the others evenly."""
    n = len(answers.y)
    if n <= _MOST:
        return list(range(n))
    first = {*answers.mistakes[:_MISTAKES], *answers.least_certain[:_LEAST_CERTAIN]}
    others = [place for place in range(n) if place not in first]
    evenly = np.linspace(0, len(others) - 1, _MOST - len(first)).round().astype(int).tolist()
    return sorted(first | {others[place] for place in evenly})


def gallery(answers: Answers, shown: list[int], pictures: Mapping[str, str]) -> Gallery:
    """Lay out what is shown.

    Parameters
    ----------
    answers : Answers
    shown : list of int
        See `chosen`.
    pictures : mapping of str to str
        For the hash of an image, its picture (`thumbnails`).
    """
    classes, codes = answers.predictions.classes, answers.predictions.codes

    def entry(place: int) -> Entry:
        image = answers.images[place]
        return Entry(
            place, image, classes[codes[place]], answers.said_certainty(place), pictures.get(image.sha256)
        )

    k = len(classes)
    counts = np.zeros((k, k), np.int64)
    np.add.at(counts, (answers.y, codes), 1)
    of_class = np.maximum(counts.sum(axis=1), 1)
    entries: dict[tuple[int, int], list[Entry]] = {}
    for place in sorted(shown, key=lambda place: (-answers.certainty[place], place)):
        entries.setdefault((int(answers.y[place]), int(codes[place])), []).append(entry(place))

    def cell(actual: int, predicted: int) -> Cell:
        count = int(counts[actual, predicted])
        share = count / of_class[actual]
        return Cell(
            name=f"cell-{actual}-{predicted}",
            actual=classes[actual],
            predicted=classes[predicted],
            count=count,
            shade=0 if count == 0 else 1 + round(share * (_SHADES - 1)),
            entries=entries.get((actual, predicted), []),
        )

    matrix: list[list[Cell]] = []
    lines: list[Cell] = []
    if k <= _MOST_CLASSES:
        matrix = [[cell(actual, predicted) for predicted in range(k)] for actual in range(k)]
        cells = [each for row in matrix for each in row if each.count]
    else:
        wrong = [(int(a), int(p)) for a, p in np.argwhere(counts) if a != p]
        wrong.sort(key=lambda pair: (-counts[pair], pair))
        lines = [cell(*pair) for pair in wrong[:_MOST_LINES]]
        cells = [each for code in range(k) if (each := cell(code, code)).count] + lines
    return Gallery(
        classes,
        matrix,
        lines,
        cells,
        [entry(place) for place in answers.mistakes[:LISTED]],
        [entry(place) for place in answers.least_certain[:LISTED]],
    )
