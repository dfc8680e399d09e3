"""The feature store: a folder of immutable shards, each named by the SHA-256 of its bytes.

Owns the folder. A shard is written under a temporary name, synced and renamed, so a reader
sees it whole or not at all, and its name convicts it when a bit has changed. The folder is
its own catalogue: nothing beside the shards has to be kept in step with them. A row whose
shard is gone is a missing row; it is never read as zeros.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.console import progress
from pipeline.digests import Folded
from pipeline.errors import DamagedShard, MissingRows, StoreError
from pipeline.features.catalogue import Catalogue
from pipeline.features.description import clear, is_store, read_description, write_description
from pipeline.features.identity import Identity
from pipeline.features.layout import RowKey
from pipeline.features.lock import locked
from pipeline.features.parallel import in_parallel
from pipeline.features.shard import Features, ShardFormat
from pipeline.files import sync, write_atomically

__all__ = ["SHARD_ROWS", "FeatureStore", "Features", "RowKey", "clear", "locked"]

#: Rows in a full shard: a compromise between work lost by a kill and files in the folder.
SHARD_ROWS = 256


class FeatureStore:
    """Features by row key, on disk.

    Parameters
    ----------
    folder : Path
        Where the shards are.
    identity : Identity
        Of every row in it.

    Attributes
    ----------
    format : ShardFormat
        How its shards are read, for who looks after the folder.
    """

    def __init__(self, folder: Path, identity: Identity) -> None:
        self.folder = folder
        self.identity = identity
        self.format = ShardFormat(identity)
        self._known: Catalogue | None = None

    @classmethod
    def open(cls, folder: Path, identity: Identity | None = None) -> FeatureStore:
        """Open an existing store.

        Parameters
        ----------
        folder : Path
            Where the shards are.
        identity : Identity, optional
            What it must be; by default, whatever it is.

        Raises
        ------
        MissingRows
            There is no store in `folder`.
        IdentityMismatch
            Its rows were made by another extractor.
        """
        found = read_description(folder)
        if identity:
            found.require(
                identity,
                f"the features in {folder}",
                "what params.yaml asks for",
                "Change params.yaml back, or run `pipeline extract --fresh`, which replaces these features.",
            )
        return cls(folder, found)

    @classmethod
    def create(cls, folder: Path, identity: Identity) -> FeatureStore:
        """Open the store in `folder`, or make an empty one.

        Raises
        ------
        IdentityMismatch
            There is one, and its rows were made by another extractor.
        StoreLocked
            There is none, and another process is making one.
        """
        if not is_store(folder):
            with locked(folder):
                if not is_store(folder):
                    write_description(folder, identity)
        return cls.open(folder, identity)

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the store for writing, and clear away what a killed writer left.

        Raises
        ------
        StoreLocked
            Another process holds it; the message says which.
        MissingRows, IdentityMismatch
            Another process has removed it since it was opened, or made it anew.
        """
        with locked(self.folder):
            self.open(self.folder, self.identity)
            for leftover in self.folder.glob(".*.tmp"):
                leftover.unlink()
            self._known = None  # another process may have written until now
            yield

    def shards(self) -> list[Path]:
        """Return the files that are in use, sorted by name."""
        return sorted(self.folder.glob("*.h5"))

    def keys(self) -> set[RowKey]:
        """Return the keys of all rows; `holds` takes a tenth of the memory."""
        found: set[RowKey] = set()
        for path in self._catalogue().paths:
            with contextlib.suppress(MissingRows):  # merged into another meanwhile
                found.update(self.format.contents(path).keys)
        return found

    def holds(self, keys: Sequence[RowKey] | Folded) -> npt.NDArray[np.bool_]:
        """Return which rows there are, by their keys, or by prints of these; shape (len(keys),).

        Shards that are no shards are left out with a warning.
        """
        return self._catalogue().holds(keys)

    def add(self, keys: Sequence[RowKey], features: Features, made_with: Mapping[str, str]) -> Path:
        """Write one shard.

        Parameters
        ----------
        keys : sequence of RowKey, length n
            One key a row.
        features : ndarray of float16 or float32, shape (n, dimension)
            As `Identity.storage` says; finite.
        made_with : mapping of str to str
            Device and versions, recorded with the shard.

        Returns
        -------
        Path
            The shard, on disk and synced.

        Raises
        ------
        StoreError
            A number is not finite: nothing is written.
        """
        dimension, storage = self.identity.dimension, self.identity.storage
        if features.shape != (len(keys), dimension) or features.dtype != storage:
            raise ValueError(f"expected {len(keys)} rows of {dimension} {storage}")
        if not np.isfinite(features).all():
            row = int(np.flatnonzero(~np.isfinite(features).all(axis=1))[0])
            raise StoreError(
                f"the features of image {keys[row].sha256[:12]}… do not fit {storage}: "
                f"set extract.storage to float32, or check extract.weights."
            )
        data = self.format.encode(keys, features, made_with)
        path = self.folder / f"{hashlib.sha256(data).hexdigest()}.h5"
        write_atomically(path, data)  # in the place of a damaged shard, too
        if self._known:
            self._known.add(path, keys)
        return path

    def read(self, keys: Sequence[RowKey], out: Features | None = None) -> Features:
        """Read rows; of every shard that is touched, all bytes are hashed.

        Each shard is read once, in pieces that need no memory to speak of, by a few threads.

        Parameters
        ----------
        keys : sequence of RowKey, length n
            In any order, repeated at will.
        out : ndarray of float16 or float32, shape (n, dimension), optional
            Where to put them, be it in memory or mapped from a file; of the type of the store, or
            a wider one. When this raises, what is in it is not to be used.

        Returns
        -------
        ndarray of float16 or float32, shape (n, dimension)
            In the order of `keys`: `out`, or a new one of the type of the store.

        Raises
        ------
        MissingRows
            Some are not in the store.
        DamagedShard
            A shard's bytes do not hash to its name.
        """
        shape, storage = (len(keys), self.identity.dimension), np.dtype(self.identity.storage)
        result: Features = np.empty(shape, storage) if out is None else out
        if result.shape != shape or result.dtype not in (storage, np.float32):
            raise ValueError(f"expected {storage} or wider, shape {shape}: {result.dtype}, {result.shape}")
        sought = self._catalogue().sought(keys)
        try:
            self._copy(sought, result)
        except MissingRows as error:
            # Shards may have been merged since the catalogue was made: their rows are in others then.
            self._known = None
            if not self.holds(keys).all():
                raise error from None
            self._copy(self._catalogue().sought(keys), result)
        return result

    def blocks(self, keys: Sequence[RowKey], out: Features) -> Iterator[tuple[list[int], Features]]:
        """Read rows as `read` does, as many at once as `out` holds, for work on more than fits into memory.

        Yields
        ------
        places : list of int, length m
            Positions in `keys`; each comes once, in the order that is fastest to read.
        features : ndarray, shape (m, dimension)
            The first rows of `out`, written over by the next block.
        """
        for places in self._catalogue().blocks(keys, len(out)):
            yield places, self.read([keys[place] for place in places], out[: len(places)])

    def faults(self) -> dict[Path, str]:
        """Hash every shard, and return what is wrong with those that cannot be used."""

        def fault_of(path: Path) -> str:
            with contextlib.suppress(MissingRows):  # merged into another meanwhile
                return self.format.fault(path)
            return ""

        shards, found = self.shards(), {}
        with progress("verify", len(shards), "shards") as advance:
            for path, fault in zip(shards, in_parallel(fault_of, shards), strict=True):
                if fault:
                    found[path] = fault
                advance(1)
        return found

    def set_aside_damaged(self, *, hashing: bool = True) -> list[Path]:
        """Rename the shards that cannot be used; to be called within `writing`.

        Nothing is deleted. The rows of a shard that was set aside are missing rows, unless another has them.

        Parameters
        ----------
        hashing : bool, default True
            Look at every byte; otherwise only at whether they can be read as shards.

        Returns
        -------
        list of Path
            Their new names, which end in ``.damaged``.
        """
        aside = []
        for path in self.faults() if hashing else self._unreadable():
            name, number = path.with_name(f"{path.name}.damaged"), 1
            while name.exists():
                number += 1
                name = path.with_name(f"{path.name}.{number}.damaged")
            aside.append(path.rename(name))
        if aside:
            sync(self.folder)
            self._known = None
        return aside

    def _unreadable(self) -> list[Path]:
        found = []
        for path in self.shards():
            try:
                self.format.contents(path)
            except DamagedShard:
                found.append(path)
            except MissingRows:  # a link to nothing: the shard that is made anew takes its place
                pass
        return found

    def _copy(self, sought: Mapping[Path, Mapping[RowKey, Sequence[int]]], out: Features) -> None:
        def copy(path: Path) -> None:
            self.format.copy_rows(path, sought[path], out)

        for _ in in_parallel(copy, sought):
            pass

    def _catalogue(self) -> Catalogue:
        if self._known is None:
            self._known = Catalogue.of(self.folder, self.format, self.shards())
        return self._known
