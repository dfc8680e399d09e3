"""A linear layer, the rows that it learns from, and how far apart they are.

Owns what both solvers of `torch_solvers` need: the layer as one vector, the rows on their way
to the device, the cross-entropy and its derivatives. It never holds a second copy of the rows:
they stay as they are, memory-mapped or not, and a block or a batch at a time becomes float32.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sklearn.utils import assert_all_finite
from torch.nn.functional import one_hot

#: float16 or float32, shape (n, n_features).
Features = npt.NDArray[Any]

_BLOCK = 2**20  # numbers: 4 MB of float32, which stay in a core's cache


class Layer:
    """A linear layer's weight and bias, or a direction in their space, in one vector.

    Attributes
    ----------
    flat : Tensor of float32, shape (n_classes * n_features + n_classes,)
        Both.
    weight : Tensor of float32, shape (n_classes, n_features)
        A view of `flat`.
    bias : Tensor of float32, shape (n_classes,)
        A view of `flat`.
    """

    def __init__(self, flat: torch.Tensor, n_classes: int) -> None:
        self.flat = flat
        self.weight = flat[:-n_classes].view(n_classes, -1)
        self.bias = flat[-n_classes:]

    @classmethod
    def zeros(cls, n_classes: int, n_features: int, device: torch.device) -> Layer:
        """Make a layer that knows nothing."""
        return cls(torch.zeros(n_classes * (n_features + 1), device=device), n_classes)

    def like(self, flat: torch.Tensor) -> Layer:
        """Give another vector the shape of this layer."""
        return Layer(flat, len(self.bias))


class Rows:
    """Labelled rows, and how well a layer tells their classes apart.

    Parameters
    ----------
    X : ndarray of float16 or float32, shape (n, n_features)
        Finite, memory-mapped or not; never written.
    codes : ndarray of int64, shape (n,)
        Classes, from 0.
    class_weights : ndarray of float64, shape (n_classes,)
        How much a row of each class counts.
    label_smoothing : float
        Share of a row's label that is spread over all classes.
    scale : float
        `X` is multiplied by it, inside the matrix products.
    device : torch.device
        Where to compute.
    """

    def __init__(
        self,
        X: Features,
        codes: npt.NDArray[np.int64],
        class_weights: npt.NDArray[np.float64],
        label_smoothing: float,
        scale: float,
        device: torch.device,
    ) -> None:
        self.scale, self.device, self._smoothing = scale, device, label_smoothing
        self._X = _as_tensor(X)
        if device.type == "cuda" and X.nbytes < torch.cuda.mem_get_info(device)[0] // 2:
            self._X = self._X.to(device)
        self.codes = torch.from_numpy(codes).to(device)
        self._weights = torch.from_numpy(class_weights[codes].astype(np.float32)).to(device)
        self._total_weight = float(class_weights[codes].sum())
        self.n_classes = len(class_weights)

    def __len__(self) -> int:
        return len(self.codes)

    def blocks(self) -> Iterator[slice]:
        """Cut the rows into consecutive blocks."""
        return _blocks(self._X)

    def features(self, rows: slice | torch.Tensor) -> torch.Tensor:
        """Return a copy of some unscaled rows, as float32 on the device, shape (m, n_features)."""
        if isinstance(rows, slice):
            # Copied even if it is float32: a product's last bits depend on where in memory its factors begin.
            return self._X[rows].to(self.device, torch.float32, copy=True)
        return self._X.index_select(0, rows.to(self._X.device)).to(self.device, torch.float32)

    def logits(self, layer: Layer, x: torch.Tensor) -> torch.Tensor:
        """Score what `features` returned, shape (m, n_classes)."""
        return torch.addmm(layer.bias, x, layer.weight.T, alpha=self.scale)

    def cross_entropy(
        self, logits: torch.Tensor, rows: slice | torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return each row's weighted loss, shape (m,), and its derivative by the logits, (m, n_classes)."""
        log_p = logits.log_softmax(1)
        target = one_hot(self.codes[rows], self.n_classes).to(logits.dtype)
        target.mul_(1 - self._smoothing).add_(self._smoothing / self.n_classes)
        weight = self._weights[rows]
        return -(target * log_p).sum(1) * weight, (log_p.exp() - target) * weight[:, None]

    def curvature(self, p: torch.Tensor, along: torch.Tensor, rows: slice) -> torch.Tensor:
        """Return the second derivative by the logits, whose softmax is `p`, times `along`, (m, n_classes)."""
        return p * (along - (p * along).sum(1, keepdim=True)) * self._weights[rows, None]

    def accuracy(self, logits: torch.Tensor) -> float:
        """Return the share of rows whose largest logit is that of their class."""
        return (logits.argmax(1) == self.codes).double().mean().item()

    def score(self, layer: Layer) -> tuple[float, float]:
        """Return a layer's mean loss and accuracy."""
        logits = torch.empty(len(self), self.n_classes, dtype=torch.float64, device=self.device)
        for block in self.blocks():
            logits[block] = self.logits(layer, self.features(block))
        losses, _ = self.cross_entropy(logits, slice(None))
        return losses.sum().item() / self._total_weight, self.accuracy(logits)


def norms(X: Features) -> tuple[float, float]:
    """Measure rows, and see that they are finite.

    Parameters
    ----------
    X : ndarray of float16 or float32, shape (n, n_features)

    Returns
    -------
    tuple of float
        The root of the mean square of the rows' Euclidean norms, and the mean of the sums of
        their absolute values.

    Raises
    ------
    ValueError
        A number is not finite.
    """
    squares, sums = 0.0, 0.0
    tensor = _as_tensor(X)
    for block in _blocks(tensor):
        numbers = tensor[block].double().flatten()
        square = torch.dot(numbers, numbers).item()
        if not math.isfinite(square):
            assert_all_finite(numbers.numpy(), input_name="X")
        squares += square
        sums += numbers.abs_().sum().item()
    return math.sqrt(squares / len(X)), sums / len(X)


def _as_tensor(X: Features) -> torch.Tensor:
    """View an array as a tensor; copied only where it runs backwards, which torch cannot."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")  # nor is it written to
        return torch.from_numpy(X if min(X.strides) >= 0 else X.copy())


def _blocks(X: torch.Tensor) -> Iterator[slice]:
    size = max(1, _BLOCK // X.shape[1])
    return (slice(start, start + size) for start in range(0, len(X), size))
