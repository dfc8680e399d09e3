"""Processes that may die of what they are given: asked, answering, and replaced when they are lost.

A damaged file may crash its decoder, keep it busy for ever, or fill the memory, so nothing
untrusted is decoded in the process that a user started. Owns these processes, which run
`pipeline.worker`, and how long they are waited for. It does not know what they are asked.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import json
import math
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Collection, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pipeline
from pipeline.errors import PipelineError
from pipeline.frames import EndOfFrames, FrameReader
from pipeline.worker import READY

#: Seconds for one answer; a photograph takes a few milliseconds.
TIMEOUT = 10.0

# The worker ends itself in time, even when orphaned. Its parent waits a little longer, and only for a
# worker that cannot: one that is stopped, or waits for a dead disk.
_GRACE = 5.0
_START = 120.0

# Bytes that a pipe holds: an image of 224 x 224, and its frame.
_PIPE = 1 << 18


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
    try:
        yield from _in_order(crew, iter(requests), ahead)
    finally:  # also when interrupted: nobody waits for a worker, and none outlives its caller
        for worker in crew:
            worker.end()


def _in_order(
    crew: Sequence[_Worker], source: Iterator[dict[str, Any]], ahead: int
) -> Generator[Answer, None, None]:
    """Keep a crew busy, and give what it answers; one thread does it all, and wakes for whole frames only."""
    places = itertools.count()
    asked: dict[int, _Worker] = {}  # by the number of the request
    found: dict[int, Answer] = {}
    given, more = 0, True
    while True:
        for worker in crew:
            if more and worker.is_idle and len(asked) + len(found) < ahead:
                request = next(source, None)
                more = request is not None
                if request is not None:
                    worker.ask(request)
                    asked[next(places)] = worker
        if given in found:
            yield found.pop(given)
            given += 1
        elif not asked:
            return
        else:
            heard = _heard(asked.values())
            done = [place for place, worker in asked.items() if worker in heard]
            found |= {place: heard[asked.pop(place)] for place in done}


def _heard(busy: Collection[_Worker]) -> dict[_Worker, Answer]:
    """Wait until one of those that were asked has answered or is lost; return who has, and what."""
    waiting = select.poll()
    by_file = {worker.file: worker for worker in busy}
    for file in by_file:
        waiting.register(file, select.POLLIN)
    heard: dict[_Worker, Answer] = {}
    while not heard:
        soonest = min(worker.deadline for worker in busy)
        ready = waiting.poll(max(0.0, soonest - time.monotonic()) * 1000)
        answers = [(by_file[file], by_file[file].hear()) for file, _ in ready]
        if not ready:  # what lies in a pipe is not late, however long nobody has looked
            answers = [(w, w.give_up()) for w in busy if w.deadline <= time.monotonic()]
        heard = {worker: answer for worker, answer in answers if answer is not None}
    return heard


class _Worker:
    """One process, started when first asked and again after each death.

    Attributes
    ----------
    is_idle : bool
        Whether it has answered all that it was asked.
    deadline : float
        When, by `time.monotonic`, it is given up unless it has been heard from.
    """

    def __init__(self, module: str, timeout: float) -> None:
        self._code = f"from pipeline.worker import serve; from {module} import answer; "
        self._code += f"serve(answer, {timeout!r})"
        self._timeout = timeout
        self._process: subprocess.Popen[bytes] | None = None
        self._starting = threading.Lock()
        self._ended = False
        self._is_ready = False
        self._frames = FrameReader(-1)
        self.is_idle = True
        self.deadline = math.inf

    def ask(self, request: dict[str, Any]) -> None:
        """Send a request, and do not wait."""
        if self._process is None:
            self._start()
        self.is_idle = False
        self._set_deadline()
        if self._process is not None and self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):  # it is lost, as will be heard
                self._process.stdin.write(json.dumps(request).encode() + b"\n")

    @property
    def file(self) -> int:
        """Descriptor that it answers on, while it is not idle."""
        return self._frames.file

    def hear(self) -> Answer | None:
        """Read what has come; None while the answer is not there."""
        self._set_deadline()
        try:
            frame = self._frames.read()
            if frame == READY and not self._is_ready:
                self._is_ready = True
                frame = self._frames.read()
        except EndOfFrames:
            return self._lost("decoder_crashed")
        if frame is None:
            return None
        self.is_idle = True
        return Answer(*frame)

    def give_up(self) -> Answer:
        """Kill it, for it is late."""
        return self._lost("timeout")

    def end(self) -> None:
        """Have the process die, and start no other."""
        with self._starting:
            self._ended = True
        self._forget()

    def _forget(self) -> None:
        if self._process is not None:
            process, self._process = self._process, None
            process.kill()
            with contextlib.suppress(BrokenPipeError):
                process.communicate()

    def _lost(self, how: Literal["timeout", "decoder_crashed"]) -> Answer:
        status = None
        if self._process is not None and how == "decoder_crashed":
            with contextlib.suppress(subprocess.TimeoutExpired):  # it has hung up, and lives on
                status = self._process.wait(_GRACE)
        self._forget()
        if not self._is_ready:
            raise PipelineError(
                f"{sys.executable}: the process that decodes images did not start (exit status "
                f"{status}). Its own words stand above; `pip install pillow` mends a broken Pillow."
            )
        self.is_idle = True
        return Answer({}, lost="timeout" if status == -signal.SIGALRM else how)

    def _set_deadline(self) -> None:
        self.deadline = time.monotonic() + (self._timeout + _GRACE if self._is_ready else _START)

    def _start(self) -> None:
        self._is_ready = False
        # In a thread, which no signal interrupts half-way: a process would be left that nobody knows of.
        pool = ThreadPoolExecutor(1, thread_name_prefix="start")
        try:
            pool.submit(self._launch).result()
        finally:
            pool.shutdown(wait=False)
        if self._process is not None and self._process.stdout is not None:
            self._frames = FrameReader(self._process.stdout.fileno())
            os.set_blocking(self.file, False)
            _widen(self.file)

    def _launch(self) -> None:
        with self._starting:
            if not self._ended:
                self._process = subprocess.Popen(
                    [sys.executable, "-P", "-c", self._code],
                    bufsize=0,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    env=os.environ | {"PYTHONPATH": _python_path()},
                    process_group=0,  # Ctrl-C goes to the caller alone, which then ends this process
                )


def _widen(pipe: int) -> None:
    """Let an answer with pixels wait in the pipe whole, so that its worker can go on to the next."""
    if hasattr(fcntl, "F_SETPIPE_SZ"):  # Linux
        with contextlib.suppress(OSError):  # a user may have only so much of that
            fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE)


def _python_path() -> str:
    """Return where the new process finds this very package, whatever its current folder."""
    here = str(Path(pipeline.__file__).parent.parent)
    inherited = os.environ.get("PYTHONPATH")
    return os.pathsep.join([here, inherited] if inherited else [here])
