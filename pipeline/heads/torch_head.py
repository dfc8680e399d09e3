"""The tutorial's head: one linear layer, trained by Adam on mini-batches, as a scikit-learn estimator.

Owns the training loop. It never reads a file and prints nothing; whoever wants to watch
passes `on_epoch`. Torch is imported while fitting only: a fitted head is two arrays.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

Matrix = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Epoch:
    """One pass over the training rows.

    Attributes
    ----------
    epoch : int
        Counted from 1.
    train_loss, train_accuracy : float
        Means over the epoch's mini-batches, each taken just before it was learned from.
    val_loss, val_accuracy : float or None
        On the validation rows after the epoch; None without validation rows.
    """

    epoch: int
    train_loss: float
    train_accuracy: float
    val_loss: float | None
    val_accuracy: float | None


class TorchLinear(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """``torch.nn.Linear(n_features, n_classes)`` with cross-entropy, trained by Adam on mini-batches.

    VGG16's features are large (the numbers of a row sum to some 70,000), so Adam's customary
    step of 1e-3 a weight would move a logit by about 70 at the first step. Rows are therefore divided by
    their root-mean-square norm over the training rows, one number, which is folded into
    the weight when training ends: what comes out is an ordinary linear layer on raw features.

    Parameters
    ----------
    epochs : int, default 20
        Passes over the training rows.
    batch_size : int, default 32
        Rows a mini-batch.
    learning_rate : float, default 3e-3
        Of Adam.
    weight_decay : float, default 0
        L2 penalty on weight and bias, as `torch.optim.Adam` defines it, on scaled rows.
    random_state : int, RandomState or None, default None
        Of the initial weight and the order of rows. The same seed gives the same bits
        on one type of CPU, whatever the number of threads.

    Attributes
    ----------
    coef_ : ndarray of float32, shape (n_classes, n_features)
        The layer's weight, for unscaled rows.
    intercept_ : ndarray of float32, shape (n_classes,)
        The layer's bias.
    classes_ : ndarray, shape (n_classes,)
        Labels, sorted.
    n_features_in_ : int
        Columns seen in `fit`.
    history_ : list of Epoch
        The training log.
    """

    def __init__(
        self,
        epochs: int = 20,
        batch_size: int = 32,
        learning_rate: float = 3e-3,
        weight_decay: float = 0.0,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.random_state = random_state

    def fit(
        self,
        X: Any,
        y: Any,
        validation: tuple[Any, Any] | None = None,
        on_epoch: Callable[[Epoch], None] | None = None,
    ) -> TorchLinear:
        """Learn from labelled rows.

        Parameters
        ----------
        X : array_like of float, shape (n, n_features)
            Features, finite.
        y : array_like, shape (n,)
            Labels, of at least two classes.
        validation : tuple of array_like (X, y), optional
            Rows that are scored after each epoch and never learned from.
        on_epoch : callable, optional
            Called with each `Epoch` as it ends.

        Returns
        -------
        TorchLinear
            Itself.

        Raises
        ------
        ValueError
            A parameter is out of its range, or the rows cannot be learned from.
        """
        import torch

        self._check_parameters()
        X, y = validate_data(self, X, y, dtype=np.float32)
        check_classification_targets(y)
        self.classes_, codes = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"TorchLinear needs rows of at least 2 classes, found one class: {y[0]!r}")
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        rms = np.sqrt(np.mean(np.einsum("ij,ij->i", X, X, dtype=np.float64)))
        scale = np.float32(1 / rms if rms > 0 else 1)
        labels = torch.from_numpy(codes.astype(np.int64))
        held_out = None if validation is None else self._held_out(*validation, scale)
        self.history_ = []
        with _reproducible(seed):
            layer = torch.nn.Linear(self.n_features_in_, len(self.classes_))
            optimizer = torch.optim.Adam(
                layer.parameters(), lr=self.learning_rate, weight_decay=self.weight_decay
            )
            for epoch in range(1, self.epochs + 1):
                loss_sum, hits = 0.0, 0
                for batch in torch.split(torch.randperm(len(labels)), self.batch_size):
                    rows = torch.from_numpy(X[batch.numpy()] * scale)
                    logits = layer(rows)  # (batch_size, n_classes)
                    loss = torch.nn.functional.cross_entropy(logits, labels[batch])
                    optimizer.zero_grad()
                    loss.backward()  # type: ignore[no-untyped-call]
                    optimizer.step()
                    loss_sum += loss.item() * len(batch)
                    hits += int((logits.argmax(1) == labels[batch]).sum())
                val_loss = val_accuracy = None
                if held_out is not None:
                    with torch.inference_mode():
                        logits = layer(held_out[0])
                        val_loss = torch.nn.functional.cross_entropy(logits, held_out[1]).item()
                        val_accuracy = (logits.argmax(1) == held_out[1]).double().mean().item()
                self.history_.append(
                    Epoch(epoch, loss_sum / len(labels), hits / len(labels), val_loss, val_accuracy)
                )
                if on_epoch is not None:
                    on_epoch(self.history_[-1])
        self.coef_ = layer.weight.detach().numpy() * scale
        self.intercept_ = layer.bias.detach().numpy().copy()
        return self

    def decision_function(self, X: Any) -> npt.NDArray[np.float32]:
        """Score rows.

        Returns
        -------
        ndarray of float32
            The layer's outputs, shape (n, n_classes); for two classes their difference,
            shape (n,), positive for the second, as scikit-learn has it.
        """
        logits = self._logits(X)
        return logits[:, 1] - logits[:, 0] if len(self.classes_) == 2 else logits

    def predict_proba(self, X: Any) -> npt.NDArray[np.float64]:
        """Return the softmax of the layer's outputs, shape (n, n_classes), rows summing to 1."""
        logits = self._logits(X).astype(np.float64)
        exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
        probabilities: npt.NDArray[np.float64] = exponentials / exponentials.sum(axis=1, keepdims=True)
        return probabilities

    def predict(self, X: Any) -> npt.NDArray[Any]:
        """Return the most probable label of each row, shape (n,)."""
        winners = self._logits(X).argmax(axis=1)
        labels: npt.NDArray[Any] = self.classes_[winners]
        return labels

    def _logits(self, X: Any) -> Matrix:
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float32, reset=False)
        logits: Matrix = X @ self.coef_.T + self.intercept_
        return logits

    def _held_out(self, X: Any, y: Any, scale: np.float32) -> tuple[Any, Any]:
        import torch

        X, y = validate_data(self, X, y, dtype=np.float32, reset=False)
        if not np.isin(y, self.classes_).all():
            raise ValueError("the validation rows have labels that the training rows lack")
        return torch.from_numpy(X * scale), torch.from_numpy(np.searchsorted(self.classes_, y))

    def _check_parameters(self) -> None:
        for name in ("epochs", "batch_size"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name} must be a whole number above 0, found {value!r}")
        for name, lowest in (("learning_rate", "above 0"), ("weight_decay", "of at least 0")):
            value = getattr(self, name)
            number = isinstance(value, int | float) and not isinstance(value, bool) and np.isfinite(value)
            if not number or value < 0 or (lowest == "above 0" and value == 0):
                raise ValueError(f"{name} must be a number {lowest}, found {value!r}")


@contextlib.contextmanager
def _reproducible(seed: int) -> Iterator[None]:
    """Seed torch for a while, on one thread, and leave its state as it was.

    Sums are split among threads, so their last bits depend on the number of threads; a layer
    this small is bound by memory, and one thread is as fast.
    """
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            yield
    finally:
        torch.set_num_threads(threads)
