"""Images that are there more than once: as the same bytes, or as nearly the same picture.

Owns what counts as a duplicate. It looks at hashes and features, never at a label, so that it may look at
the test split too.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.dataset.manifest import ImageRow
from pipeline.heads.derived import Standardization
from pipeline.results.audit.findings import ExactCopies, NearPair
from pipeline.results.audit.neighbours import Rows, nearest, of_length_one

# Measured with VGG16, largest values of channels, on 1,000 photographs of cats and dogs and three copies of
# 300 of them: saved at quality 50, halved, mirrored. Copies had cosines of at least 0.85, 0.62 and 0.77 with
# their originals (the median: 0.97, 0.96 and 0.86), and other pairs, but for one that is the same picture, at
# most 0.62. By the rules here 300, 299 and 300 of them are found, and of 1,791 pairs that are listed none is
# false.
_COSINE = 0.65
# Pictures of a narrow kind, such as digits, are that similar in crowds. A copy is nearer by half than the
# tenth neighbour of either image is,
_CROWD = 10
_NEARER = 0.5
# or so near that it is a copy, whatever the crowd: all tenth neighbours may be copies.
_CERTAIN = 0.9


@dataclass(frozen=True)
class NearDuplicates:
    """Pairs of rows that show the same.

    Attributes
    ----------
    pairs : ndarray of int64, shape (p, 2)
        Places of rows, the smaller first.
    cosines : ndarray of float32, shape (p,)
    """

    pairs: npt.NDArray[np.int64]
    cosines: Rows


def first_of_copies(images: Sequence[ImageRow]) -> npt.NDArray[np.int64]:
    """Return the places of images without those whose bytes stand before."""
    first: dict[str, int] = {}
    for place, image in enumerate(images):
        first.setdefault(image.sha256, place)
    return np.array(list(first.values()), np.int64)


def exact_copies(images: Sequence[ImageRow]) -> tuple[ExactCopies, ...]:
    """Find files of the same bytes; those across splits come first."""
    same: defaultdict[str, list[ImageRow]] = defaultdict(list)
    for image in images:
        same[image.sha256].append(image)
    found = [
        ExactCopies(tuple(copy.path for copy in copies), tuple(copy.split for copy in copies))
        for copies in same.values()
        if len(copies) > 1
    ]
    return tuple(sorted(found, key=lambda copies: (not copies.leak, copies.paths)))


def near_duplicates(X: Rows) -> NearDuplicates:
    """Find rows that show the same picture.

    Parameters
    ----------
    X : ndarray of float32, shape (n, columns)
        Largest values of channels, of length 1: compression, size and mirroring change little of them.
        Their columns are brought to one scale here.
    """
    found = nearest(of_length_one(Standardization.fit(X).apply(X)), _CROWD)
    if not found.places.size:
        return NearDuplicates(np.empty((0, 2), np.int64), np.empty(0, np.float32))
    tenth = 1 - found.cosines[:, -1]  # its distance, of each row
    rows = np.broadcast_to(np.arange(len(X))[:, None], found.places.shape)
    near = 1 - found.cosines <= _NEARER * np.minimum(tenth[rows], tenth[found.places])
    chosen = (found.cosines >= _COSINE) & near | (found.cosines >= _CERTAIN)
    pairs = np.sort(np.stack([rows[chosen], found.places[chosen]], axis=1), axis=1)
    pairs, first = np.unique(pairs, axis=0, return_index=True)
    return NearDuplicates(pairs, found.cosines[chosen][first])


def near_pairs(images: Sequence[ImageRow], found: NearDuplicates) -> tuple[NearPair, ...]:
    """Say which images they are, leaks first, then the most similar."""
    pairs = [
        NearPair(
            (images[a].path, images[b].path), (images[a].split, images[b].split), round(float(cosine), 4)
        )
        for (a, b), cosine in zip(found.pairs.tolist(), found.cosines, strict=True)
    ]
    return tuple(sorted(pairs, key=lambda pair: (not pair.leak, -pair.similarity, pair.paths)))
