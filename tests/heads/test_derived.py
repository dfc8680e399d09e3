from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from sklearn.preprocessing import StandardScaler, normalize

from pipeline.errors import ModelError
from pipeline.heads.derived import Derivation, Standardization
from tests.heads.conftest import features_like_vgg

POOLINGS, ROW_NORMALIZATIONS = ("none", "avg", "max"), ("none", "l2", "sqrt_l2")
EVERY = [Derivation(*pair) for pair in itertools.product(POOLINGS, ROW_NORMALIZATIONS)]  # type: ignore[arg-type]
STORED = features_like_vgg(np.arange(150) % 3)


def reference(features: npt.NDArray[Any], derivation: Derivation) -> npt.NDArray[np.float64]:
    """The same by torch's pooling and scikit-learn's norms, in float64."""
    import torch

    X = torch.from_numpy(features.astype(np.float64))
    maps = X.view(-1, 512, 7, 7)  # as torchvision's flatten had them
    if derivation.pooling == "avg":
        X = torch.nn.functional.adaptive_avg_pool2d(maps, 1).flatten(1)
    elif derivation.pooling == "max":
        X = torch.nn.functional.adaptive_max_pool2d(maps, 1).flatten(1)
    found: npt.NDArray[np.float64] = X.numpy()
    if derivation.normalize == "sqrt_l2":
        found = np.sign(found) * np.sqrt(np.abs(found))
    if derivation.normalize != "none":
        found = normalize(found)
    return found


@pytest.mark.parametrize("derivation", EVERY, ids=str)
@pytest.mark.parametrize("storage", [np.float16, np.float32])
def test_rows__equal_torch_and_scikit_learn(derivation: Derivation, storage: Any) -> None:
    stored = (STORED[:20].astype(storage) - 3).astype(storage)  # negative ones too
    rows = derivation.rows(stored)
    assert rows.dtype == np.float32
    assert rows.shape == (20, derivation.columns(25088))
    np.testing.assert_allclose(rows, reference(stored, derivation), rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("derivation", EVERY, ids=str)
def test_rows__never_depend_on_the_others(derivation: Derivation) -> None:
    together = derivation.rows(STORED)
    for selected in ([0], [149], [70, 3], list(range(1, 150, 2))):
        assert derivation.rows(STORED[selected]).tobytes() == together[selected].tobytes()
    assert derivation.rows(STORED.astype(np.float32)).tobytes() == together.tobytes()
    assert derivation.rows(np.asfortranarray(STORED)).tobytes() == together.tobytes()


@pytest.mark.parametrize("derivation", EVERY, ids=str)
def test_rows__of_zeros_stay_zeros(derivation: Derivation) -> None:
    stored = STORED[:3].copy()
    stored[1] = 0
    rows = derivation.rows(stored)
    assert not rows[1].any()
    assert rows[0].any()


def test_rows__in_place_and_of_any_width() -> None:
    X = STORED[:70, :100].astype(np.float32)
    expected = Derivation("none", "l2").rows(X)
    assert Derivation("none", "l2").rows(X, out=X) is X
    np.testing.assert_array_equal(X, expected)


def test_rows__none() -> None:
    assert Derivation("avg", "l2").rows(STORED[:0]).shape == (0, 512)


def test_rows__leave_what_they_are_given() -> None:
    X = STORED[:5].astype(np.float32)
    before = X.copy()
    for derivation in EVERY:
        derivation.rows(X)
    np.testing.assert_array_equal(X, before)


def test_standardization__equals_scikit_learn() -> None:
    X = STORED[:, :200].astype(np.float32)
    X[:, 7], X[:, 8] = 0, 812.3  # constant columns
    X[:, 9] = 1e4 + np.arange(150) % 2  # nearly constant ones keep their difference
    scaler = StandardScaler().fit(X.astype(np.float64))
    found = Standardization.fit(X)
    np.testing.assert_allclose(found.mean, scaler.mean_, rtol=1e-6)
    np.testing.assert_allclose(found.scale, scaler.scale_, rtol=1e-6)
    np.testing.assert_allclose(found.apply(X), scaler.transform(X.astype(np.float64)), atol=1e-3)
    assert not found.apply(X)[:, 7:9].any()


def test_standardization__makes_no_float64_copy() -> None:
    import tracemalloc

    X = np.ones((2000, 500), np.float32)
    tracemalloc.start()
    standardization = Standardization.fit(X)
    standardization.apply(X, out=X)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < X.nbytes / 2


def test_standardization__bytes_and_back() -> None:
    found = Standardization.fit(STORED[:, :10].astype(np.float32))
    again = Standardization.from_bytes(found.as_bytes(), 10)
    np.testing.assert_array_equal(again.mean, found.mean)
    np.testing.assert_array_equal(again.scale, found.scale)


@pytest.mark.parametrize(
    ("mean", "scale", "message"),
    [
        (np.zeros(9, "f4"), np.ones(9, "f4"), r"expected 10 finite numbers, found float32\(9,\)"),
        (np.zeros(10, "f8"), np.ones(10, "f4"), "found float64"),
        (np.full(10, np.nan, "f4"), np.ones(10, "f4"), "finite"),
        (np.zeros(10, "f4"), np.zeros(10, "f4"), "scales above 0"),
    ],
)
def test_standardization__of_another_shape(mean: Any, scale: Any, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        Standardization.from_bytes(Standardization(mean, scale).as_bytes(), 10)


def test_standardization__not_safetensors() -> None:
    with pytest.raises(ModelError, match="no mean and scale"):
        Standardization.from_bytes(b"nonsense", 10)
