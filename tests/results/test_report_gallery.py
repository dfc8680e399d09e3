from __future__ import annotations

import numpy as np
import pytest

from pipeline.heads.model import Predictions
from pipeline.results.report.answers import Answers
from pipeline.results.report.gallery import chosen, gallery
from tests.results.audits import image


def answers_of(n: int, k: int, wrong: int, seed: int = 0) -> Answers:
    """Answers about n images of k classes, of which the first `wrong` are given the next class."""
    random = np.random.default_rng(seed)
    classes = tuple(f"class {code:03}" for code in range(k))
    y = np.arange(n) % k
    given = np.where(np.arange(n) < wrong, (y + 1) % k, y)
    probabilities = random.uniform(0, 1 / k, (n, k))
    probabilities[np.arange(n), given] += random.uniform(1, 5, n)
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    images = tuple(image(f"{place:05}.jpg", classes[y[place]], "train") for place in range(n))
    return Answers(images, y, Predictions(given, classes, probabilities), probabilities, 0, calibrating=False)


def test_chosen__all_of_a_thousand() -> None:
    assert chosen(answers_of(1000, 2, 30)) == list(range(1000))


@pytest.mark.parametrize("wrong", [50, 900])
def test_chosen__of_many_the_odd_ones_and_some_of_the_others(wrong: int) -> None:
    answers = answers_of(5000, 3, wrong)
    places = chosen(answers)
    assert places == sorted(set(places))
    assert len(places) == 1200
    assert set(answers.mistakes[:600]) <= set(places)
    assert set(answers.least_certain[:100]) <= set(places)
    others = np.array([place for place in places if place >= wrong])
    assert np.diff(others).max() < 20  # from everywhere


def test_gallery__every_image_is_in_its_cell() -> None:
    answers = answers_of(90, 3, 12)
    made = gallery(answers, list(range(90)), {})
    counts = [[cell.count for cell in row] for row in made.matrix]
    assert counts == [[26, 4, 0], [0, 26, 4], [4, 0, 26]]
    for row in made.matrix:
        for cell in row:
            assert len(cell.entries) == cell.count
            assert {entry.image.label for entry in cell.entries} <= {cell.actual}
            assert {entry.predicted for entry in cell.entries} <= {cell.predicted}
            certainties = [answers.certainty[entry.number] for entry in cell.entries]
            assert certainties == sorted(certainties, reverse=True)
    assert [cell.name for cell in made.cells] == [
        "cell-0-0",
        "cell-0-1",
        "cell-1-1",
        "cell-1-2",
        "cell-2-0",
        "cell-2-2",
    ]
    assert [entry.number for entry in made.mistakes] == answers.mistakes
    assert len(made.least_certain) == 24


def test_gallery__of_many_classes_lists_the_most_frequent_confusions() -> None:
    answers = answers_of(400, 40, 60)
    made = gallery(answers, chosen(answers), {})
    assert made.matrix == []
    assert [cell.count for cell in made.lines] == sorted((cell.count for cell in made.lines), reverse=True)
    assert sum(cell.count for cell in made.lines) == 60
    assert all(not cell.right for cell in made.lines)
    right = [cell for cell in made.cells if cell.right]
    assert sum(cell.count for cell in right) == 340


def test_gallery__without_certainty_says_none() -> None:
    answers = answers_of(20, 2, 3)
    blind = Answers(
        answers.images, answers.y, Predictions(answers.predictions.codes, ("a", "b"), None), None, 0, False
    )
    made = gallery(blind, chosen(blind), {})
    assert {entry.certainty for entry in made.mistakes} == {""}
    assert made.least_certain == []
