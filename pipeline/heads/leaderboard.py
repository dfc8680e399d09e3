"""The leaderboard of a sweep: its lines, their order, and ``reports/sweep.json``.

Owns the file, and what makes one line better than another. It fits nothing.
"""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.console import printable, warn
from pipeline.errors import ParamsError
from pipeline.files import write_json
from pipeline.heads.derived import Derivation
from pipeline.heads.registry import PRESETS, grid_of
from pipeline.params import NORMALIZATIONS, POOLINGS, Normalize, Pooling
from pipeline.typed import build
from pipeline.views import CENTER, VIEW_USES, ViewUse

_DIGITS = 6  # beyond these, accuracies differ by rounding only


@dataclass(frozen=True)
class Line:
    """One recipe, and what cross-validation says of it.

    Attributes
    ----------
    estimator : str
        Short name or dotted path.
    params : dict
        Of its constructor, where they differ from the preset's.
    pooling, normalize, views : str
        See `Derivation`.
    place : int
        In the grid of the estimator, which begins with what to take among equals.
    accuracy : float or None
        Share of the held-out rows that were given their own class; None where it failed.
    standard_error : float or None
        Of `accuracy`: the deviation of the folds' accuracies, divided by the root of their number.
    fold_accuracy : tuple of float
        In each fold.
    inner_accuracy : tuple of float
        What cross-validation within the training rows of each fold says; empty unless it was asked for.
    fit_seconds : float
        Of one fit, on average.
    warnings : tuple of str
        What the estimator complained of.
    failed : str or None
        Why there is no accuracy.
    """

    estimator: str
    params: dict[str, Any]
    pooling: Pooling
    normalize: Normalize
    place: int = 0
    accuracy: float | None = None
    standard_error: float | None = None
    fold_accuracy: tuple[float, ...] = ()
    inner_accuracy: tuple[float, ...] = ()
    fit_seconds: float = 0.0
    warnings: tuple[str, ...] = ()
    failed: str | None = None
    views: ViewUse = "center"

    @property
    def derivation(self) -> Derivation:
        """Of the rows."""
        return Derivation(self.pooling, self.normalize, self.views)

    @property
    def recipe(self) -> tuple[str, Derivation, int]:
        """What tells a line from others."""
        return self.estimator, self.derivation, self.place

    def as_dict(self) -> dict[str, Any]:
        """Return the line as values that JSON can hold; views only where there are several."""
        return {name: value for name, value in asdict(self).items() if (name, value) != ("views", CENTER)}

    @property
    def setting(self) -> str:
        """The parameters as text: ``C=0.5``."""
        return ", ".join(f"{name}={value:g}" for name, value in self.params.items())

    @property
    def preference(self) -> tuple[object, ...]:
        """What decides among equals: fewer views, fewer columns, then the order of what is tried."""
        known = list(PRESETS)
        return (
            VIEW_USES.index(self.views),
            self.pooling == "none",
            known.index(self.estimator) if self.estimator in known else len(known),
            self.estimator,
            POOLINGS.index(self.pooling),
            NORMALIZATIONS.index(self.normalize),
            self.place,
        )


@dataclass
class Leaderboard:
    """All lines so far, best first.

    Attributes
    ----------
    of : dict
        What the lines are of: rows, labels, extractor, folds. Lines of anything else do not compare.
    rows, folds : int
        How many rows were held out in turn, in how many folds.
    majority : float or None
        Share of the rows that the commonest class would be right on.
    lines : list of Line
        The best first, failed ones last; among equals by `Line.preference`.
    """

    of: dict[str, Any]
    rows: int
    folds: int
    majority: float | None = None
    lines: list[Line] = field(default_factory=list)

    def add(self, lines: Sequence[Line]) -> None:
        """Take lines in, in the place of those of the same recipes."""
        new = {line.recipe for line in lines}
        self.lines = [line for line in self.lines if line.recipe not in new] + list(lines)
        self.lines.sort(key=lambda line: (line.accuracy is None, -(line.accuracy or 0), line.preference))

    def has(self, estimator: str, derivation: Derivation, *, nested: bool) -> bool:
        """Say whether all lines of an estimator on a derivation are there; if `nested`, inner ones too."""
        places = {
            line.place
            for line in self.lines
            if (line.estimator, line.derivation) == (estimator, derivation)
            and line.accuracy is not None
            and (line.inner_accuracy or not nested)
        }
        return places == set(range(len(grid_of(estimator, 1.0))))

    @property
    def best(self) -> Line | None:
        """The first line, unless it failed too."""
        return self.best_of(lambda line: True)

    def best_of(self, asked: Callable[[Line], bool]) -> Line | None:
        """Return the best of the lines that are asked for, or None if all of them failed."""
        return next((line for line in self.lines if line.accuracy is not None and asked(line)), None)

    @property
    def best_settings(self) -> list[Line]:
        """The best line of each estimator and derivation, best first; without those that failed."""
        found: dict[tuple[str, Derivation], Line] = {}
        for line in self.lines:
            if line.accuracy is not None:
                found.setdefault((line.estimator, line.derivation), line)
        return list(found.values())

    @property
    def succeeded(self) -> int:
        """How many lines have not failed."""
        return sum(line.accuracy is not None for line in self.lines)

    @property
    def nested(self) -> dict[str, float] | None:
        """Accuracy and standard error of choosing the best of some ``lines``: those with inner folds, if any.

        In each fold the line is chosen by its inner accuracy, which has not seen the fold, and counts with
        its accuracy in the fold.

        References
        ----------
        S. Varma, R. Simon, "Bias in error estimation when using cross-validation for model selection", BMC
        Bioinformatics 7 (2006).
        """
        lines = [line for line in self.lines if line.accuracy is not None and line.inner_accuracy]
        if not lines:
            return None
        lines.sort(key=lambda line: line.preference)  # their order here is by what the folds said
        inner = np.array([line.inner_accuracy for line in lines])  # (lines, folds)
        outer = np.array([line.fold_accuracy for line in lines])
        chosen = outer[inner.argmax(axis=0), np.arange(self.folds)]
        return {
            "accuracy": rounded(chosen.mean()),
            "standard_error": standard_error(chosen),
            "lines": len(lines),
        }

    def as_dict(self) -> dict[str, Any]:
        """Return the leaderboard as values that JSON can hold."""
        best = self.best
        return {
            "of": self.of,
            "rows": self.rows,
            "folds": self.folds,
            "majority": self.majority,
            "best": None if best is None else _brief(best),
            "optimistic": "The accuracy of the best line is what it was chosen by: expect less.",
            "nested": self.nested,
            "lines": [line.as_dict() for line in self.lines],
        }

    def write(self, path: Path) -> None:
        """Write it where the next sweep finds it, with what another sweep has added there meanwhile."""
        with contextlib.suppress(FileNotFoundError, _NotOne):
            of, lines = _stored(path)
            mine = {line.recipe for line in self.lines}
            self.add([line for line in lines if of == self.of and line.recipe not in mine])
        write_json(path, self.as_dict())

    @classmethod
    def read(cls, path: Path, of: dict[str, Any], rows: int, folds: int) -> Leaderboard:
        """Read the lines that earlier sweeps have left; none, with a warning, if they are of something else.

        Parameters
        ----------
        path : Path
            ``reports/sweep.json``, if there is one.
        of, rows, folds
            See `Leaderboard`.
        """
        board = cls(of, rows, folds)
        try:
            stored, lines = _stored(path)
        except FileNotFoundError:
            return board
        except _NotOne as error:
            warn(f"{printable(str(path))}: {error}; it is made again")
            return board
        if stored == of:
            board.add(lines)
        else:
            aside = path.replace(_free_name(path))
            warn(
                f"{printable(str(path))} is of other images, labels, features or folds: a new leaderboard "
                f"begins, the old one is kept as {aside.name}"
            )
        return board


def _free_name(path: Path) -> Path:
    """Return where an old leaderboard is kept: ``sweep.old.json``, then ``sweep.old.2.json`` and so on."""
    suffixes = itertools.chain([".old.json"], (f".old.{number}.json" for number in itertools.count(2)))
    return next(free for suffix in suffixes if not (free := path.with_suffix(suffix)).exists())


class _NotOne(Exception):
    """A file that is no leaderboard."""


def _stored(path: Path) -> tuple[dict[str, Any], list[Line]]:
    """Read what the lines of a file are of, and the lines."""
    try:
        stored = json.loads(path.read_bytes())
        return stored["of"], [build(Line, line, "lines") for line in stored["lines"]]
    except (ValueError, TypeError, KeyError, ParamsError) as error:
        raise _NotOne(f"not a leaderboard ({printable(str(error))})") from None


def rounded(value: Any) -> float:
    """Round to what is the same on all machines."""
    return round(float(value), _DIGITS)


def standard_error(fold_accuracy: Sequence[float] | np.ndarray[Any, Any]) -> float:
    """Return the standard error of the mean of folds' accuracies."""
    return rounded(np.std(fold_accuracy, ddof=1) / np.sqrt(len(fold_accuracy)))


def _brief(line: Line) -> dict[str, Any]:
    return {
        key: value
        for key, value in line.as_dict().items()
        if key in ("estimator", "params", "pooling", "normalize", "views", "accuracy", "standard_error")
    }
