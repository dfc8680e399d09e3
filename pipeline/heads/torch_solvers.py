"""How the torch head learns: Adam on mini-batches, or Newton's method on all rows.

Owns the two solvers. Both minimise the mean cross-entropy of the rows plus
``weight_decay / 2`` times the squared norm of the layer's weight; the bias is free. Both are
generators: they change the layer in place, and yield the loss and the accuracy on the training
rows as often as somebody may want to look.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import torch
from sklearn.exceptions import ConvergenceWarning

# The function inside torch.optim.Adam. The class imports torch's compiler: over a second of a short training.
from torch.optim.adam import adam as adam_step

if TYPE_CHECKING:
    from pipeline.heads.torch_rows import Layer, Rows

#: `newton` ends when the gradient's norm is at most this. Rows of norm 1 give gradients of norm 1
#: or so at most, and float32 resolves some 1e-8 of that.
GRADIENT_TOLERANCE = 1e-7

_STEP_ACCURACY = 0.25  # of Newton's direction; 0.1 takes 1.4 times as many passes over the rows in all
_MOST_PASSES = 200  # a direction
_ARMIJO = 1e-4  # Nocedal & Wright, section 3.1


def adam(
    layer: Layer,
    rows: Rows,
    *,
    epochs: int,
    batch_size: int,
    step: float,
    weight_decay: float,
    generator: torch.Generator,
) -> Iterator[tuple[float, float]]:
    """Minimise by Adam; yields the means over each epoch's batches, taken before they were learned from.

    Parameters
    ----------
    layer : Layer
        Where to start; changed in place.
    rows : Rows
        To learn from, in another order each epoch; of mean weight 1.
    epochs, batch_size : int
        Passes over the rows, and rows a step.
    step : float
        Adam's own learning rate, the same for each weight.
    weight_decay : float
        0 or above.
    generator : torch.Generator
        On the CPU; decides the order of rows.

    Raises
    ------
    ValueError
        A batch's loss is not finite.

    References
    ----------
    Kingma & Ba, "Adam: a method for stochastic optimization", ICLR 2015; its constants.
    """
    gradient = layer.like(torch.zeros_like(layer.flat))
    mean, square = torch.zeros_like(layer.flat), torch.zeros_like(layer.flat)
    count = torch.zeros((), device=rows.device)
    for epoch in range(1, epochs + 1):
        order = torch.randperm(len(rows), generator=generator).to(rows.device)
        batches = torch.split(order, batch_size)
        losses, hits = torch.zeros(2, len(batches), dtype=torch.float64, device=rows.device)
        for number, batch in enumerate(batches):
            x = rows.features(batch)
            logits = rows.logits(layer, x)
            loss, residual = rows.cross_entropy(logits, batch)
            residual /= len(batch)
            torch.addmm(layer.weight, residual.T, x, beta=weight_decay, alpha=rows.scale, out=gradient.weight)
            torch.sum(residual, 0, out=gradient.bias)
            adam_step(
                *([layer.flat], [gradient.flat], [mean], [square], [], [count]),
                fused=True,  # one pass over the weights: 14 times as fast as operation by operation
                amsgrad=False,
                maximize=False,
                lr=step,
                beta1=0.9,
                beta2=0.999,
                eps=1e-8,
                weight_decay=0.0,  # would be the bias's too
            )
            losses[number] = loss.sum()
            hits[number] = (logits.argmax(1) == rows.codes[batch]).sum()
        # Looked at once an epoch, so that a GPU is not waited for after every batch.
        lost = (~losses.isfinite()).nonzero()
        if len(lost):
            raise ValueError(
                f"epoch {epoch}, batch {int(lost[0]) + 1}: the loss is not finite; lower learning_rate"
            )
        yield losses.sum().item() / len(rows), hits.sum().item() / len(rows)


def newton(layer: Layer, rows: Rows, *, steps: int, weight_decay: float) -> Iterator[tuple[float, float]]:
    """Minimise by Newton's method with conjugate gradients; yields the loss and accuracy after each step.

    Warns with `ConvergenceWarning` where the gradient's norm ends above `GRADIENT_TOLERANCE`.

    Parameters
    ----------
    layer : Layer
        Zeros; changed in place.
    rows : Rows
        To learn from; of mean weight 1.
    steps : int
        Steps at most. A dozen are usual.
    weight_decay : float
        Above 0.

    Raises
    ------
    ValueError
        The loss is not finite.

    References
    ----------
    Nocedal & Wright, "Numerical optimization", 2nd edition (2006), algorithm 7.1.
    """
    # Kept, so that searching along a direction costs no pass over the rows; in float64, so that
    # it can tell losses apart near the minimum.
    logits = torch.zeros(len(rows), rows.n_classes, dtype=torch.float64, device=rows.device)

    def loss_of(logits: torch.Tensor) -> float:
        return rows.cross_entropy(logits, slice(None))[0].sum().item() / len(rows)

    def gradient_here() -> Layer:
        return _derivative(
            layer, rows, weight_decay, lambda block, x: rows.cross_entropy(logits[block], block)[1].float()
        )

    gradient, loss = gradient_here(), loss_of(logits)
    for step in range(1, steps + 1):
        direction, along = _direction(gradient, logits, rows, weight_decay)
        slope = _dot(gradient.flat, direction.flat)
        linear = weight_decay * _dot(layer.weight, direction.weight)
        quadratic = weight_decay / 2 * _dot(direction.weight, direction.weight)
        size = 1.0
        while size > 1e-6 and (
            loss_of(logits + size * along) + size * linear + size**2 * quadratic
            > loss + _ARMIJO * size * slope
        ):
            size /= 2
        layer.flat.add_(direction.flat, alpha=size)
        logits.add_(along, alpha=size)
        loss = loss_of(logits)
        if not math.isfinite(loss):
            raise ValueError(f"Newton step {step}: the loss is not finite")
        yield loss, rows.accuracy(logits)
        gradient = gradient_here()
        norm = gradient.flat.norm().item()
        if norm <= GRADIENT_TOLERANCE:
            return
    warnings.warn(
        f"{steps} Newton steps left a gradient of norm {norm:.1e}, above {GRADIENT_TOLERANCE:.0e}: "
        f"raise epochs or weight_decay",
        ConvergenceWarning,
        stacklevel=2,
    )


def _direction(
    gradient: Layer, logits: torch.Tensor, rows: Rows, weight_decay: float
) -> tuple[Layer, torch.Tensor]:
    """Return Newton's direction, and what it adds to the logits; a pass over the rows an iteration."""
    p = logits.softmax(1).float()
    direction = gradient.like(torch.zeros_like(gradient.flat))
    along = torch.zeros_like(logits)
    left = -gradient.flat
    search = gradient.like(left.clone())
    square = _dot(left, left)
    enough = _STEP_ACCURACY**2 * square
    search_logits = torch.empty_like(p)

    def curvature(block: slice, x: torch.Tensor) -> torch.Tensor:
        search_logits[block] = rows.logits(search, x)
        return rows.curvature(p[block], search_logits[block], block)

    for _ in range(_MOST_PASSES):
        if square <= enough:
            break
        product = _derivative(search, rows, weight_decay, curvature).flat
        size = square / _dot(search.flat, product)
        direction.flat.add_(search.flat, alpha=size)
        along.add_(search_logits, alpha=size)
        left.sub_(product, alpha=size)
        before, square = square, _dot(left, left)
        search.flat.mul_(square / before).add_(left)
    return direction, along


def _derivative(
    at: Layer, rows: Rows, weight_decay: float, by_logits: Callable[[slice, torch.Tensor], torch.Tensor]
) -> Layer:
    """Carry a derivative by the logits over to the layer, block by block, with the penalty's for `at`."""
    total = at.like(torch.zeros_like(at.flat))
    torch.mul(at.weight, weight_decay, out=total.weight)
    for block in rows.blocks():
        x = rows.features(block)
        residual = by_logits(block, x) / len(rows)
        total.weight.addmm_(residual.T, x, alpha=rows.scale)
        total.bias += residual.sum(0)
    return total


def _dot(a: torch.Tensor, b: torch.Tensor) -> float:
    return (a * b).sum(dtype=torch.float64).item()
