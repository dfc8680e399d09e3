"""``pipeline sweep``: which head is best, found by cross-validation on the training and validation rows.

Owns the order of things: derivation after derivation, estimator after estimator, each finished line kept.
The test rows it never reads.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pipeline.cluster import Cluster
from pipeline.console import counted, note, progress
from pipeline.heads.cross_validation import Codes, CrossValidation, HeldOut
from pipeline.heads.derived import Derivation, has_positions
from pipeline.heads.factor import Factor, load_or_make, worth_factoring
from pipeline.heads.folds import FOLDS
from pipeline.heads.gram import Gram
from pipeline.heads.labelled_rows import FeatureMatrix, LabelledRows, factor_key
from pipeline.heads.leaderboard import Leaderboard, Line, rounded, standard_error
from pipeline.heads.matrix import LabelledFeatures
from pipeline.heads.parts import Parts
from pipeline.heads.recipe import Recipe, norm_of
from pipeline.heads.registry import build, grid_of
from pipeline.heads.stored_matrix import StoredMatrix
from pipeline.params import NORMALIZATIONS, POOLINGS, Normalize, Pooling
from pipeline.views import CENTER, VIEW_USES, ViewUse
from pipeline.workspace import Workspace

#: Estimators that a second or so is enough for; others are tried on request.
ESTIMATORS = ("logreg", "linear-svm", "ridge", "knn", "rbf-svm")

_VERSION = 1  # of what a line means; raise it when the same recipe would be scored otherwise


@dataclass(frozen=True)
class Space:
    """What is tried: every estimator on every derivation, with every value of its grid.

    Attributes
    ----------
    estimators : tuple of str
        Short names, or dotted paths of classes.
    poolings, normalizations : tuple of str
        See `Derivation`. With no pooling named, all that the features have positions for.
    views : tuple of str
        See `Derivation`. With none named, all that the features have views for.
    trust : bool
        Whether estimators outside scikit-learn may be imported.
    """

    estimators: tuple[str, ...] = ESTIMATORS
    poolings: tuple[Pooling, ...] = ()
    normalizations: tuple[Normalize, ...] = NORMALIZATIONS
    views: tuple[ViewUse, ...] = ()
    trust: bool = False

    def derivations(self, dimension: int, *, several_views: bool = False) -> list[Derivation]:
        """Return all of them, those with fewer rows and columns first: they are quick, and often as good.

        Parameters
        ----------
        dimension : int
            Columns of a stored row.
        several_views : bool, default False
            Whether there are more views than the centre.

        Raises
        ------
        HeadError
            A pooling is named, and there are no positions to pool over.
        """
        poolings = self.poolings or (POOLINGS if has_positions(dimension) else ("none",))
        views = self.views or (VIEW_USES if several_views else (CENTER,))
        found = [
            Derivation(pooling, normal, use)
            for pooling in poolings
            for normal in self.normalizations
            for use in views
        ]
        return sorted(found, key=lambda each: (each.views == "stack", each.columns(dimension)))

    def holds(self, line: Line) -> bool:
        """Say whether a line is one of those that are tried."""
        return (
            line.estimator in self.estimators
            and (line.pooling in self.poolings or not self.poolings)
            and line.normalize in self.normalizations
            and (line.views in self.views or not self.views)
        )

    def check(self) -> None:
        """See that the estimators exist.

        Raises
        ------
        HeadError
            One does not.
        """
        for estimator in self.estimators:
            build(estimator, {}, seed=0, trust=self.trust)


def sweep(
    workspace: Workspace,
    space: Space = Space(),
    *,
    folds: int = FOLDS,
    nested: bool = False,
    jobs: int | None = None,
    memory: int | None = None,
    device: str = "auto",
    cluster: Cluster | None = None,
) -> Leaderboard:
    """Cross-validate all of a space, and keep the leaderboard in ``reports/sweep.json``.

    Lines that an earlier sweep over the same rows and folds has left there are not computed again.

    Parameters
    ----------
    workspace : Workspace
        With a manifest and features.
    space : Space
        What is tried.
    folds : int, default 5
        At least 2. Copies of an image, and images of one group, are held out together.
    nested : bool, default False
        Whether to cross-validate within the training rows of each fold too, which says how good the
        choice of the best line is; it takes as many times longer as there are folds.
    jobs : int, optional
        See `CrossValidation`.
    memory : int, optional
        See `LabelledFeatures.open`.
    device : {"auto", "cpu", "cuda"}
        See `CrossValidation`; ``auto`` takes CUDA where it is there.
    cluster : Cluster, optional
        Whose workers fit the heads that are fitted one by one. They read the features themselves.

    Returns
    -------
    Leaderboard
        With the lines of earlier sweeps, as far as they compare.

    Raises
    ------
    HeadError
        An estimator does not exist, there are too few images for so many folds, or features have no
        positions to pool over, or no views beside the centre.
    MissingRows, IdentityMismatch
        The features are not those of the manifest, or of what ``params.yaml`` asks for.
    """
    features = LabelledFeatures.open(workspace, memory)
    space.check()  # imports scikit-learn, which takes its time
    views = features.params.extract.views
    for use in space.views:
        features.views_of(use)
    rows = features.labels("train", "val")
    parts = Parts.of(rows, folds, features.params.seed, nested=nested)
    held = sum(len(test) for _, test in parts.outer)
    if held < len(rows.y):
        note(
            f"{counted(len(rows.y) - held, 'image')} always learned from: held out, a class would be missing"
        )
    board = Leaderboard.read(workspace.sweep_file, _about(features, rows, parts), held, folds)
    board.majority = rounded(np.bincount(rows.y).max() / len(rows.y))
    todo = {
        derivation: [each for each in space.estimators if not board.has(each, derivation, nested=nested)]
        for derivation in space.derivations(features.identity.dimension, several_views=len(views) > 1)
    }
    todo = {derivation: estimators for derivation, estimators in todo.items() if estimators}
    if not todo:
        return board
    if cluster:
        cluster.require_alike(workspace.store_folder)
    heads = sum(len(grid_of(each, 1.0)) for estimators in todo.values() for each in estimators)
    with (
        progress("sweep", heads * parts.count, "fits") as advance,
        cluster.jobs() if cluster else contextlib.nullcontext(),
    ):
        for derivation, estimators in todo.items():
            matrix = features.matrix("train", "val", derivation=derivation)
            validation = CrossValidation(
                matrix.X,
                matrix.row_y,
                matrix.classes,
                standardize=derivation.normalize == "standardize",
                memory=features.memory.shared(1 + len(parts.inner)),
                jobs=jobs,
                factor_of=_factors(workspace, features, matrix, derivation),
                device=device,
                stored=StoredMatrix(workspace.root.absolute(), derivation, matrix.digest, memory)
                if cluster
                else None,
            )
            learned, _ = matrix.all_learned()
            norm = norm_of(derivation.scaled(learned)) or 1.0
            on_rows = parts.on(matrix)
            try:
                for estimator in estimators:
                    recipes = [
                        Recipe(
                            estimator, params, matrix.classes, derivation, features.params.seed, space.trust
                        )
                        for params in grid_of(estimator, norm)
                    ]
                    board.add(_lines(recipes, validation, on_rows, advance))
            finally:  # after Ctrl-C, too: what is finished is kept
                board.write(workspace.sweep_file)
    return board


def _lines(
    recipes: Sequence[Recipe], validation: CrossValidation, parts: Parts, advance: Callable[[int], object]
) -> list[Line]:
    """Cross-validate the recipes of one estimator and one derivation."""
    found = validation.held_out(recipes, parts.outer, advance)
    inner = [validation.held_out(recipes, folds, advance) for folds in parts.inner]
    return [
        _line(place, recipe, found[place], [each[place] for each in inner], validation.y, parts)
        for place, recipe in enumerate(recipes)
    ]


def _line(
    place: int, recipe: Recipe, held_out: HeldOut, inner: Sequence[HeldOut], y: Codes, parts: Parts
) -> Line:
    line = Line(
        estimator=recipe.estimator,
        params=dict(recipe.params),
        pooling=recipe.derivation.pooling,
        normalize=recipe.derivation.normalize,
        views=recipe.derivation.views,
        place=place,
        fit_seconds=round(held_out.seconds, 4),
        warnings=tuple(dict.fromkeys(said for each in (held_out, *inner) for said in each.warnings)),
    )
    failure = next((each.failure for each in (held_out, *inner) if each.failure), None)
    if failure:
        return replace(line, failed=failure)
    right = held_out.codes == y
    by_fold = [rounded(right[test].mean()) for _, test in parts.outer]
    tested = np.concatenate([test for _, test in parts.outer])
    return replace(
        line,
        accuracy=rounded(right[tested].mean()),
        standard_error=standard_error(by_fold),
        fold_accuracy=tuple(by_fold),
        inner_accuracy=tuple(
            rounded(np.concatenate([each.codes[test] == y[test] for _, test in folds]).mean())
            for each, folds in zip(inner, parts.inner, strict=True)
        ),
    )


def _factors(
    workspace: Workspace, features: LabelledFeatures, matrix: FeatureMatrix, derivation: Derivation
) -> Callable[[Gram], Factor]:
    """Return what gives the factor of all rows: kept where it took long, for the next sweep."""
    if not worth_factoring(len(matrix.X), derivation.columns(features.identity.dimension)):
        return lambda gram: gram.factor
    key = factor_key(features.identity, matrix.digest, derivation)
    return lambda gram: load_or_make(workspace.factors_folder, key, lambda: gram.factor)


def _about(features: LabelledFeatures, rows: LabelledRows, parts: Parts) -> dict[str, Any]:
    """Say what lines are of: what differs in it does not compare."""
    digest = hashlib.sha256()
    for _, test in parts.outer:
        digest.update(np.ascontiguousarray(test, "<i8").tobytes() + b"|")
    views = features.params.extract.views
    return {
        "version": _VERSION,
        "identity": features.identity.as_dict(),
        **({} if views == (CENTER,) else {"views": list(views)}),
        "rows_sha256": rows.digest,
        "folds_sha256": digest.hexdigest(),
        "seed": features.params.seed,
    }
