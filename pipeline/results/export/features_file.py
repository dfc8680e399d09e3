"""All features with their labels as one plain HDF5 file, for whoever just wants the matrix."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py

from pipeline.files import replacing
from pipeline.heads.matrix import LabelledFeatures
from pipeline.params import SPLITS, Split
from pipeline.workspace import Workspace


@dataclass(frozen=True)
class FeaturesFile:
    """What was written.

    Attributes
    ----------
    path : Path
        Of the file.
    rows, columns : int
        Shape of its ``features``.
    dtype : str
        Their type, ``float16`` or ``float32``.
    classes : tuple of str
        Its labels, sorted.
    """

    path: Path
    rows: int
    columns: int
    dtype: str
    classes: tuple[str, ...]


def write_features(
    workspace: Workspace, path: Path, splits: Sequence[Split] = (), memory: int | None = None
) -> FeaturesFile:
    """Write the features of images, in the order of the manifest.

    Parameters
    ----------
    workspace : Workspace
        With a manifest and features.
    path : Path
        Of the HDF5 file. Its datasets: ``features`` (n, columns), as they are stored; ``labels``, ``paths``
        and ``split`` (n,), text; ``classes`` (k,), text, sorted. Its attribute ``identity``: the extractor,
        as JSON.
    splits : sequence of {"train", "val", "test"}
        Of which images; all by default.
    memory : int, optional
        See `LabelledFeatures.open`.

    Returns
    -------
    FeaturesFile

    Raises
    ------
    MissingRows, IdentityMismatch
        The features are not those of the manifest, or of what ``params.yaml`` asks for.
    HeadError
        There are fewer than two classes, or a label has no training image.
    OSError
        The file cannot be written; its `filename` is `path`.
    """
    features = LabelledFeatures.open(workspace, memory)
    matrix = features.matrix(*(splits or SPLITS))
    columns = {
        "labels": [image.label for image in matrix.images],
        "paths": matrix.paths,
        "split": [image.split for image in matrix.images],
        "classes": matrix.classes,
    }
    with (
        replacing(path) as temporary,
        temporary.open("xb+") as stream,  # a name HDF5 would open itself, and put errors in words of its own
        h5py.File(stream, "w", libver=("earliest", "v110")) as file,
    ):
        file.create_dataset("features", data=matrix.X, track_times=False)
        for name, values in columns.items():
            file.create_dataset(name, data=list(values), dtype=h5py.string_dtype(), track_times=False)
        file.attrs["identity"] = json.dumps(features.identity.as_dict(), sort_keys=True)
    rows, width = matrix.X.shape
    return FeaturesFile(path, rows, width, matrix.X.dtype.name, matrix.classes)
