"""What goes wrong on a worker whose ``FAULT`` says so; Dask loads this into the worker's process."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path
from typing import Any

from pipeline.features.extractor import Extractor
from pipeline.features.shards import ShardMaker


def slow(seconds: float = 0.15) -> None:
    """Take so long for each batch that whatever happens, happens within a shard."""
    forward = Extractor.forward

    def slowly(self: Extractor, pixels: Any) -> Any:
        time.sleep(seconds)
        return forward(self, pixels)

    Extractor.forward = slowly  # type: ignore[method-assign]


def full() -> None:
    """Have no room on the disk for a shard."""
    write_bytes = Path.write_bytes

    def nearly_full(path: Path, data: Any) -> int:
        if path.suffix == ".tmp":
            write_bytes(path, data[:1000])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write_bytes(path, data)

    Path.write_bytes = nearly_full  # type: ignore[assignment,method-assign]


def poison() -> None:
    """Fail in the shard that begins with an image of this name."""
    make = ShardMaker.make

    def failing(self: ShardMaker, parts: Any) -> Any:
        if parts[0][0].image.path == os.environ["POISON"]:
            raise RuntimeError("no luck with this one")
        return make(self, parts)

    ShardMaker.make = failing  # type: ignore[assignment,method-assign]


def dask_setup(worker: object) -> None:
    """Make the fault happen."""
    {"slow": slow, "full": full, "poison": poison}[os.environ["FAULT"]]()
