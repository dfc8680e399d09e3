from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from pipeline.heads.factor import Factor, gram_matrix, load_or_make, worth_factoring
from tests.heads.linear.conftest import linear_svm, logistic, ridge, rows_like_vgg


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_factor__has_the_rows_inner_products(dtype: npt.DTypeLike) -> None:
    X = rows_like_vgg(40, 5000, 2)[0].astype(dtype)
    factor = Factor.of(X)
    expected = X.astype(np.float64) @ X.astype(np.float64).T
    assert factor.matrix.shape == (40, 40)
    assert factor.matrix.dtype == np.float64
    np.testing.assert_allclose(
        factor.matrix @ factor.matrix.T, expected, rtol=1e-12, atol=1e-12 * expected.max()
    )
    assert (np.diff(factor.eigenvalues) <= 0).all()


def test_factor__of_some_rows_is_some_rows_of_the_factor() -> None:
    X, _ = rows_like_vgg(30, 500, 2)
    whole, part = Factor.of(X).matrix[5:20], Factor.of(X[5:20]).matrix
    np.testing.assert_allclose(whole @ whole.T, part @ part.T, rtol=1e-10)


@pytest.mark.parametrize("k", [2, 4])
@pytest.mark.parametrize(
    "head",
    [
        pytest.param(lambda: logistic(1e-5), id="logistic"),
        pytest.param(lambda: logistic(1e-5, class_weight="balanced"), id="balanced"),
        pytest.param(lambda: linear_svm(1e-6), id="svm"),
        pytest.param(lambda: ridge(1e6), id="ridge"),
    ],
)
def test_factor__trains_the_head_that_the_features_train(head: Callable[[], Any], k: int) -> None:
    # scikit-learn on both sides
    X, y = rows_like_vgg(60, 5000, k)
    unseen = rows_like_vgg(20, 5000, k, seed=1)[0].astype(np.float64)
    factor = Factor.of(X)
    on_features = head().fit(X.astype(np.float64), y)
    on_factor = head().fit(factor.matrix, y)

    scores = on_features.decision_function(X.astype(np.float64))
    tolerance = 1e-6 * np.abs(scores).max()
    np.testing.assert_allclose(on_factor.decision_function(factor.matrix), scores, atol=tolerance)
    np.testing.assert_allclose(on_factor.intercept_, on_features.intercept_, atol=tolerance)
    coefficients = factor.coefficients(np.atleast_2d(on_factor.coef_), X)
    expected = np.atleast_2d(on_features.coef_)
    np.testing.assert_allclose(coefficients, expected, atol=1e-6 * np.abs(expected).max())
    new = unseen @ coefficients.T + on_factor.intercept_
    np.testing.assert_allclose(new.squeeze(), on_features.decision_function(unseen), atol=tolerance)


@pytest.mark.parametrize(
    ("change", "rank"),
    [
        pytest.param(lambda X: np.vstack([X, X[:7]]), 20, id="repeated rows"),
        pytest.param(lambda X: np.vstack([X, 0 * X[:3]]), 20, id="rows of zeros"),
        pytest.param(lambda X: np.ones_like(X), 1, id="constant"),
        pytest.param(lambda X: np.zeros_like(X), 0, id="all zeros"),
        pytest.param(lambda X: X[:, :11], 11, id="more rows than columns"),
    ],
)
def test_factor__rank(
    change: Callable[[npt.NDArray[np.float16]], npt.NDArray[np.float16]], rank: int
) -> None:
    X = change(rows_like_vgg(20, 700, 2)[0])
    factor = Factor.of(X)
    expected = X.astype(np.float64) @ X.astype(np.float64).T
    assert factor.matrix.shape == (len(X), rank)
    np.testing.assert_allclose(factor.matrix @ factor.matrix.T, expected, atol=1e-9 * max(expected.max(), 1))
    weights = np.ones((2, rank))
    coefficients = factor.coefficients(weights, X)
    assert coefficients.shape == (2, X.shape[1])
    np.testing.assert_allclose(X @ coefficients.T, factor.matrix @ weights.T, rtol=1e-9, atol=1e-9)


def test_gram_matrix__makes_no_copy_in_float64() -> None:
    X, _ = rows_like_vgg(64, 25088, 2)  # 3.2 MB, 12.8 MB in float64
    tracemalloc.start()
    try:
        factor = Factor.of(X)
        factor.coefficients(np.ones((1, len(factor.eigenvalues))), X)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4e6


def test_gram_matrix__float32_would_not_do() -> None:
    X = rows_like_vgg(50, 25088, 2)[0].astype(np.float32)
    exact = X.astype(np.float64) @ X.astype(np.float64).T
    ours = np.abs(gram_matrix(X) - exact).max()
    assert ours <= 1e-14 * exact.max() < np.abs(X @ X.T - exact).max()


def test_worth_factoring() -> None:
    assert worth_factoring(1000, 25088)
    assert not worth_factoring(1000, 512)
    assert not worth_factoring(20_000, 25088)


class Maker:
    """Makes a factor, and counts how often."""

    def __init__(self) -> None:
        self.factor = Factor.of(rows_like_vgg(12, 300, 2)[0])
        self.times = 0

    def __call__(self) -> Factor:
        self.times += 1
        return self.factor


def same(one: Factor, other: Factor) -> bool:
    return (
        one.eigenvalues.tobytes() == other.eigenvalues.tobytes()
        and one.eigenvectors.tobytes() == other.eigenvectors.tobytes()
    )


def test_load_or_make__made_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make = Maker()
    first = load_or_make(tmp_path / "factors", "rows of today", make)
    second = load_or_make(tmp_path / "factors", "rows of today", make)
    assert make.times == 1
    assert first is make.factor
    assert same(first, second)
    assert [path.suffix for path in (tmp_path / "factors").iterdir()] == [".safetensors"]
    assert capsys.readouterr().err == ""


def test_load_or_make__another_key_is_another_factor(tmp_path: Path) -> None:
    make = Maker()
    load_or_make(tmp_path, "rows", make)
    load_or_make(tmp_path, "rows, l2", make)
    assert make.times == 2
    assert len(list(tmp_path.iterdir())) == 2


def flip(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda data: flip(data, -9), id="bit in the numbers"),
        pytest.param(lambda data: flip(data, len(data) // 2), id="another"),
        pytest.param(lambda data: flip(data, 3), id="bit in the length of the header"),
        pytest.param(lambda data: flip(data, 20), id="bit in the header"),
        pytest.param(lambda data: data[:-8], id="truncated"),
        pytest.param(lambda data: data[:5], id="hardly begun"),
        pytest.param(lambda data: b"", id="empty"),
        pytest.param(lambda data: data.replace(b"this", b"that"), id="of another key"),
    ],
)
def test_load_or_make__damaged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: Callable[[bytes], bytes]
) -> None:
    make = Maker()
    load_or_make(tmp_path, "this", make)
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    assert same(load_or_make(tmp_path, "this", make), make.factor)
    assert make.times == 2
    assert f"warning: {path}: not a factor as it was written" in capsys.readouterr().err
    assert path.read_bytes() == whole


def test_load_or_make__any_bit_flipped(tmp_path: Path) -> None:
    make = Maker()
    load_or_make(tmp_path, "this", make)
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    random = np.random.default_rng(0)
    for place in [*range(0, header, 5), *random.integers(header, len(whole), 10)]:
        damaged = bytearray(whole)
        damaged[place] ^= 1 << random.integers(8)
        path.write_bytes(damaged)
        before = make.times
        assert same(load_or_make(tmp_path, "this", make), make.factor)
        # Spaces around the header's JSON, and the like, may change without a number being another.
        assert make.times == before + 1 or place < header


def test_load_or_make__cannot_be_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "factors").write_text("a file, where a folder should be")
    make = Maker()
    assert load_or_make(tmp_path / "factors", "rows", make) is make.factor
    assert "cannot be kept for the next time" in capsys.readouterr().err
