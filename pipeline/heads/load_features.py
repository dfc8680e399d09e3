"""Features and labels of a workspace as arrays, for experiments in Python: `pipeline.load_features`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.errors import ParamsError
from pipeline.heads.derived import Derivation
from pipeline.heads.matrix import LabelledFeatures
from pipeline.params import NORMALIZATIONS, POOLINGS, SPLITS, Normalize, Pooling, Split, did_you_mean
from pipeline.workspace import Workspace


class LoadedFeatures(NamedTuple):
    """What `load_features` returns, to be taken apart: ``X, y, paths = load_features()``.

    Attributes
    ----------
    X : ndarray of float16 or float32, shape (n, columns)
        A row an image.
    y : ndarray of str, shape (n,)
        Labels.
    paths : ndarray of str, shape (n,)
        The images, as the manifest names them.
    """

    X: npt.NDArray[np.floating[Any]]
    y: npt.NDArray[np.str_]
    paths: npt.NDArray[np.str_]


def load_features(
    workspace: str | os.PathLike[str] = ".",
    split: Split | Sequence[Split] | None = None,
    *,
    pooling: Pooling = "none",
    normalize: Normalize = "none",
    memory: int | None = None,
) -> LoadedFeatures:
    """Read the features and labels of a workspace.

    Parameters
    ----------
    workspace : str or path-like, default "."
        The folder that holds ``params.yaml``.
    split : {"train", "val", "test"} or several of them, optional
        Of which images; of all by default. Choose among models by ``val``, and look at ``test`` once.
    pooling : {"none", "avg", "max"}, default "none"
        Over the positions of each channel.
    normalize : {"none", "l2", "sqrt_l2"}, default "none"
        See `Derivation`.
    memory : int, optional
        Bytes; a larger matrix goes to a mapped file under ``cache/``. By default half of what is free.

    Returns
    -------
    X : ndarray of float16 or float32, shape (n, columns)
        In the order of the manifest; as they are stored, or float32 where they are pooled or normalised.
        (scikit-learn makes float64 of float16: ``X.astype("float32")`` halves that.)
    y : ndarray of str, shape (n,)
        Labels.
    paths : ndarray of str, shape (n,)
        The images, as the manifest names them.

    Raises
    ------
    WorkspaceError
        `workspace` is none.
    ParamsError
        `split`, `pooling` or `normalize` is another than these.
    MissingRows, IdentityMismatch
        The features are not those of the manifest, or of what ``params.yaml`` asks for.
    HeadError
        There are fewer than two classes, or a label has no training image.
    """
    splits: tuple[Any, ...] = (
        SPLITS if split is None else (split,) if isinstance(split, str) else tuple(split)
    )
    for name in splits:
        _require("split", name, SPLITS)
    _require("pooling", pooling, POOLINGS)
    _require("normalize", normalize, [name for name in NORMALIZATIONS if name != "standardize"])
    derivation = Derivation(pooling, normalize)
    features = LabelledFeatures.open(Workspace(Path(workspace)), memory)
    matrix = features.matrix(*splits, derivation=None if derivation == Derivation() else derivation)
    labels = np.array([image.label for image in matrix.images], np.str_)
    return LoadedFeatures(matrix.X, labels, np.array(matrix.paths, np.str_))


def _require(what: str, found: str, known: Sequence[str]) -> None:
    if found not in known:
        raise ParamsError(
            f"load_features: {what} {found!r}: expected {', '.join(known)}.{did_you_mean(str(found), known)}"
        )
