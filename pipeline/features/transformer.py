"""VGG16's features as a scikit-learn transformer: images in, rows out, kept in a store if one is named.

Owns the way from whatever names or holds an image to its row. How features are computed and stored is the
extractor's and the store's business.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin

from pipeline.console import counted, printable
from pipeline.dataset.examiner import look_at
from pipeline.errors import ParamsError, SourceError
from pipeline.features.description import is_store
from pipeline.features.extractor import Execution, Extractor
from pipeline.features.identity import DIMENSION, Identity, identity_of
from pipeline.features.shard_writer import ShardWriter
from pipeline.features.store import Features, FeatureStore, RowKey
from pipeline.features.transforms import to_pixels
from pipeline.features.weights import resolve_weights
from pipeline.params import ExtractParams
from pipeline.typed import build
from pipeline.workspace import Workspace

_Image = Path | npt.NDArray[np.uint8]


class VGG16Features(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """The 25,088 numbers behind VGG16's ``avgpool``, of image files or of decoded images.

    It learns nothing: `fit` only checks the parameters. What `store` holds is not computed again, and what
    is computed is kept there; one process at a time writes a store, so transform all images once before a
    search with `n_jobs`.

    Parameters
    ----------
    weights : str, default "oxford"
        As ``extract.weights`` of ``params.yaml``; a relative path starts at the current folder.
    precision : {"half", "float32"}, default "half"
        Precision class of the forward pass.
    resize, image_size : int, default 256 and 224
        Pixels of the shorter side after resizing, and of the square cut from its centre.
    storage : {"float16", "float32"}, default "float16"
        What the numbers are rounded to, stored or not.
    store : str, path-like or None, default None
        Folder of a feature store, such as a workspace's ``cache/features``; made where it is missing. With
        None everything is computed each time.
    device : {"auto", "cuda", "mps", "cpu"}, default "auto"
        Where the network runs.
    batch_size, workers : int or None, default None
        Images pushed through at once, and processes that decode; None for what is fast.

    Examples
    --------
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.pipeline import make_pipeline
    >>> classifier = make_pipeline(VGG16Features(store="features"), LogisticRegression(C=1e-4))
    >>> classifier.fit(["cat.jpg", "dog.jpg"], ["cat", "dog"])  # doctest: +SKIP
    """

    def __init__(
        self,
        weights: str = "oxford",
        precision: str = "half",
        resize: int = 256,
        image_size: int = 224,
        storage: str = "float16",
        store: str | os.PathLike[str] | None = None,
        device: str = "auto",
        batch_size: int | None = None,
        workers: int | None = None,
    ) -> None:
        self.weights = weights
        self.precision = precision
        self.resize = resize
        self.image_size = image_size
        self.storage = storage
        self.store = store
        self.device = device
        self.batch_size = batch_size
        self.workers = workers

    def fit(self, X: Any, y: Any = None) -> VGG16Features:
        """Check the parameters; the images are not looked at.

        Raises
        ------
        ParamsError
            A parameter is out of its range, or `store` is a workspace and no store.
        """
        self._params()
        return self

    def transform(self, X: Any) -> npt.NDArray[np.float32]:
        """Return the features of images.

        Parameters
        ----------
        X : sequence of str, path-like or ndarray of uint8, shape (height, width, 3); length n
            Image files, or images: upright, red, green and blue. An ndarray of either will do.

        Returns
        -------
        ndarray of float32, shape (n, 25088)
            A row depends on its image only.

        Raises
        ------
        TypeError, ValueError
            `X` is a single path, or an item is neither.
        SourceError
            A file cannot be read or decoded. Features of the others are stored.
        IdentityMismatch
            The store is of another extractor.
        StoreLocked
            Another process is writing the store, and there is something to be stored.
        WeightsError, DeviceError
            The network cannot be set up.
        """
        params = self._params()
        weights = resolve_weights(params.weights, Path())
        images = _images(X)
        keys, failures = _keys(images)
        store = self._opened(identity_of(params, weights))
        stored = store.holds(list(keys.values())).tolist() if store else [False] * len(keys)
        todo = {  # one of each set of copies
            key: place for (place, key), there in zip(keys.items(), stored, strict=True) if not there
        }
        rows = np.empty((len(images), DIMENSION), np.float32)
        if todo:
            execution = Execution(self.device, batch_size=self.batch_size, workers=self.workers)
            extractor = Extractor(params, weights, execution)
            pixels = _pixels(
                extractor, params, {place: images[place] for place in todo.values()}, keys, failures
            )
            with _keeping(store, extractor.made_with) as keep, contextlib.closing(pixels):
                while batch := dict(itertools.islice(pixels, extractor.batch_size)):
                    features = extractor.forward(list(batch.values()))
                    rows[list(batch)] = features
                    keep([keys[place] for place in batch], features)
        _refuse(failures, len(images))
        known = [place for place, key in keys.items() if key not in todo]
        if store and known:
            rows[known] = store.read([keys[place] for place in known])
        for place, key in keys.items():
            rows[place] = rows[todo.get(key, place)]
        return rows

    @property
    def _n_features_out(self) -> int:
        """How many names `get_feature_names_out` gives."""
        return DIMENSION

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.requires_fit = False
        tags.input_tags.two_d_array = False
        tags.input_tags.string = True
        return tags

    def _params(self) -> ExtractParams:
        names = ("weights", "precision", "resize", "image_size", "storage")
        params: ExtractParams = build(
            ExtractParams, {name: getattr(self, name) for name in names}, "VGG16Features"
        )
        if params.precision == "int8":
            raise ParamsError(
                "VGG16Features.precision: int8 needs a network that is drawn from training images. Give half "
                "or float32; `pipeline extract` computes in int8."
            )
        if self.store is not None and ((root := Path(self.store).expanduser()) / "params.yaml").is_file():
            raise ParamsError(
                f"VGG16Features.store: {root} is a workspace: its store is {Workspace(root).store_folder}."
            )
        return params

    def _opened(self, identity: Identity) -> FeatureStore | None:
        if self.store is None:
            return None
        folder = Path(self.store).expanduser()
        if not is_store(folder):
            return FeatureStore.create(folder, identity)
        store = FeatureStore.open(folder)
        store.identity.require(
            identity,
            f"the features in {folder}",
            "what VGG16Features asks for",
            "Name another folder as its store.",
        )
        return store


def _images(X: Any) -> list[_Image]:
    """Take each item for a file or an image."""
    if isinstance(X, str | os.PathLike):
        raise TypeError(f"VGG16Features: expected a sequence of images, found a single one. Give [{X!r}].")
    images: list[_Image] = []
    for place, item in enumerate(X):
        if isinstance(item, str | os.PathLike):
            images.append(Path(item).expanduser())
            continue
        array = np.asarray(item)
        if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or not array.size:
            raise ValueError(
                f"VGG16Features: item {place} is no path, and no image of type uint8 and shape "
                f"(height, width, 3): {type(item).__name__} of {array.dtype}{array.shape}."
            )
        images.append(array)
    return images


def _keys(images: Sequence[_Image]) -> tuple[dict[int, RowKey], dict[int, str]]:
    """Return the keys of images by their places, and why those have none that cannot be read."""
    keys, failures = {}, {}
    for place, image in enumerate(images):
        if isinstance(image, Path):
            verdict, _ = look_at(image, decode_too=False)
            if verdict.reason:
                reason = "no such file" if verdict.reason == "vanished" else verdict.reason
                failures[place] = f"{image}: {reason}"
            else:
                keys[place] = RowKey(verdict.sha256)
        else:  # no file has these bytes: with such a beginning it is no image
            digest = hashlib.sha256(f"pixels {image.shape}\n".encode())
            digest.update(np.ascontiguousarray(image).data)
            keys[place] = RowKey(digest.hexdigest())
    return keys, failures


def _pixels(
    extractor: Extractor,
    params: ExtractParams,
    images: Mapping[int, _Image],
    keys: Mapping[int, RowKey],
    failures: dict[int, str],
) -> Generator[tuple[int, npt.NDArray[np.uint8]], None, None]:
    """Resize and crop images; a file that cannot be decoded becomes a failure."""
    files = {place: image for place, image in images.items() if isinstance(image, Path)}
    with contextlib.closing(extractor.decoded(files.values())) as decoded:
        for (place, file), image in zip(files.items(), decoded, strict=True):
            if image.pixels is not None and image.verdict.sha256 == keys[place].sha256:
                yield place, image.pixels
            else:
                failures[place] = f"{file}: {image.verdict.reason or 'changed_while_read'}"
    for place, array in images.items():
        if not isinstance(array, Path):
            yield place, np.asarray(to_pixels(Image.fromarray(array), params.resize, params.image_size))


@contextlib.contextmanager
def _keeping(
    store: FeatureStore | None, made_with: dict[str, str]
) -> Iterator[Callable[[Sequence[RowKey], Features], None]]:
    """Give what keeps rows: the writing of a store, or nothing."""
    if store is None:
        yield lambda keys, features: None
    else:
        with store.writing(), ShardWriter(store, made_with) as writer:
            yield writer.add


def _refuse(failures: Mapping[int, str], count: int) -> None:
    if failures:
        first = failures[min(failures)]
        raise SourceError(
            f"VGG16Features: {len(failures)} of {counted(count, 'image')} could not be used "
            f"(first: {printable(first)}). Leave out what cannot be used."
        )
