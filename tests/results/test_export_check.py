"""The check that every exported file has to pass: it lets nothing through that says something else."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from pipeline.errors import ModelError
from pipeline.results.export.check import TOLERANCE, Sample

EXPECTED = np.array([[0.9, 0.1], [0.2, 0.8], [0.50001, 0.49999]])


def sample(
    expected: npt.NDArray[np.float64] = EXPECTED, stored: npt.NDArray[np.float64] | None = None
) -> Sample:
    return Sample("val", "probabilities", (), np.zeros((len(expected), 3, 1, 1), np.uint8), expected, stored)


def moved(by: float) -> npt.NDArray[np.float64]:
    found: npt.NDArray[np.float64] = EXPECTED + np.array([by, -by])
    return found


def test_compare__the_same() -> None:
    parity = sample(stored=moved(0.01)).compare(EXPECTED, "file")
    assert (parity.images, parity.split, parity.numbers, parity.difference) == (3, "val", "probabilities", 0)
    assert parity.stored_difference == pytest.approx(0.01)


def test_compare__within_the_bound() -> None:
    parity = sample().compare(moved(5e-5).astype(np.float32), "file")
    assert parity.difference == pytest.approx(5e-5, rel=0.01)
    assert parity.stored_difference is None


def test_compare__of_a_tie_either_label_is_right() -> None:
    found = EXPECTED.copy()
    found[2] = 0.49999, 0.50001
    assert sample().compare(found, "file").difference == pytest.approx(2e-5)


def test_compare__a_probability_too_far_off() -> None:
    found = moved(1.5 * TOLERANCE)
    with pytest.raises(
        ModelError, match=r"^file was not written: .* 3 images of val, .* 0 other labels .* 0\.00015"
    ):
        sample().compare(found, "file")


def test_compare__another_label() -> None:
    found = EXPECTED[:, ::-1]
    with pytest.raises(ModelError, match="gives 2 other labels than the pipeline"):
        sample().compare(found, "file")


def test_compare__no_number() -> None:
    found = EXPECTED.copy()
    found[1, 1] = np.nan
    with pytest.raises(ModelError, match="nan off"):
        sample().compare(found, "file")


def test_compare__another_shape() -> None:
    with pytest.raises(ModelError, match=r"expected numbers of shape \(3, 2\), found \(3, 3\)"):
        sample().compare(np.zeros((3, 3)), "file")


def test_compare__large_scores_are_compared_by_their_size() -> None:
    scores = np.array([[0.0, 200.0], [0.0, -100.0]])
    assert sample(scores).compare(scores + 0.01, "file").difference == pytest.approx(5e-5)
    with pytest.raises(ModelError, match="was not written"):
        sample(scores).compare(scores + 0.03, "file")
