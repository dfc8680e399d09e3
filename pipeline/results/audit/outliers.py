"""Images that are like no other: by their features, whatever the label.

Owns what counts as far.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from pipeline.dataset.manifest import ImageRow
from pipeline.results.audit.duplicates import NearDuplicates
from pipeline.results.audit.findings import Oddity
from pipeline.results.audit.neighbours import Neighbours, Rows, nearest

_NEIGHBOURS = 10
# Measured with VGG16 on 1,000 photographs of cats and dogs among which lay 24 images of other kinds (blank,
# noise, text, a chart, digits, landscapes): these had 5.3 to 13.9, the photographs up to 4.9, but for one
# that is a poster. Of 600 digits the farthest has 3.7.
_FAR = 5.0
# Half the width of a normal distribution between its quartiles, in standard deviations.
_QUARTILE = 0.6745


def outliers(images: Sequence[ImageRow], X: Rows, copies: NearDuplicates) -> tuple[Oddity, ...]:
    """Find the images that are farther from their neighbours than the rest, the farthest first.

    Parameters
    ----------
    images : sequence of ImageRow, length n
    X : ndarray of float32, shape (n, columns)
        Of length 1.
    copies : NearDuplicates
        Of `X`: pairs that do not count as neighbours, for a copy makes no image usual.
    """
    if len(images) < 2 * _NEIGHBOURS:
        return ()  # the neighbours would be all there is
    distances = _distances(nearest(X, 2 * _NEIGHBOURS), copies)
    middle = np.median(distances)
    spread = np.median(np.abs(distances - middle)) / _QUARTILE
    if spread == 0:
        return ()  # more than half of the images are all the same
    scores = (distances - middle) / spread
    found = [
        Oddity(images[place].path, images[place].split, round(float(scores[place]), 2))
        for place in np.flatnonzero(scores >= _FAR).tolist()
    ]
    return tuple(sorted(found, key=lambda oddity: (-oddity.value, oddity.path)))


def _distances(found: Neighbours, copies: NearDuplicates) -> npt.NDArray[np.float64]:
    """Return the mean cosine distance of each row from its nearest neighbours, shape (n,)."""
    n, _ = found.places.shape
    listed = np.concatenate([copies.pairs, copies.pairs[:, ::-1]]) @ np.array([n, 1])  # a number a pair
    other = ~np.isin(np.arange(n)[:, None] * n + found.places, listed)
    other[~other.any(axis=1), -1] = True  # nothing but copies: then the farthest of them
    counted = other & (np.cumsum(other, axis=1) <= _NEIGHBOURS)
    distance = 1 - found.cosines.astype(np.float64)
    mean: npt.NDArray[np.float64] = np.average(distance, axis=1, weights=counted)
    return mean
