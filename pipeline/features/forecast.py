"""What `extract` would do, and how long it may take: a dry run.

Owns the estimate. It pushes three batches through, and stores nothing.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.console import counted, progress
from pipeline.dataset.manifest import ImageRow
from pipeline.errors import MissingRows
from pipeline.features.extract import missing_rows
from pipeline.features.extraction import Extraction
from pipeline.features.extractor import Execution
from pipeline.features.identity import DIMENSION
from pipeline.features.store import FeatureStore
from pipeline.workspace import Workspace

_PROBE = 3  # batches; the first warms up, and counts only where it is the only one


@dataclass(frozen=True)
class Forecast:
    """What an extraction would do.

    Attributes
    ----------
    images, stored, to_compute : int
        Usable images of the manifest that differ; those that are stored, and those that are not.
    bytes : int
        To be written.
    images_per_second, seconds : float or None
        Measured on the first images to be computed, and what follows for all; None if there are none.
    """

    images: int
    stored: int
    to_compute: int
    bytes: int
    images_per_second: float | None
    seconds: float | None

    def told(self) -> str:
        """Say it in words."""
        if not self.to_compute:
            return f"nothing to extract: the store holds all {counted(self.images, 'image')}"
        lines = [
            f"{counted(self.to_compute, 'image')} to compute, {self.stored} in the store",
            f"{self.bytes / 1e6:,.1f} MB to be written",
        ]
        if self.seconds is None:
            lines.append("no estimate: the first images cannot be read")
        else:
            minutes, seconds = divmod(round(self.seconds), 60)
            lines.append(f"about {minutes} min {seconds:02} s, at {self.images_per_second:.1f} images/s")
        return "\n".join(lines)


def forecast(workspace: Workspace, execution: Execution) -> Forecast:
    """Look at what is missing, and try the first of it; the parameters are those of `extract`.

    Raises
    ------
    IdentityMismatch, ManifestError, SourceMissing, WeightsError, DeviceError
        What `extract` would raise.
    """
    extraction = Extraction.of(workspace, draw=False)
    store = None
    with contextlib.suppress(MissingRows):  # no store yet
        store = FeatureStore.open(workspace.store_folder, extraction.identity)
    todo = missing_rows(extraction.manifest, store)
    rate = _measured_rate(extraction, todo, execution) if todo else None
    images = len({row.sha256 for row in extraction.manifest.usable})
    return Forecast(
        images=images,
        stored=images - len(todo),
        to_compute=len(todo),
        bytes=len(todo) * DIMENSION * np.dtype(extraction.identity.storage).itemsize,
        images_per_second=rate and round(rate, 2),
        seconds=rate and round(len(todo) / rate, 1),
    )


def _measured_rate(extraction: Extraction, todo: Sequence[ImageRow], execution: Execution) -> float | None:
    """Images a second over the first batches; None if none of their images can be read."""
    extractor = extraction.extractor(execution)
    rows = todo[: _PROBE * extractor.batch_size]
    batches = extractor.batches(rows, extraction.root, [])
    counts, times = [], []
    with contextlib.closing(batches), progress("probe", len(rows)) as advance:
        started = time.perf_counter()
        for done, _ in batches:
            counts.append(len(done))
            times.append(time.perf_counter() - started)
            advance(len(done))
    if len(counts) > 1:  # the first batch pays for the start
        return sum(counts[1:]) / (times[-1] - times[0])
    return counts[0] / times[0] if counts else None
