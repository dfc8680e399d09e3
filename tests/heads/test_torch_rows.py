from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.heads.torch_rows import Layer, Rows, norms

CPU = torch.device("cpu")


def test_layer__views_share_the_vector() -> None:
    layer = Layer(torch.arange(8.0), 2)
    assert layer.weight.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert layer.bias.tolist() == [6, 7]
    layer.weight[1, 0] = 9
    assert layer.flat[3] == 9


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_norms(dtype: str) -> None:
    X = np.random.default_rng(0).normal(size=(700, 3000)).astype(dtype)  # more than one block
    norm, absolute = norms(X)
    assert norm == pytest.approx(np.sqrt((X.astype(np.float64) ** 2).sum(axis=1).mean()), rel=1e-12)
    assert absolute == pytest.approx(np.abs(X.astype(np.float64)).sum(axis=1).mean(), rel=1e-12)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_norms__not_finite(bad: float) -> None:
    X = np.zeros((700, 3000), np.float16)
    X[699, 2999] = bad
    with pytest.raises(ValueError, match=r"Input X contains (NaN|infinity)"):
        norms(X)


def test_rows__blocks_are_all_rows_once() -> None:
    X = np.random.default_rng(0).normal(size=(700, 3000)).astype(np.float16)
    rows = Rows(X, np.zeros(700, np.int64), np.ones(2), 0.0, 1.0, CPU)
    blocks = list(rows.blocks())
    assert len(blocks) == 3
    assert torch.equal(torch.cat([rows.features(block) for block in blocks]), torch.from_numpy(X).float())
    some = torch.tensor([5, 699, 0])
    assert torch.equal(rows.features(some), torch.from_numpy(X[[5, 699, 0]]).float())


def test_rows__derivatives_are_autograds() -> None:
    codes = np.array([0, 2, 1, 2, 2])
    weights = np.array([0.5, 1.0, 2.0])
    rows = Rows(np.zeros((5, 1), np.float32), codes, weights, 0.1, 1.0, CPU)
    logits = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def loss_of(logits: torch.Tensor) -> torch.Tensor:
        losses = torch.nn.functional.cross_entropy(logits, rows.codes, reduction="none", label_smoothing=0.1)
        return (losses * torch.from_numpy(weights[codes])).sum()

    losses, residual = rows.cross_entropy(logits, slice(None))
    assert losses.sum().item() == pytest.approx(loss_of(logits).item(), rel=1e-12)
    gradient = torch.autograd.functional.jacobian(loss_of, logits)  # type: ignore[no-untyped-call]
    torch.testing.assert_close(residual, gradient, rtol=1e-12, atol=1e-12)
    along = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    product = torch.autograd.functional.hvp(loss_of, logits, along)[1]  # type: ignore[no-untyped-call]
    torch.testing.assert_close(
        rows.curvature(logits.softmax(1), along, slice(None)), product, rtol=1e-12, atol=1e-12
    )


def test_rows__score() -> None:
    random = np.random.default_rng(0)
    X = random.normal(size=(700, 3000)).astype(np.float32)
    codes = random.integers(0, 3, 700)
    weights = np.array([0.5, 1.0, 2.0])
    layer = Layer(torch.from_numpy(random.normal(size=9003).astype(np.float32)), 3)
    loss, accuracy = Rows(X, codes, weights, 0.0, 0.01, CPU).score(layer)

    logits = X.astype(np.float64) @ layer.weight.numpy().T * 0.01 + layer.bias.numpy()
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    expected = -(log_p[np.arange(700), codes] * weights[codes]).sum() / weights[codes].sum()
    assert loss == pytest.approx(expected, rel=1e-5)
    assert accuracy == (logits.argmax(axis=1) == codes).mean()
