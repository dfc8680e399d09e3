"""A Dask scheduler and its workers, started by Dask's own commands, each a process of its own on loopback."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DASK = Path(sys.executable).parent / "dask"


class Scheduler:
    """A scheduler.

    Parameters
    ----------
    folder : Path
        Where its processes may write.
    *options : str
        Of ``dask scheduler``, ``dask worker`` and so on.
    """

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder = folder
        self._file = folder / "scheduler.json"
        self._options = options
        self._processes: list[subprocess.Popen[bytes]] = []
        self.process = self._start(
            "scheduler", "--host", "127.0.0.1", "--port", "0", "--scheduler-file", str(self._file)
        )
        deadline = time.monotonic() + 60
        while not self._file.exists() or not self._file.read_text():
            assert self.process.poll() is None, (folder / "dask.log").read_text()
            assert time.monotonic() < deadline, "the scheduler has not come"
            time.sleep(0.02)
        self.address: str = json.loads(self._file.read_text())["address"]

    def worker(
        self, *options: str, fault: str = "", environment: Mapping[str, str] = {}
    ) -> subprocess.Popen[bytes]:
        """Start a worker; with a fault it is one of `tests.worker_faults`. It comes within seconds."""
        if fault:
            options += ("--preload", str(ROOT / "tests" / "worker_faults.py"))
        return self._start(
            "worker",
            "--scheduler-file",
            str(self._file),
            "--no-nanny",
            "--nthreads",
            "1",
            *options,
            environment={"FAULT": fault, **environment},
        )

    def stop(self, process: subprocess.Popen[bytes]) -> None:
        """End one of its processes, whatever it does."""
        process.send_signal(signal.SIGCONT)
        process.kill()
        process.wait()

    def close(self) -> None:
        """End all of its processes."""
        for process in reversed(self._processes):
            self.stop(process)

    def _start(
        self, command: str, *options: str, environment: Mapping[str, str] = {}
    ) -> subprocess.Popen[bytes]:
        variables = {
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            # a worker that is not heard of is given up in seconds: as few as Dask lets it be
            "DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL": "1s",
            "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "20",
            "DASK_DISTRIBUTED__WORKER__MULTIPROCESSING_METHOD": "spawn",
        }
        with (self.folder / "dask.log").open("ab") as log:
            process = subprocess.Popen(
                [DASK, command, *self._options, "--no-dashboard", *options],
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env={**os.environ, **variables, **environment},
            )
        self._processes.append(process)
        return process


@contextlib.contextmanager
def scheduler(folder: Path, *options: str) -> Iterator[Scheduler]:
    """Start a scheduler, and end it with all of its workers."""
    started = Scheduler(folder, *options)
    try:
        yield started
    finally:
        started.close()
