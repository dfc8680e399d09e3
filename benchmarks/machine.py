"""What a measurement was made on: to be printed above every table."""

from __future__ import annotations

import os
import platform
import re
from importlib.metadata import version
from pathlib import Path

# What makes a CPU fast at 8 and 16 bits.
_FLAGS = ("avx2", "avx512_vnni", "avx512_bf16", "amx_bf16")


def described(*packages: str, processor: str | None = None) -> str:
    """Name the machine, its cores, Python, and the versions of packages.

    Parameters
    ----------
    *packages : str
        Distributions whose versions matter.
    processor : str, optional
        What the work runs on, if it is not the CPU.
    """
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    where = processor or _cpu()
    return f"{where}, {os.cpu_count()} cores; Python {platform.python_version()}, {versions}"


def _cpu() -> str:
    try:
        info = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor()
    model = re.search(r"^model name\s*: (.*)$", info, re.MULTILINE)
    flags = [flag for flag in _FLAGS if flag in info]
    return f"{model[1] if model else platform.machine()} ({', '.join(flags)})"
