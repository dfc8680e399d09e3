"""One writer: a lock on a folder. Readers need none, and never look at it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from pipeline.errors import StoreLocked


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder against other writers; the lock goes with the process, however it ends.

    Raises
    ------
    StoreLocked
        Another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise StoreLocked(
                f"{folder} is being written by {file.read().strip() or 'another process'}. "
                f"Wait for it to end, or stop it; what it has finished is kept."
            ) from None
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        yield
