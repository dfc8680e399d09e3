"""What a head sees of stored features: positions pooled, rows and columns brought to one scale.

Owns the arithmetic. What a row becomes never depends on the rows beside it, to the last bit: all
that is learned from other rows, the training rows, is a `Standardization`. It touches no disk.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import HeadError, ModelError
from pipeline.features.identity import DIMENSION
from pipeline.params import Normalize, Pooling
from pipeline.views import CENTER, ViewUse

Rows = npt.NDArray[np.float32]

#: Channels of VGG16's last layer; each has 7 × 7 = 49 neighbouring columns of a stored row. The features of
#: other networks have no positions.
CHANNELS = 512
# Rows worked on at once: their copies in float64, 3 MB, stay near the processor.
_BLOCK = 16


def has_positions(dimension: int) -> bool:
    """Say whether stored rows of so many columns have positions to pool over: VGG16's have."""
    return dimension == DIMENSION


@dataclass(frozen=True)
class Derivation:
    """How stored features become the rows that a head learns from.

    Attributes
    ----------
    pooling : {"none", "avg", "max"}
        Mean or largest of each channel's 49 positions, or all of them.
    normalize : {"none", "l2", "sqrt_l2", "standardize"}
        ``l2`` divides a row by its Euclidean length, ``sqrt_l2`` does so after taking signed square
        roots; a row of zeros stays as it is. ``standardize`` needs the training rows: `rows` leaves it
        to `Standardization`.
    views : {"center", "average", "stack"}
        What a head sees of an image: the view ``center``; the mean of its views, taken after pooling and
        before normalising, as in Simonyan & Zisserman's appendix B; or, to learn from, a row for each view.
        A head that has learned from the latter is asked about the mean: for a linear head on rows that are
        not normalised, that is the mean of its decision values.

    References
    ----------
    K. Simonyan, A. Zisserman, "Very deep convolutional networks for large-scale image recognition", ICLR
    2015 (means of pooled features over views, normalised afterwards).
    F. Perronnin, J. Sánchez, T. Mensink, "Improving the Fisher kernel for large-scale image
    classification", ECCV 2010 (square roots, then Euclidean length).
    """

    pooling: Pooling = "none"
    normalize: Normalize = "none"
    views: ViewUse = "center"

    def as_dict(self) -> dict[str, str]:
        """Return the derivation as values that JSON can hold; views only where there are several."""
        return {name: value for name, value in asdict(self).items() if (name, value) != ("views", CENTER)}

    @property
    def is_raw(self) -> bool:
        """Whether each row stays as it is stored, but for its type."""
        return self.pooling == "none" and self.normalize in ("none", "standardize")

    def columns(self, dimension: int) -> int:
        """Return the columns of a derived row, where stored rows have `dimension`.

        Raises
        ------
        HeadError
            There are no positions to pool over.
        """
        if self.pooling != "none" and not has_positions(dimension):
            raise HeadError(
                f"pooling {self.pooling}: the {dimension} features of an image have no positions to pool "
                f"over; only vgg16's have. Set pooling to none."
            )
        return dimension if self.pooling == "none" else CHANNELS

    def fitting(self, dimension: int) -> Derivation:
        """Return this derivation, or the same without pooling where features have no positions."""
        return self if has_positions(dimension) else replace(self, pooling="none")

    def rows(self, features: npt.NDArray[np.floating[Any]], out: Rows | None = None) -> Rows:
        """Derive rows, each on its own, whatever `views` says.

        Parameters
        ----------
        features : ndarray of float16 or float32, shape (n, dimension)
            As stored. With pooling 25,088 columns, channel after channel; without, any width will do.
        out : ndarray of float32, shape (n, columns), optional
            Where to put them.

        Returns
        -------
        ndarray of float32, shape (n, columns)
            `out`, if it was given.
        """
        if out is None:
            out = self._empty(features)
        for start in range(0, len(features), _BLOCK):
            out[start : start + _BLOCK] = self._normalized(self._pooled(features[start : start + _BLOCK]))
        return out

    def of_images(self, features: npt.NDArray[np.floating[Any]], views: int) -> Rows:
        """Derive what a head is asked about: a row for each image.

        Parameters
        ----------
        features : ndarray of float16 or float32, shape (n · views, dimension)
            As stored, an image's views one after another.
        views : int
            Of each image; 1 where only the centre is seen.

        Returns
        -------
        ndarray of float32, shape (n, columns)
        """
        if self.views == "center":
            return self.rows(features)
        pooled = self.pooled(features)
        total = pooled[::views].copy()
        for view in range(1, views):
            total += pooled[view::views]
        return self.finish_means(total, views)

    def finish_means(self, total: Rows, views: int) -> Rows:
        """Make derived rows, in place, of the sums of pooled rows over so many views, in their order."""
        total /= np.float32(views)
        for start in range(0, len(total), _BLOCK):
            total[start : start + _BLOCK] = self._normalized(total[start : start + _BLOCK])
        return total

    def pooled(self, features: npt.NDArray[np.floating[Any]]) -> Rows:
        """Return rows, shape (n, columns), pooled and not normalised: their sums are for `finish_means`."""
        out = self._empty(features)
        for start in range(0, len(features), _BLOCK):
            out[start : start + _BLOCK] = self._pooled(features[start : start + _BLOCK])
        return out

    def scaled(self, X: Rows) -> Rows:
        """Return derived rows with columns standardised by themselves, or `X` itself."""
        return Standardization.fit(X).apply(X) if self.normalize == "standardize" else X

    def _empty(self, features: npt.NDArray[np.floating[Any]]) -> Rows:
        width = features.shape[1] if self.pooling == "none" else CHANNELS
        return np.empty((len(features), width), np.float32)

    def _pooled(self, features: npt.NDArray[np.floating[Any]]) -> Rows:
        # Converted first: sums over numbers that NumPy converts as it goes would depend on where its
        # buffer ends, and so on a row's place.
        block = features.astype(np.float32, order="C")
        if self.pooling == "none":
            return block
        positions = block.reshape(len(block), CHANNELS, DIMENSION // CHANNELS)  # (n, 512, 49)
        pooled: Rows = positions.mean(axis=2) if self.pooling == "avg" else positions.max(axis=2)
        return pooled

    def _normalized(self, block: Rows) -> Rows:
        if self.normalize in ("none", "standardize"):
            return block
        if self.normalize == "sqrt_l2":
            block = np.copysign(np.sqrt(np.abs(block)), block)
        length = np.sqrt(np.square(block, dtype=np.float64).sum(axis=1, keepdims=True)).astype(np.float32)
        with np.errstate(invalid="ignore"):  # what is not finite stays so, for the reader to refuse
            np.divide(block, length, out=block, where=length > 0)
        return block


@dataclass(frozen=True, eq=False)
class Standardization:
    """Mean and scale of each column, of the training rows.

    Attributes
    ----------
    mean, scale : ndarray of float32, shape (columns,)
        `scale` is the standard deviation, and 1 for a constant column.
    """

    mean: Rows
    scale: Rows

    @classmethod
    def fit(cls, X: Rows) -> Standardization:
        """Take mean and scale from rows, in blocks, so that no float64 copy of them is made."""
        blocks = [X[start : start + _BLOCK] for start in range(0, len(X), _BLOCK)]
        mean = sum(block.sum(axis=0, dtype=np.float64) for block in blocks) / len(X)
        variance = sum(np.square(block - mean).sum(axis=0) for block in blocks) / len(X)
        scale = np.sqrt(variance)
        # What deviates by less than float32 can tell from the mean is constant.
        scale[scale <= np.abs(mean) * np.finfo(np.float32).eps] = 1
        return cls(mean.astype(np.float32), scale.astype(np.float32))

    def apply(self, X: Rows, out: Rows | None = None) -> Rows:
        """Subtract the mean and divide by the scale; into `out` (it may be `X`), or a new array."""
        out = np.subtract(X, self.mean, out=out)
        return np.divide(out, self.scale, out=out)

    def as_bytes(self) -> bytes:
        """Return both as safetensors."""
        from safetensors.numpy import save

        return save({"mean": self.mean, "scale": self.scale})

    @classmethod
    def from_bytes(cls, data: bytes, columns: int) -> Standardization:
        """Rebuild it from `as_bytes`.

        Raises
        ------
        ModelError
            It is malformed, or not of so many columns.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load

        try:
            tensors = load(data)
            mean, scale = tensors["mean"], tensors["scale"]
        except (SafetensorError, KeyError) as error:
            raise ModelError(f"it holds no mean and scale ({error})") from None
        for tensor in (mean, scale):
            if tensor.dtype != np.float32 or tensor.shape != (columns,) or not np.isfinite(tensor).all():
                raise ModelError(f"expected {columns} finite numbers, found {tensor.dtype}{tensor.shape}")
        if not (scale > 0).all():
            raise ModelError("expected scales above 0")
        return cls(mean, scale)
