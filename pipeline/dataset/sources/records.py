"""Large files recognised by their hash, and what else unpacking and downloading have in common.

Owns records beside files, and their errors. It knows of no format.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from pipeline import console
from pipeline.console import printable
from pipeline.errors import SourceError
from pipeline.files import StatCache, sha256_of

_MEGABYTE = 1_000_000


def remembered_sha256(file: Path, memory: Path) -> str:
    """Hash a large file, or recall the hash if size, times and inode are those of the last time.

    Parameters
    ----------
    file : Path
        A regular file.
    memory : Path
        Where hashes are remembered (a disposable `StatCache`).

    Returns
    -------
    str
        64 lower-case hexadecimal digits.
    """
    cache = StatCache(memory)
    status = file.stat()
    known = cache.recall(os.fspath(file), status)
    if isinstance(known, str):
        return known
    sha256 = sha256_of(file)
    cache.remember(os.fspath(file), status, sha256)
    cache.save()
    return sha256


def read_json(path: Path) -> dict[str, object] | None:
    """Read a JSON object; None if it is absent or damaged."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def write_failure(path: Path, error: OSError) -> SourceError:
    """Return the error that says why a file or folder could not be written."""
    reason = printable(error.strerror or str(error))
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return SourceError(
            f"{printable(str(path))}: the disk is full ({reason}). Make room and run the same command again."
        )
    return SourceError(f"{printable(str(path))}: cannot be written ({reason}).")


@contextlib.contextmanager
def progress_in_megabytes(label: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show progress through `total` bytes; yields a function to be called with bytes just done."""
    done = 0
    with console.progress(label, -(-total // _MEGABYTE), unit="MB") as advance:

        def advance_bytes(count: int) -> None:
            nonlocal done
            advance((done + count) // _MEGABYTE - done // _MEGABYTE)
            done += count

        yield advance_bytes
        advance(-(-done // _MEGABYTE) - done // _MEGABYTE)  # the last, begun megabyte
