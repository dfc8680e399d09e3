"""Where things are in a shard: its rows' keys and features, and all that says so.

A shard without its features is called its frame, and a frame with the keys blanked its skeleton.
HDF5 finds its way by what is in the skeleton, so two shards with the same one have the same
layout. This module looks at bytes; HDF5 is asked elsewhere.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.views import CENTER

SHA256_TYPE, VIEW_TYPE = np.dtype("S64"), np.dtype("S16")


class RowKey(NamedTuple):
    """What a row of features is the features of."""

    sha256: str
    view: str = CENTER


#: Fault of a shard whose keys are not ASCII.
NO_TEXT = "no usable shard (its keys are no text)"


class Fault(Exception):
    """Why a file is no shard to be used, as the rest of a sentence that begins with its name."""


@dataclass(frozen=True)
class Layout:
    """Where things are in shards of one skeleton.

    Attributes
    ----------
    features : slice
        Their bytes in the file.
    sha256, view : slice
        The bytes of the two parts of their keys in the frame.
    made_with : dict of str to str
        The circumstances of their making.
    """

    features: slice
    sha256: slice
    view: slice
    made_with: dict[str, str]

    @classmethod
    def of(cls, parts: Mapping[str, slice], made_with: dict[str, str]) -> Layout:
        """Describe a file whose datasets are the named `parts` of it.

        Raises
        ------
        Fault
            The features share bytes with the keys.
        """
        features = parts["features"]
        size = features.stop - features.start
        in_frame = {}
        for name in ("sha256", "view"):
            start, stop = parts[name].start, parts[name].stop
            if start < features.stop and features.start < stop:
                raise Fault("no usable shard (its datasets overlap)")
            behind = size if start >= features.stop else 0
            in_frame[name] = slice(start - behind, stop - behind)
        return cls(features, in_frame["sha256"], in_frame["view"], made_with)

    def skeleton(self, frame: bytes) -> bytes:
        """Digest of a frame without its keys."""
        blanked = bytearray(frame)
        for part in (self.sha256, self.view):
            blanked[part] = bytes(part.stop - part.start)
        return hashlib.sha256(blanked).digest()

    def columns(self, frame: bytes) -> tuple[npt.NDArray[np.bytes_], npt.NDArray[np.bytes_]]:
        """Digests and views of the rows, as they stand in a frame."""
        return np.frombuffer(frame[self.sha256], SHA256_TYPE), np.frombuffer(frame[self.view], VIEW_TYPE)

    def keys(self, frame: bytes) -> list[RowKey]:
        """Row keys in a frame, in the order of the rows.

        Raises
        ------
        Fault
            They are no text.
        """
        try:
            sha256, view = (column.astype(str).tolist() for column in self.columns(frame))
        except UnicodeDecodeError:
            raise Fault(NO_TEXT) from None
        return list(map(RowKey, sha256, view))
