"""The process that looks into image files for its parent, and may die of it.

Owns reading a file once, hashing and decoding the same bytes, and the limits of time and
memory around that. It answers on stdout, one line of JSON a request, and ends with its parent.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import resource
import signal
import stat
import sys
from dataclasses import asdict
from pathlib import Path

from pipeline.dataset.images import UndecodableImage, decode
from pipeline.dataset.verdicts import Verdict

#: Seconds for one image, reading included; a photograph takes a few milliseconds.
TIMEOUT = 10

#: Address space of the process, so that a bomb is refused memory and the machine does not swap.
MAX_MEMORY = 1_000_000_000

#: Larger files are not read. Raw pixels of the largest image that is decoded are no larger.
MAX_BYTES = 400_000_000


class UnusableFile(Exception):
    """The file's bytes cannot be had; `args[0]` is the reason code."""


def look_at(file: Path, *, decode_too: bool = True) -> Verdict:
    """Read a file once, hash its bytes and decode them.

    Returns
    -------
    Verdict
        See there. A file whose bytes could not be had has no hash.
    """
    try:
        data = _read(file)
    except UnusableFile as error:
        return Verdict(reason=error.args[0])
    verdict = Verdict(sha256=hashlib.sha256(data).hexdigest(), bytes=len(data))
    if data and not decode_too:
        return verdict
    try:
        width, height = decode(data).size
    except UndecodableImage as error:
        return Verdict(verdict.sha256, verdict.bytes, reason=error.reason)
    return Verdict(verdict.sha256, verdict.bytes, width, height)


def serve() -> None:
    """Answer requests on stdin until it is closed."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="ascii")
    nothing = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):  # C libraries print there, over bytes that concern nobody
        os.dup2(nothing, stream.fileno())
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_AS, MAX_MEMORY)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends the process, in the middle of C code too
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        signal.alarm(TIMEOUT)
        verdict = look_at(Path(request["file"]), decode_too=request["decode"])
        signal.alarm(0)
        print(json.dumps(asdict(verdict)), file=answers, flush=True)


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


def _limit(kind: int, value: int) -> None:
    _, hard = resource.getrlimit(kind)
    with contextlib.suppress(ValueError, OSError):  # macOS knows RLIMIT_AS and refuses to set it
        resource.setrlimit(kind, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))
