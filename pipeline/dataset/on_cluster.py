"""Files examined by the workers of a Dask cluster, each as `pipeline.dataset.verdicts.examine` does it.

Owns how files are shared out. Through the scheduler go paths and verdicts.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.agreement import releases, require_same
from pipeline.cluster import Cluster, Lost
from pipeline.console import counted, printable, warn
from pipeline.dataset.verdicts import Verdict, examine

# Files a task: a second or two of work.
_FILES = 500


@dataclass(frozen=True)
class _Job:
    decode: bool
    processes: int | None
    releases: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class ExamineOnCluster:
    """What `examine` is, done by a cluster.

    Attributes
    ----------
    cluster : Cluster
        Who does it.
    folder : Path
        Of the workspace, to see that workers have the same.
    """

    cluster: Cluster
    folder: Path

    def __call__(self, files: Sequence[Path], *, decode: bool = True) -> Iterator[Verdict]:
        """Look into files; see `examine`. Those of a task that was given up are ``unreadable``, for now.

        Raises
        ------
        ClusterError
            A worker has another release of something, or other folders.
        """
        files = [file.absolute() for file in files]
        self.cluster.require_alike(self.folder, Path(os.path.commonpath([file.parent for file in files])))
        job = _Job(decode, self.cluster.cores, tuple(releases().items()))
        parts = [(start, files[start : start + _FILES]) for start in range(0, len(files), _FILES)]
        come: dict[int, Sequence[Verdict]] = {}  # before their turn
        turn = 0
        for (start, part), result in self.cluster.outcomes(_examined, job, parts):
            come[start] = result
            if isinstance(result, Lost):
                warn(f"{counted(len(part), 'file')} could not be looked into: {printable(result.reason)}")
                come[start] = [Verdict(reason="unreadable")] * len(part)
            while turn in come:
                verdicts = come.pop(turn)
                turn += len(verdicts)
                yield from verdicts


def _examined(job: _Job, part: tuple[int, Sequence[Path]]) -> list[Verdict]:
    """Look into some files; this runs on a worker."""
    from distributed import get_worker

    require_same(dict(job.releases))  # for this worker may have come late
    _, files = part
    return list(examine(files, decode=job.decode, processes=job.processes or get_worker().state.nthreads))
