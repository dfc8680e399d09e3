"""One shard: an HDF5 file of features and their row keys, named by the SHA-256 of its bytes.

Owns the format; nothing else in this room opens HDF5. A shard holds ``features``
(n, dimension), ``sha256`` (n,) of the images' bytes, ``view`` (n,), and as attributes the
identity and the circumstances of its making.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import h5py
import numpy as np
import numpy.typing as npt

from pipeline.errors import DamagedShard, MissingRows
from pipeline.features.identity import DIMENSION, Identity

#: Version of the layout of shards.
FORMAT = 1
_KEY_TYPE, _VIEW_TYPE = np.dtype("S64"), np.dtype("S16")

#: float16 or float32, as `Identity.storage` says.
Features = npt.NDArray[np.floating[Any]]


class RowKey(NamedTuple):
    """What a row of features is the features of."""

    sha256: str
    view: str = "center"


def shard_bytes(
    keys: Sequence[RowKey], features: Features, identity: Identity, made_with: Mapping[str, str]
) -> bytes:
    """Lay out a shard in memory: no times in it, so the same rows give the same bytes."""
    buffer = io.BytesIO()
    with h5py.File(buffer, "w", libver=("earliest", "v110")) as shard:
        for name, data in (
            ("features", features),
            ("sha256", np.array([key.sha256 for key in keys], _KEY_TYPE)),
            ("view", np.array([key.view for key in keys], _VIEW_TYPE)),
        ):
            shard.create_dataset(name, data=data, track_times=False)
        shard.attrs.update({"format": str(FORMAT), "identity": _canonical(identity), **made_with})
    return buffer.getvalue()


def keys_in(path: Path, identity: Identity) -> list[RowKey]:
    """Read a shard's keys, in the order of its rows. Its bytes are not hashed, nor its features read.

    Raises
    ------
    DamagedShard
        It is not a shard of this identity.
    """
    with path.open("rb") as file, _opened(path, file, identity) as shard:
        columns = zip(shard["sha256"][...].tolist(), shard["view"][...].tolist(), strict=True)
        return [RowKey(sha256.decode("ascii"), view.decode("ascii")) for sha256, view in columns]


def features_in(path: Path, identity: Identity) -> Features:
    """Read a shard's features, once its bytes have been hashed.

    Returns
    -------
    ndarray of `Identity.storage`, shape (n, 25088)

    Raises
    ------
    MissingRows
        The shard has gone.
    DamagedShard
        Its bytes do not hash to its name, or are not a shard of this identity.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise MissingRows(f"{path} has gone. Run `pipeline extract` to make its rows again.") from None
    if hashlib.sha256(data).hexdigest() != path.stem:
        raise DamagedShard(
            f"{path} is damaged: its bytes do not hash to its name. "
            f"Delete it and run `pipeline extract`, which makes just its rows again."
        )
    with _opened(path, io.BytesIO(data), identity) as shard:
        features: Features = shard["features"][...]
        return features


@contextlib.contextmanager
def _opened(path: Path, file: BinaryIO, identity: Identity) -> Iterator[h5py.File]:
    """Open a shard's bytes, refusing whatever could make HDF5 look outside them, or make numbers up."""
    types = {"features": np.dtype(identity.storage), "sha256": _KEY_TYPE, "view": _VIEW_TYPE}
    try:
        with h5py.File(file, "r") as shard:
            if shard.attrs.get("identity") != _canonical(identity):
                raise ValueError("made by another extractor")
            for name, dtype in types.items():
                # soft and external links lead elsewhere
                linked = not isinstance(shard.get(name, getlink=True), h5py.HardLink)
                if linked or not isinstance(shard[name], h5py.Dataset) or shard[name].dtype != dtype:
                    raise ValueError(f"it holds no {name} of type {dtype}")
                # None: elsewhere (external, virtual), or nowhere yet, and then read as zeros
                offset = shard[name].id.get_offset()
                if offset is None or offset + shard[name].nbytes > shard.id.get_filesize():
                    raise ValueError(f"its {name} do not lie inside the file")
            rows = len(shard["sha256"])
            if shard["features"].shape != (rows, DIMENSION) or shard["view"].shape != (rows,):
                raise ValueError("its datasets do not fit each other")
            yield shard
    except (OSError, LookupError, ValueError, RuntimeError, TypeError) as error:
        raise DamagedShard(
            f"{path} is no usable shard ({error}). Delete it and run `pipeline extract`."
        ) from None


def _canonical(identity: Identity) -> str:
    return json.dumps(identity.as_dict(), sort_keys=True)
