"""Rows on a device: the same products, and the same heads."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.errors import DeviceError
from pipeline.heads.linear.subspace import PlainRows
from pipeline.heads.linear_path import fit_path
from pipeline.heads.torch_plain_rows import TorchRows, plain_rows_on
from tests.heads.linear.conftest import rows_like_vgg, stratified

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
NAMES = ("cat", "dog", "owl")
STRENGTHS = (1e-6, 1e-4, 1e-2)


def rows_there(X: np.ndarray, device: str) -> TorchRows:
    return TorchRows(X, PlainRows.of(X).norm, torch.from_numpy(X).to(device))


@pytest.mark.parametrize("device", DEVICES)
def test_products__as_on_the_cpu(device: str) -> None:
    random = np.random.default_rng(0)
    X = random.standard_normal((30, 50)).astype(np.float32)
    plain, there = PlainRows.of(X), rows_there(X, device)
    heads = random.standard_normal((51, 4)).astype(np.float32)
    residuals = random.standard_normal((30, 4))
    np.testing.assert_allclose(there.scores(heads), plain.scores(heads), atol=1e-4)
    np.testing.assert_allclose(there.along(heads[:-1]), plain.along(heads[:-1]), atol=1e-4)
    np.testing.assert_allclose(there.gradient(residuals), plain.gradient(residuals), atol=1e-4)
    assert there.scores(heads).dtype == np.float64
    assert there.gradient(residuals).dtype == there.along(heads[:-1]).dtype == np.float32


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("k", [2, 3])
def test_fit_path__the_same_heads(k: int, device: str) -> None:
    X, y = rows_like_vgg(48, 400, k)
    X = X.astype(np.float64)
    expected, found = (
        fit_path(rows, y, NAMES[:k], stratified(y), STRENGTHS, "logistic", tolerance=1e-10)
        for rows in (PlainRows.of(X), rows_there(X, device))
    )
    assert found.converged.all()
    np.testing.assert_allclose(found.held_out, expected.held_out, atol=1e-6 * np.abs(expected.held_out).max())


def test_plain_rows_on__a_cpu_needs_no_copy() -> None:
    X = np.ones((3, 2), np.float32)
    rows = plain_rows_on("cpu", X)
    assert type(rows) is PlainRows
    assert rows.matrix is X


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_plain_rows_on__no_cuda_device() -> None:
    with pytest.raises(DeviceError, match="torch finds no CUDA device: choose cpu or auto"):
        plain_rows_on("cuda", np.ones((3, 2), np.float32))


@pytest.mark.gpu
def test_plain_rows_on__too_many_for_the_device(capsys: pytest.CaptureFixture[str]) -> None:
    X = np.ones((2048, 25_088), np.float32)
    torch.cuda.set_per_process_memory_fraction(2**27 / torch.cuda.mem_get_info()[1])
    try:
        rows = plain_rows_on("cuda", X)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert type(rows) is PlainRows
    assert "not the memory for 2048 rows" in capsys.readouterr().err
