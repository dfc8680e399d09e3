"""Where the torch head computes: on a GPU, or on one thread of the CPU.

Owns the choice of the device and torch's number of threads.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


def device_of(name: str) -> torch.device:
    """Return the device that ``auto``, ``cpu`` or ``cuda`` stands for.

    Raises
    ------
    ValueError
        CUDA is asked for, and there is none.
    """
    there = torch.cuda.is_available()
    if name == "cuda" and not there:
        raise ValueError("device is cuda, but torch finds no CUDA device: choose cpu or auto")
    return torch.device("cpu" if name == "cpu" or not there else "cuda")


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute on one thread of the CPU, and leave its setting as it was.

    Sums are split among threads, so that their last bits depend on the number of threads. A
    linear layer's products are bound by memory, and one thread is as fast.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
