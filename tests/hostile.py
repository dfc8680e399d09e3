"""Files that crash their decoder, keep it busy, or fill its memory: what workers must survive."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipeline import workers

#: Has a worker's decoder do what the bytes of a file say.
DECODER = """
import os, signal, time
from pipeline import worker
from pipeline.dataset import examiner
real = examiner.decode
def decode(data):
    if data == b"crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if data == b"hang":
        time.sleep(60)
    if data == b"bomb":
        bytes(3 * worker.MAX_MEMORY)
    return real(data)
examiner.decode = decode
"""


def put_on_path(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Have workers find `folder` in front of everything else on their path."""
    path = os.pathsep.join([str(folder), workers._python_path()])
    monkeypatch.setattr(workers, "_python_path", lambda: path)


def run_first(monkeypatch: pytest.MonkeyPatch, folder: Path, code: str) -> None:
    """Have workers run `code` before anything else."""
    (folder / "sitecustomize.py").write_text(code)
    put_on_path(monkeypatch, folder)
