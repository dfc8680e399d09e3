"""A network's features as a scikit-learn transformer: images in, rows out, kept in a store if one is named.

Owns which rows are computed, and which are read. How features are computed and stored is the extractor's and
the store's business.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin

from pipeline.architectures import architecture_of
from pipeline.console import counted, printable
from pipeline.errors import ParamsError, SourceError
from pipeline.features.description import is_store
from pipeline.features.extractor import Execution, Extractor
from pipeline.features.given_images import Given, keys_of, pixels_of
from pipeline.features.identity import Identity, identity_of
from pipeline.features.shard_writer import ShardWriter
from pipeline.features.store import Features, FeatureStore, RowKey
from pipeline.features.weights import resolve_weights
from pipeline.params import ExtractParams
from pipeline.typed import build
from pipeline.workspace import Workspace


class BackboneFeatures(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """What a pretrained network makes of image files or of decoded images, before its last layer.

    It learns nothing: `fit` only checks the parameters. What `store` holds is not computed again, and what
    is computed is kept there; one process at a time writes a store, so transform all images once before a
    search with `n_jobs`.

    Parameters
    ----------
    backbone : str
        As ``extract.backbone`` of ``params.yaml``: one of torchvision's classifiers.
    weights : str, default "DEFAULT"
        As ``extract.weights``; a relative path starts at the current folder.
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

    See Also
    --------
    VGG16Features : the same of the pipeline's default network.

    Examples
    --------
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.pipeline import make_pipeline
    >>> classifier = make_pipeline(BackboneFeatures("resnet50", store="features"), LogisticRegression())
    >>> classifier.fit(["cat.jpg", "dog.jpg"], ["cat", "dog"])  # doctest: +SKIP
    """

    def __init__(
        self,
        backbone: str,
        weights: str = "DEFAULT",
        precision: str = "half",
        resize: int = 256,
        image_size: int = 224,
        storage: str = "float16",
        store: str | os.PathLike[str] | None = None,
        device: str = "auto",
        batch_size: int | None = None,
        workers: int | None = None,
    ) -> None:
        self.backbone = backbone
        self.weights = weights
        self.precision = precision
        self.resize = resize
        self.image_size = image_size
        self.storage = storage
        self.store = store
        self.device = device
        self.batch_size = batch_size
        self.workers = workers

    def fit(self, X: Any, y: Any = None) -> Self:
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
        ndarray of float32, shape (n, features)
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
        weights = resolve_weights(params.weights, Path(), params.backbone)
        images = self._images(X)
        keys, failures = keys_of(images)
        store = self._opened(identity_of(params, weights))
        stored = store.holds(list(keys.values())).tolist() if store else [False] * len(keys)
        todo = {  # one of each set of copies
            key: place for (place, key), there in zip(keys.items(), stored, strict=True) if not there
        }
        rows = np.empty((len(images), self._n_features_out), np.float32)
        if todo:
            execution = Execution(self.device, batch_size=self.batch_size, workers=self.workers)
            extractor = Extractor(params, weights, execution)
            pixels = pixels_of(
                extractor, params, {place: images[place] for place in todo.values()}, keys, failures
            )
            with _keeping(store, extractor.made_with) as keep, contextlib.closing(pixels):
                while batch := dict(itertools.islice(pixels, extractor.batch_size)):
                    features = extractor.forward(list(batch.values()))
                    rows[list(batch)] = features
                    keep([keys[place] for place in batch], features)
        self._refuse(failures, len(images))
        known = [place for place, key in keys.items() if key not in todo]
        if store and known:
            rows[known] = store.read([keys[place] for place in known])
        for place, key in keys.items():
            rows[place] = rows[todo.get(key, place)]
        return rows

    @property
    def _n_features_out(self) -> int:
        """How many names `get_feature_names_out` gives."""
        return architecture_of(self.backbone).dimension

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.requires_fit = False
        tags.input_tags.two_d_array = False
        tags.input_tags.string = True
        return tags

    @property
    def _name(self) -> str:
        """For messages."""
        return type(self).__name__

    def _params(self) -> ExtractParams:
        names = ("backbone", "weights", "precision", "resize", "image_size", "storage")
        params: ExtractParams = build(
            ExtractParams, {name: getattr(self, name) for name in names}, self._name
        )
        if params.precision == "int8":
            raise ParamsError(
                f"{self._name}.precision: int8 needs a network that is drawn from training images. Give half "
                "or float32; `pipeline extract` computes in int8."
            )
        if self.store is not None and ((root := Path(self.store).expanduser()) / "params.yaml").is_file():
            raise ParamsError(
                f"{self._name}.store: {root} is a workspace: its store is {Workspace(root).store_folder}."
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
            f"what {self._name} asks for",
            "Name another folder as its store.",
        )
        return store

    def _images(self, X: Any) -> list[Given]:
        """Take each item for a file or an image."""
        if isinstance(X, str | os.PathLike):
            raise TypeError(f"{self._name}: expected a sequence of images, found a single one. Give [{X!r}].")
        images: list[Given] = []
        for place, item in enumerate(X):
            if isinstance(item, str | os.PathLike):
                images.append(Path(item).expanduser())
                continue
            array = np.asarray(item)
            if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or not array.size:
                raise ValueError(
                    f"{self._name}: item {place} is no path, and no image of type uint8 and shape "
                    f"(height, width, 3): {type(item).__name__} of {array.dtype}{array.shape}."
                )
            images.append(array)
        return images

    def _refuse(self, failures: Mapping[int, str], count: int) -> None:
        if failures:
            first = failures[min(failures)]
            raise SourceError(
                f"{self._name}: {len(failures)} of {counted(count, 'image')} could not be used "
                f"(first: {printable(first)}). Leave out what cannot be used."
            )


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
