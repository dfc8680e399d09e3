"""Looking into one image file: its bytes are read once, hashed and decoded.

Owns the reading. It runs in a worker (`pipeline.workers`), and may be the end of it.
"""

from __future__ import annotations

import hashlib
import os
import stat
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.dataset.images import UndecodableImage, decode
from pipeline.dataset.verdicts import Verdict

if TYPE_CHECKING:
    from PIL import Image

#: Larger files are not read. Raw pixels of the largest image that is decoded are no larger.
MAX_BYTES = 400_000_000


class UnusableFile(Exception):
    """The file's bytes cannot be had; `args[0]` is the reason code."""


def answer(request: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
    """Look into ``request["file"]``; take only its hash unless ``request["decode"]``."""
    verdict, _ = look_at(Path(request["file"]), decode_too=request["decode"])
    return asdict(verdict), b""


def look_at(file: Path, *, decode_too: bool = True) -> tuple[Verdict, Image.Image | None]:
    """Read a file once, hash its bytes and decode them.

    Returns
    -------
    verdict : Verdict
        See there. A file whose bytes could not be had has no hash.
    image : PIL.Image.Image or None
        Upright, RGB; None if it was not or could not be decoded.
    """
    verdict, data = read(file)
    if verdict.reason or (data and not decode_too):
        return verdict, None
    return examined(verdict, data)


def read(file: Path) -> tuple[Verdict, bytes]:
    """Read a file once and hash its bytes; none, and a reason, if they cannot be had."""
    try:
        data = _read(file)
    except UnusableFile as error:
        return Verdict(reason=error.args[0]), b""
    return Verdict(sha256=hashlib.sha256(data).hexdigest(), bytes=len(data)), data


def examined(verdict: Verdict, data: bytes) -> tuple[Verdict, Image.Image | None]:
    """Decode the bytes of a file, and complete its verdict; see `look_at`."""
    try:
        image = decode(data)
    except UndecodableImage as error:
        return replace(verdict, reason=error.reason), None
    return replace(verdict, width=image.width, height=image.height), image


def _read(file: Path) -> bytes:
    try:
        # O_NONBLOCK: opening a FIFO would otherwise wait for a writer
        descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        raise UnusableFile("vanished") from None
    except OSError:
        raise UnusableFile("unreadable") from None
    try:
        before = os.fstat(descriptor)
        if not stat.S_ISREG(before.st_mode):
            raise UnusableFile("not_regular")
        if before.st_size > MAX_BYTES:
            raise UnusableFile("too_large")
        with open(descriptor, "rb", closefd=False) as stream:
            data = stream.read(before.st_size + 1)  # 1: a file that grew is seen to
        after = os.fstat(descriptor)
    except OSError:
        raise UnusableFile("unreadable") from None
    except MemoryError:
        raise UnusableFile("out_of_memory") from None
    finally:
        os.close(descriptor)
    if len(data) != before.st_size or after.st_mtime_ns != before.st_mtime_ns:
        raise UnusableFile("changed_while_read")
    return data
