"""Tests of the pipeline; `tests.conftest` has what they share."""

import os

if "PYTEST_XDIST_WORKER" in os.environ:
    # A process a core: more threads would keep each other waiting. Numpy and torch read this when they are
    # imported, which is after this, and so do the processes that tests start.
    for _library in ("OMP", "OPENBLAS", "MKL"):
        os.environ.setdefault(f"{_library}_NUM_THREADS", "1")
