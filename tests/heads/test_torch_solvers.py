from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from sklearn.exceptions import ConvergenceWarning

from pipeline.heads.torch_device import one_thread
from pipeline.heads.torch_rows import Layer, Rows
from pipeline.heads.torch_solvers import GRADIENT_TOLERANCE, adam, newton

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _on_one_thread() -> Iterator[None]:
    with one_thread():
        yield


def problem(n: int = 50, columns: int = 30, k: int = 3, smoothing: float = 0.0) -> tuple[Rows, Layer]:
    """Rows of noise, with class 0 counting twice what the others do."""
    random = np.random.default_rng(0)
    X = random.normal(size=(n, columns)).astype(np.float32)
    codes = np.arange(n) % k
    weights = np.array([2.0, *[1.0] * (k - 1)])
    weights /= weights[codes].mean()
    return Rows(X, codes, weights, smoothing, 1 / np.sqrt(columns), CPU), Layer.zeros(k, columns, CPU)


def test_adam__same_bits_as_torchs() -> None:
    rows, layer = problem()
    losses = [
        loss
        for loss, _ in adam(
            layer,
            rows,
            epochs=4,
            batch_size=8,
            step=0.01,
            weight_decay=0.1,
            generator=torch.Generator().manual_seed(3),
        )
    ]

    _, other = problem()
    other.flat.requires_grad_()
    optimizer = torch.optim.Adam([other.flat], lr=0.01, fused=True)
    generator = torch.Generator().manual_seed(3)
    expected = []
    for _ in range(4):
        loss_sum = 0.0
        for batch in torch.split(torch.randperm(50, generator=generator), 8):
            x = rows.features(batch)
            with torch.no_grad():
                loss, residual = rows.cross_entropy(rows.logits(other, x), batch)
                residual /= len(batch)
                weight = torch.addmm(other.weight, residual.T, x, beta=0.1, alpha=rows.scale)
            other.flat.grad = torch.cat([weight.flatten(), residual.sum(0)])
            optimizer.step()
            loss_sum += loss.sum().item()
        expected.append(loss_sum / 50)
    assert torch.equal(layer.flat, other.flat)
    assert losses == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("weight_decay", [1e-6, 1e-3, 1.0])
def test_newton__gradient_vanishes(weight_decay: float, smoothing: float) -> None:
    rows, layer = problem(smoothing=smoothing)
    losses = [loss for loss, _ in newton(layer, rows, steps=30, weight_decay=weight_decay)]
    assert len(losses) < 20

    everything = slice(0, 50)
    x = rows.features(everything).double()
    weight, bias = layer.weight.double().requires_grad_(), layer.bias.double().requires_grad_()
    logits = x @ weight.T * rows.scale + bias
    counts = torch.where(rows.codes == 0, 2.0, 1.0).double()
    data = torch.nn.functional.cross_entropy(logits, rows.codes, reduction="none", label_smoothing=smoothing)
    loss = (data * counts).sum() / counts.sum()
    assert losses[-1] == pytest.approx(loss.item(), rel=1e-5)
    (loss + weight_decay / 2 * (weight**2).sum()).backward()  # type: ignore[no-untyped-call]
    assert weight.grad is not None
    assert bias.grad is not None
    assert torch.cat([weight.grad.flatten(), bias.grad]).norm() < 1.5 * GRADIENT_TOLERANCE


def test_newton__too_few_steps() -> None:
    rows, layer = problem()
    with pytest.warns(ConvergenceWarning, match="3 Newton steps left a gradient of norm .* raise epochs"):
        assert len(list(newton(layer, rows, steps=3, weight_decay=1e-6))) == 3
    assert layer.flat.isfinite().all()


def test_newton__starts_at_the_minimum() -> None:
    rows = Rows(np.zeros((4, 3), np.float32), np.array([0, 1, 0, 1]), np.ones(2), 0.0, 1.0, CPU)
    layer = Layer.zeros(2, 3, CPU)
    [(loss, accuracy)] = newton(layer, rows, steps=5, weight_decay=1e-3)
    assert loss == pytest.approx(np.log(2))
    assert accuracy == 0.5
    assert not layer.flat.any()
