"""The rows that a manifest asks for, and which of them a store lacks: twenty bytes an image, however many.

Owns the matching. It knows images by their digests, and reads of the manifest's rows only those that the
store lacks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.dataset.manifest_keys import Characters, ManifestKeys
from pipeline.digests import CHARACTERS
from pipeline.features.lacking import Lacking
from pipeline.features.prints import of_view
from pipeline.features.store import FeatureStore

_AT_ONCE = 1 << 20  # rows that are looked up together


@dataclass(frozen=True)
class Listed:
    """The usable images of a manifest, and the views that are wanted of each.

    Attributes
    ----------
    keys : ManifestKeys
        The images.
    views : tuple of str
        What of each.
    keys_sha256 : str
        What `pipeline.features.index.digest_of_keys` says of their row keys.
    """

    keys: ManifestKeys
    views: tuple[str, ...]
    keys_sha256: str

    @classmethod
    def of(cls, manifest_file: Path, views: Sequence[str]) -> Listed:
        """Read a manifest.

        Raises
        ------
        ManifestError
            It is missing or malformed.
        """
        digest = hashlib.sha256()
        endings = [np.frombuffer(f" {view}\n".encode(), np.uint8) for view in views]

        def each(digests: Characters) -> None:
            parts = []
            for ending in endings:
                line = np.empty((len(digests), CHARACTERS + len(ending)), np.uint8)
                line[:, :CHARACTERS], line[:, CHARACTERS:] = digests, ending
                parts.append(line)
            digest.update(np.concatenate(parts, axis=1).data)

        keys = ManifestKeys.read(manifest_file, each)
        return cls(keys, tuple(views), digest.hexdigest())

    def lacking(self, store: FeatureStore | None) -> list[Lacking]:
        """Return images with the views that are not stored, in manifest order, one for each set of copies."""
        held = np.zeros((len(self.keys), len(self.views)), bool)
        if store is not None:
            for number, view in enumerate(self.views):
                for start in range(0, len(self.keys), _AT_ONCE):
                    prints = self.keys.folded[start : start + _AT_ONCE].copy()
                    prints[:, 1] ^= of_view(view)
                    held[start : start + _AT_ONCE, number] = store.holds(prints)
        numbers = np.flatnonzero(~held.all(axis=1))
        wanted: dict[str, Lacking] = {}
        for image, there in zip(self.keys.rows(numbers.tolist()), held[numbers].tolist(), strict=True):
            views = tuple(view for view, has in zip(self.views, there, strict=True) if not has)
            wanted.setdefault(image.sha256, Lacking(image, views))
        return list(wanted.values())
