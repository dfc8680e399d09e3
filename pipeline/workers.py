"""Processes that may die of what they are given: asked, answering, and replaced when they are lost.

A damaged file may crash its decoder, keep it busy for ever, or fill the memory, so nothing
untrusted is decoded in the process that a user started. Owns these processes, their limits of
time and memory, and the frames that go between. It does not know what they are asked.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import json
import os
import queue
import resource
import select
import signal
import struct
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

import pipeline
from pipeline.errors import PipelineError

#: Seconds for one answer; a photograph takes a few milliseconds.
TIMEOUT = 10.0

#: Address space of a worker, so that a bomb is refused memory and the machine does not swap.
MAX_MEMORY = 1_000_000_000

# The worker ends itself in time, even when orphaned. Its parent waits a little longer, and only for a
# worker that cannot: one that is stopped, or waits for a dead disk.
_GRACE = 5.0
_START = 120.0

# Bytes that a pipe holds: an image of 224 x 224, and its frame.
_PIPE = 1 << 18

_FRAME = struct.Struct(">II")  # lengths of what follows: JSON, then bytes
_READY = b'"ready"'

#: What a worker runs: request to answer, both as JSON can hold them, the answer with bytes beside it.
Answerer = Callable[[dict[str, Any]], tuple[dict[str, Any], bytes]]


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back for a request.

    Attributes
    ----------
    values : dict
        What the worker answered; empty if it was lost.
    data : bytes-like
        What it sent along.
    lost : {"", "timeout", "decoder_crashed"}
        How the worker ended, if it did; the next request gets a new one.
    """

    values: dict[str, Any]
    data: bytes | bytearray = b""
    lost: Literal["", "timeout", "decoder_crashed"] = ""


def ask(
    module: str,
    requests: Iterable[dict[str, Any]],
    *,
    workers: int,
    ahead: int,
    timeout: float = TIMEOUT,
) -> Generator[Answer, None, None]:
    """Have requests answered in parallel.

    Parameters
    ----------
    module : str
        Dotted name of the module whose `answer` (an `Answerer`) the workers run.
    requests : iterable of dict
        Values that JSON can hold.
    workers : int
        How many processes; each is started with its first request.
    ahead : int
        How many answers may wait to be taken.
    timeout : float
        Seconds for one answer.

    Yields
    ------
    Answer
        One for each request, in their order.

    Raises
    ------
    PipelineError
        A worker does not start.
    """
    crew = [_Worker(module, timeout) for _ in range(workers)]
    idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
    for worker in crew:
        idle.put(worker)

    def answered(request: dict[str, Any]) -> Answer:
        worker = idle.get()
        try:
            return worker.ask(request)
        finally:
            idle.put(worker)

    pool = ThreadPoolExecutor(workers, thread_name_prefix="ask")
    try:
        yield from _map_ahead(pool, answered, requests, ahead)
    finally:  # also when interrupted: nobody waits for a worker, and none outlives its caller
        pool.shutdown(wait=False, cancel_futures=True)
        for worker in crew:
            worker.kill()
        pool.shutdown()
        for worker in crew:
            worker.close()


def serve(answer: Answerer, timeout: float) -> None:
    """Answer requests on stdin until it is closed. This is what a worker runs."""
    frames = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    nothing = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):  # C libraries print there, over bytes that concern nobody
        os.dup2(nothing, stream.fileno())
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_AS, MAX_MEMORY)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends the process, in the middle of C code too

    def send(values: bytes, data: bytes) -> None:
        frames.write(_FRAME.pack(len(values), len(data)) + values + data)
        frames.flush()

    send(_READY, b"")
    for line in sys.stdin.buffer:
        signal.setitimer(signal.ITIMER_REAL, timeout)
        values, data = answer(json.loads(line))
        signal.setitimer(signal.ITIMER_REAL, 0)
        send(json.dumps(values).encode(), data)


class _Worker:
    """One process, started when first asked and again after each death."""

    def __init__(self, module: str, timeout: float) -> None:
        self._code = f"from pipeline.workers import serve; from {module} import answer; "
        self._code += f"serve(answer, {timeout!r})"
        self._timeout = timeout
        self._process: subprocess.Popen[bytes] | None = None
        self._stopped = False
        self._starting = threading.Lock()

    def ask(self, request: dict[str, Any]) -> Answer:
        """Have one request answered."""
        if self._process is None:
            self._start()
        if self._process is None or self._process.stdin is None or self._process.stdout is None:
            return Answer({}, lost="decoder_crashed")  # stopped: nobody waits for this answer
        late = False
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
        try:
            frame = _read_frame(self._process.stdout, self._timeout + _GRACE)
            if frame is not None:
                return Answer(json.loads(frame[0]), frame[1])
        except TimeoutError:
            late = True
            self._process.kill()
        status = self.close()
        return Answer({}, lost="timeout" if late or status == -signal.SIGALRM else "decoder_crashed")

    def kill(self) -> None:
        """Have the process die, and start no other. Called from another thread than `ask`."""
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

    def _start(self) -> None:
        with self._starting:
            if self._stopped:
                return
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", self._code],
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=os.environ | {"PYTHONPATH": _python_path()},
                process_group=0,  # Ctrl-C goes to the caller alone, which then ends this process
            )
        _widen(self._process.stdout)
        frame = _read_frame(self._process.stdout, _START) if self._process.stdout else None
        if (frame is None or frame[0] != _READY) and not self._stopped:
            self._process.kill()
            raise PipelineError(
                f"{sys.executable}: the process that decodes images did not start (exit status "
                f"{self.close()}). Its own words stand above; `pip install pillow` mends a broken Pillow."
            )


def _read_frame(stream: IO[bytes], seconds: float) -> tuple[bytearray, bytearray] | None:
    """Read what a worker sends; None if it has ended instead.

    Raises
    ------
    TimeoutError
        It has not come in time.
    """
    deadline = time.monotonic() + seconds
    lengths = _read(stream, _FRAME.size, deadline)
    if lengths is None:
        return None
    values, data = (_read(stream, length, deadline) for length in _FRAME.unpack(lengths))
    return None if values is None or data is None else (values, data)


def _read(stream: IO[bytes], length: int, deadline: float) -> bytearray | None:
    data = bytearray(length)
    waiting = select.poll()
    waiting.register(stream, select.POLLIN)
    done = 0
    while done < length:
        if not waiting.poll(max(0.0, deadline - time.monotonic()) * 1000):
            raise TimeoutError
        count = os.readv(stream.fileno(), [memoryview(data)[done:]])
        if not count:
            return None
        done += count
    return data


def _map_ahead(
    pool: ThreadPoolExecutor,
    function: Callable[[dict[str, Any]], Answer],
    items: Iterable[dict[str, Any]],
    ahead: int,
) -> Generator[Answer, None, None]:
    """Map in the background and in order, at most `ahead` results before their use."""
    source = iter(items)
    waiting: deque[Future[Answer]] = deque(
        pool.submit(function, item) for item in itertools.islice(source, ahead)
    )
    while waiting:
        result = waiting.popleft().result()
        waiting.extend(pool.submit(function, item) for item in itertools.islice(source, 1))
        yield result


def _widen(pipe: IO[bytes] | None) -> None:
    """Let an answer with pixels wait in the pipe whole, so that its worker can go on to the next."""
    if pipe is not None and hasattr(fcntl, "F_SETPIPE_SZ"):  # Linux
        with contextlib.suppress(OSError):  # a user may have only so much of that
            fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE)


def _limit(kind: int, value: int) -> None:
    _, hard = resource.getrlimit(kind)
    with contextlib.suppress(ValueError, OSError):  # macOS knows RLIMIT_AS and refuses to set it
        resource.setrlimit(kind, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))


def _python_path() -> str:
    """Return where the new process finds this very package, whatever its current folder."""
    here = str(Path(pipeline.__file__).parent.parent)
    inherited = os.environ.get("PYTHONPATH")
    return os.pathsep.join([here, inherited] if inherited else [here])
