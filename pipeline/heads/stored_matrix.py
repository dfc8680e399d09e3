"""Rows by where they are kept, for processes that share the folder: they read them, and are not sent any.

Owns how another process comes to the very matrix that is meant.
"""

from __future__ import annotations

import functools
import threading
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import HeadError
from pipeline.heads.derived import Derivation
from pipeline.heads.labelled_rows import FeatureMatrix
from pipeline.heads.matrix import LabelledFeatures
from pipeline.workspace import Workspace

_LOADING = threading.Lock()


@dataclass(frozen=True)
class StoredMatrix:
    """The rows of train and val, derived.

    Attributes
    ----------
    workspace : Path
        Whose rows.
    derivation : Derivation
        What they become.
    digest : str
        Which rows, and under which labels (`LabelledRows.digest`).
    memory : int or None
        See `LabelledFeatures.open`.
    """

    workspace: Path
    derivation: Derivation
    digest: str
    memory: int | None = None

    def load(self) -> FeatureMatrix:
        """Read the rows; this process keeps them until it is asked for others.

        Raises
        ------
        HeadError
            The workspace has other rows by now.
        """
        with _LOADING:  # for whoever comes second, they are there
            return _loaded(self)


@functools.lru_cache(maxsize=1)
def _loaded(stored: StoredMatrix) -> FeatureMatrix:
    features = LabelledFeatures.open(Workspace(stored.workspace), stored.memory)
    matrix = features.matrix("train", "val", derivation=stored.derivation)
    if matrix.digest != stored.digest:
        raise HeadError(f"{stored.workspace}: the images have changed meanwhile. Run `pipeline sweep` again.")
    return matrix
