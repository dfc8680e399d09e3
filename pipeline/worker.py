"""What a worker runs: requests in, answers out, within limits of time and memory.

Owns these limits, for what it is given may be a bomb, or never end. Who starts it, and again when it is lost,
is `pipeline.workers`.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import sys
from collections.abc import Callable
from typing import Any

from pipeline.frames import Frame, write_frame

#: Address space of a worker, so that a bomb is refused memory and the machine does not swap.
MAX_MEMORY = 1_000_000_000

#: Request to answer, both as JSON can hold them, the answer with bytes beside it.
Answerer = Callable[[dict[str, Any]], tuple[dict[str, Any], bytes]]

#: What it says first.
READY = Frame("ready", b"")


def serve(answer: Answerer, timeout: float) -> None:
    """Answer requests on stdin until it is closed. This is what a worker runs."""
    frames = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    nothing = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):  # C libraries print there, over bytes that concern nobody
        os.dup2(nothing, stream.fileno())
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_AS, MAX_MEMORY)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends the process, in the middle of C code too

    write_frame(frames, READY)
    for line in sys.stdin.buffer:
        signal.setitimer(signal.ITIMER_REAL, timeout)
        frame = Frame(*answer(json.loads(line)))
        signal.setitimer(signal.ITIMER_REAL, 0)
        write_frame(frames, frame)


def _limit(kind: int, value: int) -> None:
    _, hard = resource.getrlimit(kind)
    with contextlib.suppress(ValueError, OSError):  # macOS knows RLIMIT_AS and refuses to set it
        resource.setrlimit(kind, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))
