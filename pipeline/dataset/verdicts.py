"""What image files hold: hash, size in pixels, and whether they can be used.

Owns the codes. The looking itself is done by processes that can be lost and replaced
(`pipeline.workers`, running `pipeline.dataset.examiner`); each image costs at most itself.
"""

from __future__ import annotations

import importlib.util
import os
import zlib
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.workers import ask

#: Reasons that may be gone at the next look, so that no verdict with one of them is remembered.
PASSING = frozenset({"vanished", "unreadable", "changed_while_read", "timeout", "decoder_crashed"})

# One slow image holds up nobody for long.
_AHEAD = 256


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a look into one file found.

    Attributes
    ----------
    sha256 : str
        Of the file's bytes; empty if they could not be read.
    bytes : int
        Size of the file.
    width, height : int
        Of the upright image in pixels; 0 if it was not or could not be decoded.
    reason : str
        Why it cannot be used; empty if it can, or if only the hash was asked for.
    """

    sha256: str = ""
    bytes: int = 0
    width: int = 0
    height: int = 0
    reason: str = ""

    @property
    def final(self) -> bool:
        """Whether it says if the file can be used, and not only what its hash is."""
        return self.reason != "" or self.width > 0


def examine(
    files: Sequence[Path], *, decode: bool = True, processes: int | None = None
) -> Generator[Verdict, None, None]:
    """Look into files, in parallel, in processes that may die of it.

    Parameters
    ----------
    files : sequence of Path
        Anything that can have a name in a folder, absent files included.
    decode : bool, default True
        False only takes the hashes.
    processes : int, optional
        By default one a processor.

    Yields
    ------
    Verdict
        One for each of `files`, in their order. Beside the reasons of
        `pipeline.dataset.images.UndecodableImage`: ``vanished``, ``unreadable``,
        ``not_regular`` (a folder, FIFO, socket or device), ``changed_while_read``,
        ``timeout`` (10 s) and ``decoder_crashed``.
    """
    requests = ({"file": os.fspath(file), "decode": decode} for file in files)
    workers = max(1, min(processes or os.cpu_count() or 1, len(files)))
    for answer in ask("pipeline.dataset.examiner", requests, workers=workers, ahead=_AHEAD):
        yield Verdict(reason=answer.lost) if answer.lost else Verdict(**answer.values)


def reader_version() -> int:
    """Return a number that changes with whatever may change a verdict: the decoders and their versions."""
    import PIL  # the bare package: its version costs nothing, the decoders 40 ms

    heif = importlib.util.find_spec("pillow_heif") is not None
    return zlib.crc32(f"1 pillow {PIL.__version__} heif {heif}".encode())
