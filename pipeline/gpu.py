"""Whether there may be a GPU that torch can use, without asking torch, whose import takes seconds."""

from __future__ import annotations

import sys
from pathlib import Path

# Where Linux has these, there may be one: NVIDIA's, one seen from WSL, AMD's.
_FILES = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")


def may_be_here() -> bool:
    """Say no only where it is certain."""
    return sys.platform != "linux" or any(Path(file).exists() for file in _FILES)
