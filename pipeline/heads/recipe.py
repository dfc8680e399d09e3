"""What a head is made of, and its making from rows: the same for the final one and for each fold.

Owns everything that is fitted to rows: the scale of columns, what follows from the scale of rows, and the
estimator. It reads and writes nothing.
"""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import HeadError
from pipeline.heads.derived import Derivation, Rows, Standardization
from pipeline.heads.linear.estimators import fit_estimator, linear_head
from pipeline.heads.registry import build, preset_of
from pipeline.params import did_you_mean

if TYPE_CHECKING:
    from pipeline.heads.epochs import Epoch

#: What estimators raise on parameters and rows that do not suit them.
FIT_ERRORS = (HeadError, ValueError, TypeError, ArithmeticError, MemoryError, RuntimeError, LookupError)

# With these somebody wants scikit-learn's own solver, and its complaints.
_SOLVER_PARAMS = frozenset({"dual", "max_iter", "solver", "tol"})
# Rows whose norms are taken at once.
_BLOCK = 256


@dataclass(frozen=True)
class Fitted:
    """A head that has learned.

    Attributes
    ----------
    estimator : object
        Fitted to standardised rows, if there is a standardisation.
    standardization : Standardization or None
        Of the columns.
    warnings : tuple of str
        What the estimator complained of, each complaint once and on one line.
    """

    estimator: Any
    standardization: Standardization | None
    warnings: tuple[str, ...]

    def scaled(self, X: Rows) -> Rows:
        """Return derived rows as the estimator knows them; `X` itself where nothing is standardised."""
        return X if self.standardization is None else self.standardization.apply(X)


@dataclass(frozen=True)
class Recipe:
    """How a head is made.

    Attributes
    ----------
    estimator : str
        A short name, or the dotted path of a class.
    params : mapping
        Of its constructor; the keys of ``class_weight`` are labels.
    classes : tuple of str, length k
        Labels; the estimator learns their positions.
    derivation : Derivation
        Of the rows; of its normalisations only ``standardize`` is done here.
    seed : int
        See `build`.
    trust : bool
        See `build`.
    """

    estimator: str
    params: Mapping[str, Any]
    classes: tuple[str, ...]
    derivation: Derivation
    seed: int
    trust: bool

    @property
    def reads(self) -> Derivation | None:
        """The derivation to be read, or None where the estimator takes features just as they are stored."""
        as_stored = self.estimator == "linear" and self.derivation == Derivation()
        return None if as_stored else self.derivation

    def unfitted(self, norm: float | None = None) -> Any:
        """Make the estimator.

        Parameters
        ----------
        norm : float, optional
            Root-mean-square norm of the rows to come.

        Raises
        ------
        HeadError
            The estimator or a parameter is unknown, or `class_weight` names no class.
        """
        params = dict(self.params)
        if isinstance(params.get("class_weight"), dict):
            params["class_weight"] = self._weight_by_code(params["class_weight"])
        return build(self.estimator, params, seed=self.seed, norm=norm, trust=self.trust)

    def fit(
        self,
        X: Rows,
        y: npt.NDArray[np.int64],
        *,
        validation: tuple[Rows, npt.NDArray[np.int64]] | None = None,
        on_epoch: Callable[[Epoch, int], None] | None = None,
    ) -> Fitted:
        """Fit everything to rows.

        L2-regularised linear heads are fitted by our own solver, to what a sweep has compared; unless
        `params` say how to fit.

        Parameters
        ----------
        X : ndarray of float32, shape (n, columns)
            Rows as `reads` says. Overwritten where columns are standardised.
        y : ndarray of int64, shape (n,)
            Positions in `classes`.
        validation : tuple of ndarray (X, y), optional
            Rows that are never learned from; only the linear torch head looks at them.
        on_epoch : callable, optional
            Called by the linear torch head after each epoch, with the number of all epochs.

        Returns
        -------
        Fitted
        """
        standardization = None
        if self.derivation.normalize == "standardize":
            standardization = Standardization.fit(X)
            standardization.apply(X, out=X)
        estimator = self.unfitted(norm_of(X) if preset_of(self.estimator).scaled else None)
        watch: dict[str, Any] = {}
        if self.estimator == "linear":
            if on_epoch is not None:
                watch["on_epoch"] = lambda epoch: on_epoch(epoch, estimator.epochs)
            if validation is not None and standardization is not None:
                validation = standardization.apply(validation[0]), validation[1]
            watch["validation"] = validation
        with listening() as complaints:
            if _SOLVER_PARAMS.isdisjoint(self.params) and linear_head(estimator):
                fit_estimator(estimator, X, y)
            else:
                estimator.fit(X, y, **watch)
        return Fitted(estimator, standardization, tuple(complaints))

    def described(self, estimator: Any) -> dict[str, Any]:
        """Return every parameter of an estimator made by this recipe, labels as labels."""
        params: dict[str, Any] = estimator.get_params(deep=False)
        return params | {key: self.params[key] for key in ("class_weight",) if key in self.params}

    def _weight_by_code(self, weights: Mapping[Any, Any]) -> dict[int, float]:
        code = {label: position for position, label in enumerate(self.classes)}
        by_code = dict.fromkeys(range(len(self.classes)), 1.0)
        for name, weight in weights.items():
            label = str(name)  # YAML reads the class 7 as a number
            if label not in code:
                raise HeadError(
                    f"class_weight: {label!r} is no class of the training images "
                    f"({', '.join(map(repr, self.classes))}).{did_you_mean(label, self.classes)}"
                )
            number = isinstance(weight, int | float) and not isinstance(weight, bool)
            if not number or not math.isfinite(weight) or weight <= 0:
                raise HeadError(f"class_weight: expected a number above 0 for {label!r}, found {weight!r}.")
            by_code[code[label]] = float(weight)
        return by_code


@contextlib.contextmanager
def listening() -> Iterator[list[str]]:
    """Catch warnings; once through, the list holds each complaint once and on one line."""
    complaints: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield complaints
    said = (f"{item.category.__name__}: {one_line(item.message)}" for item in caught)
    complaints.extend(dict.fromkeys(said))


def one_line(said: object) -> str:
    """Return what an error or a warning says on one line."""
    return " ".join(str(said).split()) or type(said).__name__


def norm_of(X: Rows) -> float:
    """Return the root-mean-square norm of rows; with no threads, so that it is the same for any number."""
    blocks = (X[start : start + _BLOCK] for start in range(0, len(X), _BLOCK))
    squares = sum(float(np.einsum("ij,ij->i", block, block).sum(dtype=np.float64)) for block in blocks)
    return math.sqrt(squares / len(X))
