"""What image files hold: hash, size in pixels, and whether they can be used.

Owns the processes that look into files. A damaged file may crash its decoder, or keep it busy
for ever, so that is not done here but in processes that can be lost and replaced; each image
costs at most itself. It never changes a file.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import zlib
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pipeline
from pipeline.errors import PipelineError

#: Reasons that may be gone at the next look, so that no verdict with one of them is remembered.
PASSING = frozenset({"vanished", "unreadable", "changed_while_read", "timeout", "decoder_crashed"})


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


def examine(files: Sequence[Path], *, decode: bool = True) -> Generator[Verdict, None, None]:
    """Look into files, in parallel, in processes that may die of it.

    Parameters
    ----------
    files : sequence of Path
        Anything that can have a name in a folder, absent files included.
    decode : bool, default True
        False only takes the hashes.

    Yields
    ------
    Verdict
        One for each of `files`, in their order. Beside the reasons of
        `pipeline.dataset.images.UndecodableImage`: ``vanished``, ``unreadable``,
        ``not_regular`` (a folder, FIFO, socket or device), ``changed_while_read``,
        ``timeout`` (10 s) and ``decoder_crashed``.
    """
    examiners = [_Examiner() for _ in range(min(os.cpu_count() or 1, len(files)))]
    idle: queue.SimpleQueue[_Examiner] = queue.SimpleQueue()
    for examiner in examiners:
        idle.put(examiner)

    def look(file: Path) -> Verdict:
        examiner = idle.get()
        try:
            return examiner.look(file, decode)
        finally:
            idle.put(examiner)

    pool = ThreadPoolExecutor(max(1, len(examiners)), thread_name_prefix="examine")
    try:
        yield from pool.map(look, files)
    finally:  # also when interrupted: nobody waits for a decoder, and none outlives its caller
        pool.shutdown(wait=False, cancel_futures=True)
        for examiner in examiners:
            examiner.kill()
        pool.shutdown()
        for examiner in examiners:
            examiner.close()


def reader_version() -> int:
    """Return a number that changes with whatever may change a verdict: the decoders and their versions."""
    import PIL  # the bare package: its version costs nothing, the decoders 40 ms

    heif = importlib.util.find_spec("pillow_heif") is not None
    return zlib.crc32(f"1 pillow {PIL.__version__} heif {heif}".encode())


class _Examiner:
    """A process that looks into files, started when first needed and again after each death."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._stopped = False
        self._starting = threading.Lock()

    def look(self, file: Path, decode: bool) -> Verdict:
        """Have one file looked into."""
        # one line of ASCII, whatever the name holds
        answer = self._ask(json.dumps({"file": os.fspath(file), "decode": decode}))
        if answer:
            return Verdict(**json.loads(answer))
        status = self.close()
        return Verdict(reason="timeout" if status == -signal.SIGALRM else "decoder_crashed")

    def kill(self) -> None:
        """Have the process die, and start no other. Called from another thread than `look`."""
        with self._starting:
            self._stopped = True
            if self._process is not None:
                self._process.kill()

    def close(self) -> int | None:
        """Wait for the end of the process; return its exit status."""
        if self._process is None:
            return None
        with contextlib.suppress(BrokenPipeError):
            self._process.communicate()
        status = self._process.returncode
        self._process = None
        return status

    def _ask(self, request: str) -> str:
        if self._process is None:
            self._start()
        process = self._process
        if process is None or process.stdin is None or process.stdout is None:
            return ""
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(request + "\n")
            process.stdin.flush()
        return process.stdout.readline()

    def _start(self) -> None:
        with self._starting:
            if self._stopped:
                return
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", "from pipeline.dataset.examiner import serve; serve()"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                encoding="ascii",
                env=os.environ | {"PYTHONPATH": _python_path()},
                process_group=0,  # Ctrl-C goes to the caller alone, which then ends this process
            )
        if self._process.stdout.readline() != "ready\n" and not self._stopped:  # type: ignore[union-attr]
            status = self.close()
            raise PipelineError(
                f"{sys.executable}: the process that decodes images did not start (exit status {status}). "
                f"Its own words stand above; `pip install pillow` mends a broken Pillow."
            )


def _python_path() -> str:
    """Return where the new process finds this very package, whatever its current folder."""
    here = str(Path(pipeline.__file__).parent.parent)
    inherited = os.environ.get("PYTHONPATH")
    return os.pathsep.join([here, inherited] if inherited else [here])
