"""Verdicts on a source's files, remembered from run to run.

Owns which files must be looked into again. How to look is `verdicts`' business.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

from pipeline import console
from pipeline.dataset import verdicts
from pipeline.dataset.sources.walk import Candidate
from pipeline.dataset.verdicts import PASSING, Verdict, reader_version
from pipeline.files import StatCache


class Examine(Protocol):
    """Looks into files, as `pipeline.dataset.verdicts.examine` does."""

    def __call__(self, files: Sequence[Path], *, decode: bool = True) -> Iterator[Verdict]:
        """Return a verdict on each of the files, in their order."""


class Looks:
    """What is known of each candidate's file.

    Parameters
    ----------
    candidates : sequence of Candidate
        Those with a reason against them are never opened.
    memory : Path
        Where verdicts are kept between runs; disposable.
    rehash : bool, default False
        Forget what is remembered. Finds changes that kept a file's size, times and inode.
    examine : callable, optional
        Looks into files; by default `pipeline.dataset.verdicts.examine`.
    """

    def __init__(
        self,
        candidates: Sequence[Candidate],
        memory: Path,
        *,
        rehash: bool = False,
        examine: Examine | None = None,
    ) -> None:
        self._examine = examine or verdicts.examine
        self._memory = StatCache(memory, reader_version())
        self._memory.keep_only([] if rehash else [candidate.path for candidate in candidates])
        self._status: dict[str, os.stat_result] = {}  # taken before the file is read
        self._verdicts: dict[str, Verdict] = {}
        for candidate in candidates:
            if candidate.reason:
                self._verdicts[candidate.path] = Verdict(reason=candidate.reason)
            else:
                self._recall(candidate)

    def __getitem__(self, candidate: Candidate) -> Verdict:
        """Return the verdict on a candidate that was looked at."""
        return self._verdicts[candidate.path]

    def look(self, candidates: Iterable[Candidate], *, decode: bool) -> None:
        """Look into those files of which not enough is known: the hash, or with `decode` everything.

        Verdicts are saved also when this is interrupted.
        """
        new = [candidate for candidate in candidates if not self._suffices(candidate, decode)]
        if not new:
            return
        try:
            with console.progress("examining" if decode else "hashing", len(new)) as advance:
                found = self._examine([candidate.file for candidate in new], decode=decode)
                for candidate, verdict in zip(new, found, strict=True):
                    self._verdicts[candidate.path] = verdict
                    self._remember(candidate, verdict)
                    advance(1)
        finally:
            self.save()

    def save(self) -> None:
        """Write the memory, if it has changed."""
        self._memory.save()

    def _suffices(self, candidate: Candidate, decode: bool) -> bool:
        verdict = self._verdicts.get(candidate.path)
        return verdict is not None and (verdict.final or not decode)

    def _recall(self, candidate: Candidate) -> None:
        try:
            status = os.stat(candidate.file)  # noqa: PTH116 -- half the time of Path.stat, 25,000 times
        except OSError:
            return  # the look into it says why
        self._status[candidate.path] = status
        known = self._memory.recall(candidate.path, status)
        if known is not None:
            self._verdicts[candidate.path] = Verdict(known[0], status.st_size, *known[1:])

    def _remember(self, candidate: Candidate, verdict: Verdict) -> None:
        status = self._status.get(candidate.path)
        if status is not None and verdict.reason not in PASSING:
            value = [verdict.sha256, verdict.width, verdict.height, verdict.reason]
            self._memory.remember(candidate.path, status, value)
