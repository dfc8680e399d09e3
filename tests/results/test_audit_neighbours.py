from __future__ import annotations

import numpy as np
import pytest

from pipeline.results.audit import neighbours
from pipeline.results.audit.neighbours import nearest, of_length_one


@pytest.mark.parametrize("block", [1, 700, 16_000_000])
def test_nearest__as_a_full_sort_says(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "_BLOCK", block)
    X = of_length_one(np.random.default_rng(0).normal(size=(100, 8)).astype(np.float32))
    cosines = (X @ X.T).astype(np.float64)
    np.fill_diagonal(cosines, -2)
    expected = np.argsort(-cosines, axis=1)[:, :6]
    found = nearest(X, 6)
    np.testing.assert_array_equal(found.places, expected)
    np.testing.assert_allclose(found.cosines, np.take_along_axis(cosines, expected, 1), atol=1e-6)


def test_nearest__a_row_is_no_neighbour_of_itself_but_its_copies_are() -> None:
    X = of_length_one(np.repeat(np.eye(3, dtype=np.float32), 2, axis=0))
    found = nearest(X, 1)
    assert found.places.ravel().tolist() == [1, 0, 3, 2, 5, 4]
    np.testing.assert_allclose(found.cosines, 1)


@pytest.mark.parametrize(("rows", "k"), [(0, 0), (1, 0), (2, 1), (5, 4)])
def test_nearest__of_few_rows(rows: int, k: int) -> None:
    X = of_length_one(np.random.default_rng(0).normal(size=(rows, 4)).astype(np.float32))
    found = nearest(X, 10)
    assert found.places.shape == found.cosines.shape == (rows, k)


def test_of_length_one__leaves_zeros() -> None:
    X = np.array([[3, 4], [0, 0]], np.float32)
    np.testing.assert_allclose(of_length_one(X), np.array([[0.6, 0.8], [0, 0]], np.float32))
    assert of_length_one(X).dtype == np.float32
