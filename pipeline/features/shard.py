"""One shard: an HDF5 file of features and their row keys, named by the SHA-256 of its bytes.

Owns the format; nothing else in this room opens HDF5. A shard holds ``features``
(n, dimension), ``sha256`` (n,) of the images' bytes, ``view`` (n,), and as attributes the
identity and the circumstances of its making. No number of it is handed out before all its bytes
have been hashed, and the bytes that are hashed are those that are handed out.
"""

from __future__ import annotations

import hashlib
import io
import json
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import numpy.typing as npt

from pipeline.console import printable
from pipeline.digests import Folded
from pipeline.errors import DamagedShard, MissingRows, StoreError
from pipeline.features.halves import widen
from pipeline.features.identity import Identity
from pipeline.features.layout import NO_TEXT, SHA256_TYPE, VIEW_TYPE, Fault, Layout, RowKey
from pipeline.features.prints import prints_of

#: Version of the layout of shards.
FORMAT = 1

# Bytes. A file that is larger is no shard (a full one has 13 to 26 MB), and is not looked into.
_LARGEST = 1 << 28

#: float16 or float32, as `Identity.storage` says.
Features = npt.NDArray[np.floating[Any]]


class Contents(NamedTuple):
    """What a shard says of its rows: their keys, in order, and the circumstances of their making."""

    keys: list[RowKey]
    made_with: dict[str, str]


class ShardFormat:
    """How shards of one identity are written and read.

    HDF5 takes milliseconds to find its way through a file, and the files of a store hardly differ:
    what has been found in one holds for every other that has the same skeleton.

    Parameters
    ----------
    identity : Identity
        Of the rows. Shards of another are refused.
    """

    def __init__(self, identity: Identity) -> None:
        self._storage = np.dtype(identity.storage)
        self._dimension = identity.dimension
        self._identity = json.dumps(identity.as_dict(), sort_keys=True)
        self._layouts: dict[int, dict[bytes, Layout]] = {}  # by size of the file, and skeleton

    def encode(self, keys: Sequence[RowKey], features: Features, made_with: Mapping[str, str]) -> bytes:
        """Lay out a shard in memory: no times in it, so the same rows give the same bytes.

        Raises
        ------
        StoreError
            A key does not fit the format.
        """
        for key in keys:
            for value, column in zip(key, (SHA256_TYPE, VIEW_TYPE), strict=True):
                if not value.isascii() or not value.isprintable() or not 0 < len(value) <= column.itemsize:
                    raise StoreError(
                        f"row key {printable(value)!r}: expected 1 to {column.itemsize} ASCII characters."
                    )
        buffer = io.BytesIO()
        with h5py.File(buffer, "w", libver=("earliest", "v110")) as shard:
            for name, data in (
                ("features", features),
                ("sha256", np.array([key.sha256 for key in keys], SHA256_TYPE)),
                ("view", np.array([key.view for key in keys], VIEW_TYPE)),
            ):
                shard.create_dataset(name, data=data, track_times=False)
            shard.attrs.update({"format": str(FORMAT), "identity": self._identity, **made_with})
        return buffer.getvalue()

    def contents(self, path: Path) -> Contents:
        """Read what a shard says of its rows. Its bytes are not hashed, nor its features read.

        Raises
        ------
        MissingRows
            The shard has gone.
        DamagedShard
            It is not a shard of this identity.
        """
        layout, frame = self._framed(path)
        try:
            return Contents(layout.keys(frame), layout.made_with)
        except Fault as fault:
            raise _damaged(path, fault) from None

    def prints(self, path: Path) -> Folded:
        """Read the keys of a shard's rows as numbers, shape (n, 2); see `pipeline.features.prints`.

        Raises
        ------
        MissingRows, DamagedShard
            As from `contents`.
        """
        layout, frame = self._framed(path)
        try:
            return prints_of(*layout.columns(frame))
        except UnicodeDecodeError:
            raise _damaged(path, Fault(NO_TEXT)) from None

    def _framed(self, path: Path) -> tuple[Layout, bytes]:
        try:
            with _opened(path) as file:
                return self._frame(file)
        except Fault as fault:
            raise _damaged(path, fault) from None

    def copy_rows(self, path: Path, wanted: Mapping[RowKey, Sequence[int]], out: Features) -> None:
        """Copy rows of a shard to their places, hashing all its bytes on the way.

        Parameters
        ----------
        path : Path
            Of the shard.
        wanted : mapping of RowKey to sequence of int
            The rows of `out` to which each row goes.
        out : ndarray of float16 or float32, shape (m, dimension)
            When this raises, what is in these rows is not to be used.

        Raises
        ------
        MissingRows
            The shard has gone, or holds other rows.
        DamagedShard
            Its bytes do not hash to its name, or are not a shard of this identity.
        """
        try:
            self._stream(path, wanted, out)
        except Fault as fault:
            raise DamagedShard(
                f"{path} is {fault}. Run `pipeline extract --verify`, which makes just its rows again."
            ) from None

    def fault(self, path: Path) -> str:
        """Look at every byte of a shard, and return what is wrong with it; empty if nothing is.

        Raises
        ------
        MissingRows
            The shard has gone.
        """
        try:
            self._stream(path, {}, np.empty((0, self._dimension), self._storage))
        except Fault as fault:
            return str(fault)
        return ""

    def _stream(self, path: Path, wanted: Mapping[RowKey, Sequence[int]], out: Features) -> None:
        left = dict(wanted)
        # A row is read into its place, where one fits it, and hashed there while a core still has it at hand.
        fits = out.dtype == self._storage and out.flags.c_contiguous
        spare: Features = np.empty(self._dimension, self._storage)
        with _opened(path) as file:
            layout, frame = self._frame(file)
            rows = [left.pop(key, ()) for key in layout.keys(frame)]
            digest = hashlib.sha256(frame[: layout.features.start])
            file.seek(layout.features.start)
            for places in rows:
                row = out[places[0]] if fits and places else spare
                data = row.data.cast("B")
                _fill(file, data)
                digest.update(data)
                for place in places[1:] if row is not spare else places:
                    widen(row, out[place])
            digest.update(frame[layout.features.start :])
        if digest.hexdigest() != path.stem:
            raise Fault("damaged: its bytes do not hash to its name")
        if left:
            raise MissingRows(f"{path} no longer holds {len(left)} rows. Run `pipeline extract`.")

    def _frame(self, file: io.FileIO) -> tuple[Layout, bytes]:
        """Return where things are in a file, and all of its bytes but the features."""
        size = file.seek(0, io.SEEK_END)
        known = self._layouts.setdefault(size, {})
        for skeleton, layout in list(known.items()):
            frame = _read(file, 0, layout.features.start) + _read(file, layout.features.stop, size)
            if layout.skeleton(frame) == skeleton:
                return layout, frame
        if size > _LARGEST:
            raise _unusable(f"no shard has {size} bytes")
        data = _read(file, 0, size)  # HDF5 sees the bytes that are returned, whatever happens to the file
        layout = self._parse(data)
        frame = data[: layout.features.start] + data[layout.features.stop :]
        known[layout.skeleton(frame)] = layout
        return layout, frame

    def _parse(self, data: bytes) -> Layout:
        """Ask HDF5, refusing whatever could make it look outside the file, or make numbers up."""
        types = {"features": self._storage, "sha256": SHA256_TYPE, "view": VIEW_TYPE}
        parts = {}
        try:
            with h5py.File(io.BytesIO(data), "r") as shard:
                attributes = dict(shard.attrs)
                if attributes.pop("identity", None) != self._identity:
                    raise _unusable("made by another extractor")
                for name, dtype in types.items():
                    # soft and external links lead elsewhere
                    linked = not isinstance(shard.get(name, getlink=True), h5py.HardLink)
                    if linked or not isinstance(shard[name], h5py.Dataset) or shard[name].dtype != dtype:
                        raise _unusable(f"it holds no {name} of type {dtype}")
                    # None: elsewhere (external, virtual), or nowhere yet, and then read as zeros
                    offset = shard[name].id.get_offset()
                    if offset is None or offset + shard[name].nbytes > len(data):
                        raise _unusable(f"its {name} do not lie inside the file")
                    parts[name] = slice(offset, offset + shard[name].nbytes)
                rows = len(shard["sha256"])
                if shard["features"].shape != (rows, self._dimension) or shard["view"].shape != (rows,):
                    raise _unusable("its datasets do not fit each other")
                if shard.userblock_size:
                    raise _unusable("something stands before it")
        except (OSError, LookupError, ValueError, RuntimeError, TypeError) as error:
            raise _unusable("damaged or cut short") from error  # what HDF5 says of it helps nobody else
        made_with = {name: str(value) for name, value in attributes.items() if name != "format"}
        return Layout.of(parts, made_with)


def _damaged(path: Path, fault: Fault) -> DamagedShard:
    return DamagedShard(f"{path} is {fault}. Run `pipeline extract`, which makes its rows again.")


def _unusable(reason: str) -> Fault:
    return Fault(f"no usable shard ({reason})")


def _opened(path: Path) -> io.FileIO:
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a FIFO would wait for ever
            raise _unusable("not a regular file")
        return path.open("rb", buffering=0)
    except FileNotFoundError:
        raise MissingRows(f"{path} has gone. Run `pipeline extract` to make its rows again.") from None


def _read(file: io.FileIO, start: int, stop: int) -> bytes:
    buffer = bytearray(stop - start)
    file.seek(start)
    _fill(file, memoryview(buffer))
    return bytes(buffer)


def _fill(file: io.FileIO, left: memoryview) -> None:
    """Read on until all is full: a single read may bring less."""
    while left:
        try:
            count = file.readinto(left)
        except OSError as error:  # how a disk reports a bad sector
            raise Fault(f"damaged: it cannot be read ({error.strerror})") from None
        if not count:
            raise Fault("damaged: it ends too early")
        left = left[count:]
