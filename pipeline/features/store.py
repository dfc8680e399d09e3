"""The feature store: a folder of immutable shards, each named by the SHA-256 of its bytes.

Owns the folder. A shard is written under a temporary name, synced and renamed, so a reader
sees it whole or not at all, and its name convicts it when a bit has changed. The folder is
its own catalogue: nothing beside the shards has to be kept in step with them. A row whose
shard is gone is a missing row; it is never read as zeros.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from pipeline.console import warn
from pipeline.errors import DamagedShard, MissingRows, StoreError, StoreLocked
from pipeline.features.identity import DIMENSION, Identity
from pipeline.features.shard import FORMAT, Features, RowKey, features_in, keys_in, shard_bytes
from pipeline.files import write_atomically, write_json

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

    See Also
    --------
    FeatureStore.open : The way to one that exists.
    FeatureStore.create : The way to one that may not exist yet.
    """

    def __init__(self, folder: Path, identity: Identity) -> None:
        self.folder = folder
        self.identity = identity
        self._rows: dict[RowKey, tuple[Path, int]] | None = None

    @classmethod
    def open(cls, folder: Path, identity: Identity) -> FeatureStore:
        """Open an existing store.

        Raises
        ------
        MissingRows
            There is no store in `folder`.
        IdentityMismatch
            Its rows were made by another extractor.
        """
        description = folder / "store.json"
        if not description.is_file():
            raise MissingRows(f"{folder}: no features yet. Run `pipeline extract` first.")
        try:
            stored = json.loads(description.read_bytes())
            if stored["format"] != FORMAT:
                raise StoreError(f"format {stored['format']!r} is not known to this release")
            found = Identity.from_dict(stored["identity"])
        except (ValueError, KeyError, TypeError, StoreError) as error:
            raise StoreError(
                f"{description}: not a description of a feature store ({error}). "
                f"`pipeline extract --fresh` removes this store and makes it anew."
            ) from None
        found.require(
            identity,
            f"the features in {folder}",
            "what params.yaml asks for",
            "Change params.yaml back, or run `pipeline extract --fresh`, which removes these features.",
        )
        return cls(folder, identity)

    @classmethod
    def create(cls, folder: Path, identity: Identity) -> FeatureStore:
        """Open the store in `folder`, or make an empty one."""
        if not (folder / "store.json").is_file():
            write_json(folder / "store.json", {"format": FORMAT, "identity": identity.as_dict()})
        return cls.open(folder, identity)

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the store for writing, and clear away what a killed writer left.

        Raises
        ------
        StoreLocked
            Another process holds it; the message says which.
        """
        with locked(self.folder):
            for leftover in self.folder.glob(".*.tmp"):
                leftover.unlink()
            yield

    def keys(self) -> set[RowKey]:
        """Return the keys of all rows, damaged shards left out with a warning."""
        return set(self._catalogue())

    def add(self, keys: Sequence[RowKey], features: Features, made_with: Mapping[str, str]) -> Path:
        """Write one shard.

        Parameters
        ----------
        keys : sequence of RowKey, length n
            One key a row.
        features : ndarray of float16 or float32, shape (n, 25088)
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
        if features.shape != (len(keys), DIMENSION) or features.dtype != self.identity.storage:
            raise ValueError(f"expected {len(keys)} rows of {DIMENSION} {self.identity.storage}")
        if not np.isfinite(features).all():
            row = int(np.flatnonzero(~np.isfinite(features).all(axis=1))[0])
            raise StoreError(
                f"the features of image {keys[row].sha256[:12]}… do not fit {self.identity.storage}: "
                f"set extract.storage to float32, or check extract.weights."
            )
        data = shard_bytes(keys, features, self.identity, made_with)
        path = self.folder / f"{hashlib.sha256(data).hexdigest()}.h5"
        write_atomically(path, data)  # in the place of a damaged shard, too
        if self._rows is not None:
            self._rows.update({key: (path, row) for row, key in enumerate(keys)})
        return path

    def read(self, keys: Sequence[RowKey]) -> Features:
        """Read rows, each shard hashed before a number of it is used.

        Parameters
        ----------
        keys : sequence of RowKey, length n
            In any order, repeated at will.

        Returns
        -------
        ndarray of float16 or float32, shape (n, 25088)
            In the order of `keys`.

        Raises
        ------
        MissingRows
            Some are not in the store.
        DamagedShard
            A shard's bytes do not hash to its name.
        """
        catalogue = self._catalogue()
        missing = [key for key in keys if key not in catalogue]
        if missing:
            raise MissingRows(
                f"{self.folder} lacks the features of {len(missing)} of {len(keys)} images "
                f"(first: {missing[0].sha256[:12]}…, view {missing[0].view}). Run `pipeline extract`."
            )
        wanted: dict[Path, list[tuple[int, int]]] = {}
        for place, key in enumerate(keys):
            path, row = catalogue[key]
            wanted.setdefault(path, []).append((place, row))
        result: Features = np.empty((len(keys), DIMENSION), self.identity.storage)
        for path, pairs in wanted.items():
            places, rows = np.array(pairs).T
            result[places] = features_in(path, self.identity)[rows]
        return result

    def _catalogue(self) -> dict[RowKey, tuple[Path, int]]:
        """Where each row is. Read from the shards once, their features untouched."""
        if self._rows is None:
            rows: dict[RowKey, tuple[Path, int]] = {}
            for path in sorted(self.folder.glob("*.h5")):
                try:
                    keys = keys_in(path, self.identity)
                except (DamagedShard, OSError) as error:
                    warn(f"{error} Its rows count as missing.")
                    continue
                for row, key in enumerate(keys):
                    rows.setdefault(key, (path, row))
            self._rows = rows
        return self._rows


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder against other writers; the lock goes with the process, however it ends.

    Raises
    ------
    StoreLocked
        Another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise StoreLocked(
                f"{folder} is being written by {file.read().strip() or 'another process'}. "
                f"Wait for it to end, or stop it; what it has finished is kept."
            ) from None
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        yield


def clear(folder: Path) -> int:
    """Remove a store, and return how many shards it had. Other files stay."""
    with locked(folder):
        shards = list(folder.glob("*.h5"))
        for path in shards:
            path.unlink()
        # last: killed half-way, what is left is still a store
        (folder / "store.json").unlink(missing_ok=True)
    return len(shards)
