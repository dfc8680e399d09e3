"""The usable images of a manifest by number: what is in a file of ten million lines, in a few bytes a line.

Owns how that is had without ten million `ImageRow`. A manifest that is not large is read, and checked, as
always.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from pipeline.dataset.manifest import HEADER, ImageRow, parsed_row, read_manifest
from pipeline.digests import CHARACTERS, Folded, fold, in_order
from pipeline.errors import ManifestError

# Bytes. A smaller manifest has a few hundred thousand lines, whose rows take little memory and time.
_LARGE = 1 << 26
_BLOCK = 1 << 24
_ROWS = 1 << 16

_LINE_FEED, _COMMA = 10, 44

#: Digests as text: ndarray of uint8, shape (n, 64).
Characters = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class ManifestKeys:
    """What the usable images of a manifest are known by, in its order.

    Attributes
    ----------
    folded : ndarray of uint64, shape (n, 2)
        Their digests, see `pipeline.digests`.
    """

    folded: Folded
    _path: Path
    _offsets: npt.NDArray[np.int64] | None
    _rows: tuple[ImageRow, ...]

    @classmethod
    def read(cls, path: Path, each: Callable[[Characters], object] = lambda digests: None) -> ManifestKeys:
        """Read a manifest.

        Parameters
        ----------
        path : Path
            Its file.
        each : callable, optional
            Called with the digests of some usable images after others, in their order.

        Raises
        ------
        ManifestError
            It is missing or malformed.
        """
        if path.is_file() and path.stat().st_size > _LARGE and _is_plain(path):
            folded, offsets = [], []
            try:
                with path.open("rb") as file:
                    for digests, begins in _scanned(file):
                        each(digests)
                        folded.append(fold(digests))
                        offsets.append(begins)
            except ValueError:
                read_manifest(path)  # says which line
                raise ManifestError(f"{path}: digests of usable images have {CHARACTERS} digits.") from None
            return cls(np.concatenate(folded), path, np.concatenate(offsets), ())
        rows = read_manifest(path).usable
        parts = [np.empty((0, 2), np.uint64)]
        for start in range(0, len(rows), _ROWS):
            texts = [row.sha256.encode() for row in rows[start : start + _ROWS]]
            digests = np.array(texts, f"S{CHARACTERS}").view(np.uint8).reshape(len(texts), CHARACTERS)
            each(digests)
            parts.append(fold(digests))
        return cls(np.concatenate(parts), path, None, rows)

    def __len__(self) -> int:
        """Return how many usable images there are."""
        return len(self.folded)

    def different(self) -> int:
        """Return how many of them differ: copies count once."""
        ascending = np.sort(self.folded[:, 0])
        if not (ascending[1:] == ascending[:-1]).any():
            return len(self)
        heads, tails = (np.ascontiguousarray(self.folded[:, column]) for column in range(2))
        order = in_order(heads, tails)
        copies = (heads[order[1:]] == heads[order[:-1]]) & (tails[order[1:]] == tails[order[:-1]])
        return len(self) - int(copies.sum())

    def rows(self, numbers: Iterable[int]) -> Iterator[ImageRow]:
        """Read some of the images, given by their positions."""
        if self._offsets is None:
            yield from (self._rows[number] for number in numbers)
            return
        with self._path.open("rb") as file:
            for number in numbers:
                file.seek(int(self._offsets[number]))
                yield parsed_row(next(csv.reader([file.readline().decode()])))


def _is_plain(path: Path) -> bool:
    """Whether every line feed ends a row, as nothing is quoted."""
    with path.open("rb") as file:
        return file.readline() == ",".join(HEADER).encode() + b"\n" and not any(
            b'"' in block for block in iter(lambda: file.read(_BLOCK), b"")
        )


def _scanned(file: BinaryIO) -> Iterator[tuple[Characters, npt.NDArray[np.int64]]]:
    """Yield digests of usable rows, and where their lines begin, block by block."""
    file.readline()
    begins = file.tell()
    left = b""
    while data := file.read(_BLOCK):
        data = left + data
        end = data.rfind(b"\n") + 1
        left = data[end:]
        if end:
            block = np.frombuffer(data, np.uint8, end)
            digests, starts = _usable(block)
            yield digests, starts + begins
        begins += end
    if left:
        raise ValueError


def _usable(block: npt.NDArray[np.uint8]) -> tuple[Characters, npt.NDArray[np.int64]]:
    """Find the usable rows in whole lines: those that end with ``,SHA256,9,9,9,ok,``.

    Raises
    ------
    ValueError
        A line is not of a manifest.
    """
    ends = np.flatnonzero(block == _LINE_FEED)
    starts = np.concatenate([[0], ends[:-1] + 1])
    commas = np.flatnonzero(block == _COMMA)
    last = np.arange(1, len(ends) + 1) * (len(HEADER) - 1) - 1  # of each line, by number
    if (
        len(commas) != last[-1] + 1
        or (commas[last] >= ends).any()
        or (commas[last - len(HEADER) + 2] < starts).any()
    ):
        raise ValueError
    reason, status = commas[last], commas[last - 1]
    usable = (reason == ends - 1) & (status == ends - 4) & (block[ends - 3] == ord("o"))
    last, starts = last[usable], starts[usable]
    digests = commas[last - 5] + 1
    if (commas[last - 4] - digests != CHARACTERS).any():
        raise ValueError
    return block[digests[:, None] + np.arange(CHARACTERS)], starts
