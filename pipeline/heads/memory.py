"""Where a large matrix goes: into memory as far as the budget reaches, else into a mapped file.

Owns the budget and the file. It knows nothing of what the numbers mean.
"""

from __future__ import annotations

import contextlib
import fcntl
import math
import os
import re
import secrets
import shutil
import weakref
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.console import note, printable
from pipeline.errors import ParamsError, WorkspaceError

_UNITS = {"": 1, "b": 1} | {
    letter + ending: base**power
    for power, letter in enumerate("kmgt", start=1)
    for ending, base in (("", 1000), ("b", 1000), ("ib", 1024))
}


@dataclass(frozen=True)
class Memory:
    """Room for matrices.

    Attributes
    ----------
    folder : Path
        Where the files of those go that are too large for memory.
    budget : int
        Bytes of the largest matrix that is held in memory.
    """

    folder: Path
    budget: int

    @classmethod
    def of(cls, folder: Path, budget: int | None = None) -> Memory:
        """Take `budget`, or by default half of what is free now."""
        return cls(folder, free_memory() // 2 if budget is None else budget)

    def shared(self, users: int) -> Memory:
        """Return the share of one of so many users."""
        return replace(self, budget=self.budget // users)

    def empty(self, shape: tuple[int, int], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """Make an array, with whatever it happens to hold.

        Returns
        -------
        ndarray or memmap
            The latter where it is larger than the budget. Its file goes when nobody has the array
            any more, or when the process ends; what a killed process left goes with the next.

        Raises
        ------
        WorkspaceError
            The disk has no room for it.
        """
        size = math.prod(shape) * np.dtype(dtype).itemsize
        return np.empty(shape, dtype) if size <= self.budget else self._mapped(shape, dtype, size)

    def _mapped(self, shape: tuple[int, int], dtype: npt.DTypeLike, size: int) -> npt.NDArray[Any]:
        self.folder.mkdir(parents=True, exist_ok=True)
        for left in self.folder.glob(".matrix.*.tmp"):
            _unlink_unless_held(left)
        free = shutil.disk_usage(self.folder).free
        if size > free:
            # asked first: a mapped file that outgrows its disk ends the process with a bus error
            raise WorkspaceError(
                f"{printable(str(self.folder))}: {said_size(size)} of features are more than the "
                f"{said_size(self.budget)} of memory that they may take, and the disk has "
                f"{said_size(free)} left. Make room on it, raise `--memory`, or set pooling."
            )
        path = self.folder / f".matrix.{secrets.token_hex(4)}.tmp"
        with path.open("w+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # the mapping keeps it, and the kernel takes it back
            if hasattr(os, "posix_fallocate"):  # macOS has none
                os.posix_fallocate(file.fileno(), 0, size)
            array = np.memmap(file, dtype, mode="r+", shape=shape)
        weakref.finalize(array, path.unlink, missing_ok=True)
        note(
            f"{shape[0]} rows of features take {said_size(size)}, and {said_size(self.budget)} of memory "
            f"may be used: they go to a temporary file in {printable(str(self.folder))}"
        )
        return array


def free_memory() -> int:
    """Return how many bytes can be used without taking them from other programs.

    References
    ----------
    Linux: ``MemAvailable`` of proc_meminfo(5), and a container's limit in ``memory.max`` of the kernel's
    cgroup-v2.rst. Elsewhere (macOS has no such number) half of the machine's memory.
    """
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    free = machine // 2
    with contextlib.suppress(OSError):
        found = re.search(r"^MemAvailable:\s*(\d+) kB$", Path("/proc/meminfo").read_text(), re.MULTILINE)
        free = int(found[1]) * 1024 if found else free
    with contextlib.suppress(OSError, ValueError):  # ValueError: "max", for no limit
        free = min(free, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return free


def parsed_size(text: str) -> int:
    """Read a size such as ``4GB``, ``1.5 GiB``, ``500M`` or a number of bytes.

    Raises
    ------
    ParamsError
        It is none.
    """
    found = re.fullmatch(r"\s*(\d{1,15}(?:\.\d{1,6})?)\s*([a-z]*)\s*", text.lower(), re.ASCII)
    if not found or found[2] not in _UNITS:
        raise ParamsError(f"--memory {printable(text)}: expected a size, such as 4GB, 1.5GiB or 500M.")
    return int(float(found[1]) * _UNITS[found[2]])


def said_size(size: int) -> str:
    """Say a number of bytes: ``2.5 GB``."""
    value, unit = float(size), "bytes"
    for larger in ("KB", "MB", "GB", "TB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{value:.0f} {unit}" if unit == "bytes" else f"{value:.1f} {unit}"


def _unlink_unless_held(path: Path) -> None:
    """Remove a file that a killed process left; one that a living process has mapped is locked."""
    with contextlib.suppress(OSError), path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink()
