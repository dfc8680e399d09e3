"""Imports that take a second, begun while something else is still being read.

Owns the thread. Python's own locks see to it that whoever imports the same module waits for it.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable


def begin(*imports: Callable[[], object]) -> threading.Thread:
    """Begin to import, one thing after the other, and return at once.

    Parameters
    ----------
    *imports : callable
        Called without arguments. What cannot be imported is left to the one who needs it, and to its error.

    Returns
    -------
    threading.Thread
        To be joined before work that runs in Python itself: two such threads keep each other waiting.
    """

    def run() -> None:
        for each in imports:
            with contextlib.suppress(Exception):
                each()

    # a daemon: a command that fails early does not wait for it
    thread = threading.Thread(target=run, name="imports", daemon=True)
    thread.start()
    return thread
