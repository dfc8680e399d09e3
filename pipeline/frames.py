"""What goes between processes over a pipe: values that JSON can hold, and bytes beside them.

Owns the layout, and reading without waiting. It does not know what is said.
"""

from __future__ import annotations

import json
import os
import struct
from typing import IO, Any, NamedTuple

_LENGTHS = struct.Struct(">II")  # of what follows: JSON, then bytes


class Frame(NamedTuple):
    """One message."""

    values: Any
    data: bytes | bytearray


class EndOfFrames(Exception):
    """The other side has gone, between two frames or in the middle of one."""


def write_frame(stream: IO[bytes], frame: Frame) -> None:
    """Write a frame, and wait until it is in the pipe."""
    values = json.dumps(frame.values).encode()
    stream.write(_LENGTHS.pack(len(values), len(frame.data)) + values + frame.data)
    stream.flush()


class FrameReader:
    """Read frames, as far as they have come.

    Parameters
    ----------
    file : int
        Descriptor of a pipe that does not block.
    """

    def __init__(self, file: int) -> None:
        self.file = file
        self._expect(_LENGTHS.size)

    def read(self) -> Frame | None:
        """Return a frame, or None where the rest of it is still to come.

        Raises
        ------
        EndOfFrames
            There will be none any more.
        """
        while self._has_all():
            if len(self._parts) > 1:
                values, data = self._parts
                self._expect(_LENGTHS.size)
                return Frame(json.loads(values), data)
            self._expect(*_LENGTHS.unpack(self._parts[0]))
        return None

    def _expect(self, *lengths: int) -> None:
        self._parts = [bytearray(length) for length in lengths]
        self._missing = [memoryview(part) for part in self._parts if part]

    def _has_all(self) -> bool:
        """Read what is expected, and say whether that is all there."""
        while self._missing:
            try:
                count = os.readv(self.file, self._missing)
            except BlockingIOError:
                return False
            if not count:
                raise EndOfFrames
            while self._missing and count >= len(self._missing[0]):
                count -= len(self._missing.pop(0))
            if count:
                self._missing[0] = self._missing[0][count:]
        return True
