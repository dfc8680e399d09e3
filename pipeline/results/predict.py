"""Labels for images that the head has never seen: the same way as in training, row by row.

Owns which files are meant, and where each row comes from: the store where it holds the image,
the network where not. It writes nothing.
"""

from __future__ import annotations

import contextlib
import glob
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from pipeline.console import printable, progress
from pipeline.dataset.examiner import look_at
from pipeline.dataset.sources.names import has_image_suffix
from pipeline.dataset.sources.walk import LabelledFolder, list_files
from pipeline.errors import IdentityMismatch, MissingRows, SourceError, SourceMissing
from pipeline.features.extractor import Execution, Extractor, chunks
from pipeline.features.store import Features, FeatureStore, RowKey
from pipeline.heads import model_folder
from pipeline.heads.model import UNSURE, Model
from pipeline.networks.model_extractor import ModelExtractor
from pipeline.workspace import Workspace

_CHUNK = 256  # images whose features are held at once


@dataclass(frozen=True)
class Prediction:
    """What the head says of one image.

    Attributes
    ----------
    path : str
        As it was given, or found.
    label : str or None
        ``unsure`` where the best label is less probable than the head demands; None for a file that could
        not be used.
    probabilities : dict of str to float, or None
        By label, summing to 1, the most probable first; None for a head that has none.
    error : str or None
        Why a file could not be used.
    best : str or None
        The most probable label, where `label` is ``unsure``.
    """

    path: str
    label: str | None
    probabilities: dict[str, float] | None
    error: str | None = None
    best: str | None = None


def predict(
    workspace: Workspace,
    model: str,
    images: Sequence[str],
    *,
    device: str = "auto",
    trust: bool = False,
) -> list[Prediction]:
    """Predict the label of images.

    Parameters
    ----------
    workspace : Workspace
        Its ``params.yaml`` says which extractor is in use; a model that brings its own network needs it not.
    model : str
        A model's name, or the path of its folder.
    images : sequence of str
        Files, folders (searched to any depth) and patterns such as ``holiday/*.jpg``.
    device : {"auto", "cuda", "mps", "cpu"}
        Where the network runs, if it has to.
    trust : bool, default False
        Whether a pickled head may be loaded.

    Returns
    -------
    list of Prediction
        In the order given, folders sorted. One does not depend on the others.

    Raises
    ------
    ModelError
        There is no such model, it is damaged, or needs `trust`.
    IdentityMismatch
        It was trained on features of another extractor than the one in use.
    SourceError
        Something given does not exist or holds no images.
    """
    folder = model_folder.folder_of(workspace, model)
    head = model_folder.load(folder, trust=trust)
    asked = ModelExtractor.of(workspace, folder, head)
    files = [file for given in images for file in _files(given)]
    source = _FeatureSource(asked, head.views, Execution(device))
    predictions: list[Prediction] = []
    with progress("predict", len(files)) as advance:
        for chunk in chunks(files, _CHUNK):
            X, errors = source.features(chunk, advance)
            usable = [number for number in range(len(chunk)) if number not in errors]
            rows = X[usable].reshape(-1, X.shape[2])
            predicted = _predictions(head, [str(chunk[number]) for number in usable], rows)
            for number, file in enumerate(chunk):
                failed = number in errors
                predictions.append(
                    Prediction(str(file), None, None, errors[number]) if failed else next(predicted)
                )
    return predictions


class _FeatureSource:
    """Features of files: from the store where it has all views of one, from the network where not.

    The network is set up only when the first image needs it.
    """

    def __init__(self, asked: ModelExtractor, views: tuple[str, ...], execution: Execution) -> None:
        self._asked, self._views, self._execution = asked, views, execution
        self._identity = asked.identity
        self._store: FeatureStore | None = None
        # Without a store of this identity everything is computed, and comes out the same.
        with contextlib.suppress(MissingRows, IdentityMismatch):
            if asked.store is not None:
                self._store = FeatureStore.open(asked.store, asked.identity)

    @cached_property
    def _extractor(self) -> Extractor:
        return self._asked.extractor(self._execution)

    def features(
        self, files: Sequence[Path], advance: Callable[[int], None]
    ) -> tuple[Features, dict[int, str]]:
        """Return the rows of each file, shape (n, views, dimension); and why those have none that have none.

        The reasons are by position.
        """
        known: dict[int, list[RowKey]] = {}
        unknown: list[int] = []
        errors: dict[int, str] = {}
        for number, file in enumerate(files):
            verdict, _ = look_at(file, decode_too=False)
            if verdict.reason:
                errors[number] = verdict.reason
                continue
            keys = [RowKey(verdict.sha256, view) for view in self._views]
            if self._store and self._store.holds(keys).all():
                known[number] = keys
            else:
                unknown.append(number)
        X = np.zeros((len(files), len(self._views), self._identity.dimension), self._identity.storage)
        if known and self._store:
            rows = self._store.read(list(itertools.chain.from_iterable(known.values())))
            X[list(known)] = rows.reshape(-1, *X.shape[1:])
        advance(len(known) + len(errors))
        if unknown:
            views = itertools.repeat({"views": self._views})
            decoded = self._extractor.decoded([files[n] for n in unknown], views=views)
            images = zip(unknown, decoded, strict=True)
            while group := list(itertools.islice(images, self._extractor.batch_size)):
                seen = {number: image.views for number, image in group if image.views is not None}
                errors |= {number: image.verdict.reason for number, image in group if image.views is None}
                if seen:
                    rows = self._extractor.forward(list(itertools.chain.from_iterable(seen.values())))
                    X[list(seen)] = rows.reshape(-1, *X.shape[1:])
                advance(len(group))
        return X, errors


def _predictions(head: Model, paths: Sequence[str], X: Features) -> Iterator[Prediction]:
    predicted = head.predict(X)
    for row, (path, label, sure) in enumerate(zip(paths, predicted.labels, predicted.sure, strict=True)):
        probabilities = None
        if predicted.probabilities is not None:
            pairs = zip(predicted.classes, predicted.probabilities[row].tolist(), strict=True)
            probabilities = dict(sorted(pairs, key=lambda pair: -pair[1]))
        if sure:
            yield Prediction(path, label, probabilities)
        else:
            yield Prediction(path, UNSURE, probabilities, best=label)


def _files(given: str) -> list[Path]:
    """Find the files meant by one argument; what they are is seen later."""
    if not given:
        raise SourceMissing("an image's name is empty: name a file, a folder or a pattern.")
    try:
        path = Path(given).expanduser()
    except RuntimeError:
        raise SourceMissing(f"{printable(given)}: no such user. Write the path in full.") from None
    if path.is_dir():
        listed = list_files(path, [LabelledFolder("", "")]).candidates
        found = sorted(candidate.file for candidate in listed if has_image_suffix(candidate.file.name))
    elif os.path.lexists(path):
        found = [path]
    else:
        matches = sorted(glob.glob(str(path), recursive=True))  # noqa: PTH207 (absolute patterns too)
        found = [Path(match) for match in matches if not Path(match).is_dir()]
        if not found:
            raise SourceMissing(
                f"{printable(given)}: there is no such file or folder, and no file matches it."
            )
    if not found:
        raise SourceError(f"{printable(given)}: this folder holds no images (.jpg, .png, …).")
    return found
