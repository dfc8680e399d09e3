"""The torch head: a linear layer with softmax cross-entropy, as a scikit-learn estimator.

Owns what the estimator promises: parameters, checks, labels, prediction; how it learns is in
`torch_solvers`. It never reads a file and prints nothing; whoever wants to watch passes
`on_epoch`. Torch is imported while fitting only: a fitted head is two arrays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import assert_all_finite, check_random_state, compute_class_weight
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from pipeline.heads.epochs import Epoch, watch
from pipeline.heads.torch_parameters import check_parameters

if TYPE_CHECKING:
    from pipeline.heads.torch_rows import Layer, Rows

# Rows are not converted if they are one of these, and never as a whole copied.
_DTYPES = [np.float32, np.float16]
_BLOCK = 2**20  # numbers that prediction converts at a time


class TorchLinear(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A linear layer with softmax, which minimises ``mean cross-entropy + weight_decay / 2 * |weight|²``.

    Rows are divided by their root-mean-square norm over the training rows, one number, so that
    `weight_decay` and `learning_rate` mean the same on features of any size; it is folded into
    the weight when training ends, and what comes out is an ordinary layer on raw features.
    The layer starts as zeros. The bias is not penalised.

    Parameters
    ----------
    solver : {"adam", "newton-cg"}, default "adam"
        ``adam`` learns from mini-batches. ``newton-cg`` goes to the minimum itself, on all rows
        together, with nothing random and no learning rate: until the gradient's norm is at
        most `torch_solvers.GRADIENT_TOLERANCE`, or with a `ConvergenceWarning`.
    epochs : int, default 20
        Adam's passes over the training rows; Newton's steps at most, of some five passes each.
    batch_size : int, default 32
        Rows a mini-batch. Adam only.
    learning_rate : float, default 0.5
        By how much one step of Adam may move a row's score. Adam moves each weight alike, so its
        own step is this over the mean sum of a scaled row's absolute values and the bias's 1:
        0.012 for VGG16's raw features of photographs. Adam only.
    weight_decay : float, default 1e-5
        Of the objective above; above 0 for Newton, which finds no minimum otherwise.
        scikit-learn's ``C``, for rows of root-mean-square norm 1, is ``1 / (weight_decay * n)``
        for three classes or more, and twice that for two, which it gives one score.
    class_weight : "balanced", dict of label to float, or None, default None
        How much a row of each class counts, 1 if not named; ``balanced`` gives every class the same
        total. They are divided by their mean over the training rows.
    label_smoothing : float, default 0
        Share of each label that is spread over all classes; 0 or more, below 1.
    patience : int or None, default None
        Stop when the loss on the validation rows has not fallen for so many epochs, and keep the
        layer of the best epoch. None goes through all epochs and keeps the last layer: then
        no choice was made by the validation rows, and scores on them stay honest.
    device : {"auto", "cpu", "cuda"}, default "auto"
        ``auto`` is CUDA where there is one.
    random_state : int, RandomState or None, default None
        Of the order of rows. The same seed gives the same bits on one type of CPU, whatever
        the number of threads. Adam only.

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
    best_epoch_ : int
        The epoch whose layer was kept.
    """

    def __init__(
        self,
        solver: Literal["adam", "newton-cg"] = "adam",
        epochs: int = 20,
        batch_size: int = 32,
        learning_rate: float = 0.5,
        weight_decay: float = 1e-5,
        class_weight: Mapping[Any, float] | Literal["balanced"] | None = None,
        label_smoothing: float = 0.0,
        patience: int | None = None,
        device: Literal["auto", "cpu", "cuda"] = "auto",
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.solver = solver
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.class_weight = class_weight
        self.label_smoothing = label_smoothing
        self.patience = patience
        self.device = device
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
            Features, finite. Arrays of float16 and float32, memory-mapped or not, are used where
            they are; anything else is converted to float32 first.
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
            A parameter is out of its range, the rows cannot be learned from, or the loss
            ceased to be finite.
        """
        from pipeline.heads.torch_device import device_of, one_thread
        from pipeline.heads.torch_rows import Layer, Rows, norms

        check_parameters(self)
        if self.patience is not None and validation is None:
            raise ValueError("patience needs validation rows, and there are none")
        device = device_of(self.device)
        X, y = self._labelled(X, y, reset=True)
        check_classification_targets(y)
        self.classes_, codes = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"TorchLinear needs rows of at least 2 classes, found one class: {y[0]!r}")
        weights = self._class_weights(y, codes)
        with one_thread():
            norm, absolute_sum = norms(X)
            scale = 1 / norm if norm > 0 else 1.0

            def rows_of(X: Any, codes: npt.NDArray[np.int64]) -> Rows:
                return Rows(X, codes, weights, self.label_smoothing, scale, device)

            held_out = None
            if validation is not None:
                val_X, val_y = self._labelled(*validation, reset=False)
                if not np.isin(val_y, self.classes_).all():
                    raise ValueError("the validation rows have labels that the training rows lack")
                norms(val_X)
                held_out = rows_of(val_X, np.searchsorted(self.classes_, val_y))
            layer = Layer.zeros(len(self.classes_), self.n_features_in_, device)
            progress = self._solve(layer, rows_of(X, codes), self.learning_rate / (scale * absolute_sum + 1))
            self.history_, self.best_epoch_ = watch(progress, layer, held_out, self.patience, on_epoch)
        self.coef_ = layer.weight.cpu().numpy() * np.float32(scale)
        self.intercept_ = layer.bias.cpu().numpy().copy()
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

    def _logits(self, X: Any) -> npt.NDArray[np.float32]:
        check_is_fitted(self)
        X = validate_data(self, X, dtype=_DTYPES, ensure_all_finite=False, reset=False)
        logits = np.empty((len(X), len(self.classes_)), np.float32)
        size = max(1, _BLOCK // X.shape[1])
        for start in range(0, len(X), size):
            block = X[start : start + size].astype(np.float32, copy=False)
            assert_all_finite(block, input_name="X")
            logits[start : start + size] = block @ self.coef_.T + self.intercept_
        return logits

    def _solve(self, layer: Layer, rows: Rows, step: float) -> Iterator[tuple[float, float]]:
        import torch

        from pipeline.heads.torch_solvers import adam, newton

        if self.solver == "newton-cg":
            return newton(layer, rows, steps=self.epochs, weight_decay=self.weight_decay)
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        return adam(
            layer,
            rows,
            epochs=self.epochs,
            batch_size=self.batch_size,
            step=step,
            weight_decay=self.weight_decay,
            generator=torch.Generator().manual_seed(seed),
        )

    def _labelled(self, X: Any, y: Any, *, reset: bool) -> tuple[Any, Any]:
        # Whether they are finite is left to `norms`: scikit-learn would sum all rows, in float16.
        labelled: tuple[Any, Any] = validate_data(
            self, X, y, dtype=_DTYPES, ensure_all_finite=False, reset=reset
        )
        return labelled

    def _class_weights(self, y: Any, codes: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """Return what a row of each class counts; 1 on average over the training rows."""
        weights = compute_class_weight(self.class_weight, classes=self.classes_, y=y)
        if not (np.isfinite(weights) & (weights > 0)).all():
            raise ValueError(f"class_weight must hold numbers above 0, found {self.class_weight!r}")
        normalized: npt.NDArray[np.float64] = weights / weights[codes].mean()
        return normalized
