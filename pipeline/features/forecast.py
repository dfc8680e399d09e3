"""What `extract` would do, and how long it may take: a dry run.

Owns the estimate. It pushes three batches through, and leaves nothing behind.
"""

from __future__ import annotations

import contextlib
import math
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pipeline.console import counted, printable, progress
from pipeline.errors import IdentityMismatch, MissingRows
from pipeline.features.extract import counted_rows
from pipeline.features.extraction import Extraction
from pipeline.features.extractor import Execution
from pipeline.features.lacking import Failure, Lacking
from pipeline.features.quantised import QUANTISED
from pipeline.features.store import FeatureStore
from pipeline.workspace import Workspace

_PROBE = 3  # batches; the first warms up, and counts only where it is the only one


@dataclass(frozen=True)
class Forecast:
    """What an extraction would do.

    Attributes
    ----------
    images, stored, to_compute : int
        Usable images of the manifest that differ; those that are stored, and those that are not, or not in
        every view.
    rows : int
        To be computed: one for each view that an image lacks.
    to_remove : int
        Rows of another extractor, which would go first.
    bytes : int
        To be written.
    tried : int
        Images at the head of those to be computed that were tried.
    failed : list of dict
        ``path`` and ``reason`` of those among them that cannot be read, or have changed.
    images_per_second, seconds : float or None
        Measured on the others, a view for an image, and what follows for all; None if there are none.
    """

    images: int
    stored: int
    to_compute: int
    rows: int
    to_remove: int
    bytes: int
    tried: int
    failed: list[dict[str, str]]
    images_per_second: float | None
    seconds: float | None

    def told(self) -> str:
        """Say it in words."""
        lines = []
        if self.to_remove:
            lines.append(f"{counted(self.to_remove, 'row')} of another extractor to be removed")
        if not self.to_compute:
            lines.append(f"nothing to extract: the store holds all {counted(self.images, 'image')}")
            return "\n".join(lines)
        views = f" in {counted(self.rows, 'view')}" if self.rows != self.to_compute else ""
        lines += [
            f"{counted(self.to_compute, 'image')} to compute{views}, {self.stored} in the store",
            f"{self.bytes / 1e6:,.1f} MB to be written",
        ]
        if self.failed:
            path, reason = printable(self.failed[0]["path"]), printable(self.failed[0]["reason"])
            lines.append(
                f"{len(self.failed)} of the first {counted(self.tried, 'image')} cannot be read, or not as "
                f"`pipeline prepare` saw them (first: {path}: {reason})"
            )
        if self.seconds is None:
            lines.append("no estimate: none of the first images can be used")
        else:
            unit = "views" if views else "images"
            minutes, seconds = divmod(round(self.seconds), 60)
            lines.append(f"about {minutes} min {seconds:02} s, at {self.images_per_second:.1f} {unit}/s")
        return "\n".join(lines)


def forecast(workspace: Workspace, execution: Execution, *, fresh: bool = False) -> Forecast:
    """Look at what is missing, and try the first of it; the parameters are those of `extract`.

    Raises
    ------
    IdentityMismatch, ManifestError, SourceMissing, WeightsError, DeviceError
        What `extract` would raise.
    """
    with tempfile.TemporaryDirectory() as folder:  # for a network that would be quantised, precision int8
        extraction = Extraction.of(workspace, execution, fresh=fresh, network=Path(folder) / QUANTISED)
        store, to_remove = _store(workspace, extraction, fresh)
        todo = extraction.listed.lacking(store)
        rate, tried, failures = _probed(extraction, todo, execution) if todo else (None, 0, [])
    images = extraction.listed.keys.different()
    rows, _ = counted_rows(todo)
    return Forecast(
        images=images,
        stored=images - len(todo),
        to_compute=len(todo),
        rows=rows,
        to_remove=to_remove,
        bytes=rows * extraction.identity.row_bytes,
        tried=tried,
        failed=[asdict(failure) for failure in failures],
        images_per_second=rate and round(rate, 2),
        seconds=rate and round(rows / rate, 1),
    )


def _store(workspace: Workspace, extraction: Extraction, fresh: bool) -> tuple[FeatureStore | None, int]:
    """Return the store that `extract` would add to, if there is one, and how many rows would be removed."""
    try:
        return FeatureStore.open(workspace.store_folder, extraction.identity), 0
    except MissingRows:  # no store yet
        return None, 0
    except IdentityMismatch:
        if not fresh:
            raise
        return None, len(FeatureStore.open(workspace.store_folder).keys())


def _probed(
    extraction: Extraction, todo: Sequence[Lacking], execution: Execution
) -> tuple[float | None, int, list[Failure]]:
    """Rows a second over the first batches, how many images were tried, and which cannot be used.

    The rate is None if none can be.
    """
    extractor = extraction.extractor(execution)
    tried = todo[: math.ceil(_PROBE * extractor.batch_size / len(todo[0].views))]
    failures: list[Failure] = []
    batches = extractor.batches(tried, extraction.root, failures)
    counts, times = [], []
    with contextlib.closing(batches), progress("probe", *counted_rows(tried)) as advance:
        started = time.perf_counter()
        for done, _ in batches:
            counts.append(len(done))
            times.append(time.perf_counter() - started)
            advance(len(done))
    rate = counts[0] / times[0] if counts else None
    if len(counts) > 1:  # the first batch pays for the start
        rate = sum(counts[1:]) / (times[-1] - times[0])
    return rate, len(tried), failures
