"""Stage one: every image once through the frozen network, into the feature store.

The story is `extract`: which rows are missing, decode ahead, push through, write shards,
record the index. Nothing that the store holds is computed again, and where nothing is missing
torch is not even imported, but to ask it which weights of another network than VGG16 are meant.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.console import counted, note, printable, progress, warn
from pipeline.dataset.manifest import Manifest, read_manifest
from pipeline.errors import ManifestError, MissingRows, PipelineError, SourceError, StoreError
from pipeline.features.description import forget, is_store
from pipeline.features.extraction import Extraction
from pipeline.features.extractor import Execution
from pipeline.features.index import current_index, record
from pipeline.features.lacking import Failure, Lacking, parts_of
from pipeline.features.shard_writer import rows_in_shard
from pipeline.features.shards import NOT_COMPUTED, Engine, ThisMachine
from pipeline.features.store import FeatureStore, RowKey, clear
from pipeline.files import write_csv
from pipeline.params import read_params
from pipeline.times import count_rows
from pipeline.views import CENTER
from pipeline.workspace import Workspace


@dataclass(frozen=True)
class ExtractReport:
    """What `extract` did.

    Attributes
    ----------
    images : int
        Usable images of the manifest.
    computed, reused : int
        Of those that differ, how many were pushed through now, and how many were stored already; an image
        of which one view was computed is computed.
    failed : int
        How many of them could not be read again.
    copies : int
        Images whose bytes are those of another one.
    seconds : dict of str to float
        Time that went by waiting for images (``decode``), for the ``forward`` pass, and for the disk
        (``write``); empty if nothing was computed.
    """

    images: int
    computed: int
    reused: int
    copies: int
    failed: int = 0
    seconds: dict[str, float] = field(default_factory=dict, compare=False)


class ImagesFailed(SourceError):
    """Images could not be read again; the rest is stored.

    Attributes
    ----------
    report : ExtractReport
        What was done all the same.
    """

    def __init__(self, message: str, report: ExtractReport) -> None:
        super().__init__(message)
        self.report = report


def extract(
    workspace: Workspace,
    execution: Execution = Execution(),  # noqa: B008 (frozen)
    *,
    fresh: bool = False,
    verify: bool = False,
    engine: Engine | None = None,
) -> ExtractReport:
    """Bring the store up to date with the manifest.

    Parameters
    ----------
    workspace : Workspace
        Its manifest says which images, its ``params.yaml`` which extractor.
    execution : Execution
        What changes speed and memory only.
    fresh : bool, default False
        Remove the features of another extractor first. Those of this one stay, so that a run that was
        stopped goes on where it was.
    verify : bool, default False
        Hash what is stored first: every damaged shard is set aside, and not only what is no shard.
    engine : Engine, optional
        Who makes the shards; by default this process.

    Returns
    -------
    ExtractReport

    Raises
    ------
    ManifestError
        There is no usable manifest.
    IdentityMismatch
        The store was made by another extractor.
    StoreLocked
        Another process is writing the store.
    SourceMissing
        The folder of the images has gone, and some of them have no features yet.
    ImagesFailed
        Images could not be read again; the rest is stored.
    WeightsError, DeviceError
        The network cannot be set up.
    """
    extraction = Extraction.of(workspace, execution, fresh=fresh)
    engine = engine or ThisMachine(execution)
    if fresh and _is_in_the_way(workspace, extraction):
        engine.ready(extraction, workspace.store_folder)  # what cannot run must not cost the old features
        note(f"removed {counted(clear(workspace.store_folder), 'shard')}")
    begins = not is_store(workspace.store_folder)
    store = FeatureStore.create(workspace.store_folder, extraction.identity)
    failures: list[Failure] = []
    with store.writing():
        aside = store.set_aside_damaged(hashing=verify)
        todo = extraction.listed.lacking(store)
        if aside:
            _warn_of_damage(aside, todo)
        if todo:
            started, computed = time.perf_counter(), 0
            parts = parts_of(todo, rows_in_shard(extraction.identity))
            with (
                _left_if_begun(store, begins),
                progress("extract", *counted_rows(todo)) as advance,
                contextlib.closing(engine.made(extraction, store, parts, advance)) as shards,
            ):
                for shard in shards:
                    failures += shard.failures
                    computed += shard.rows
            took = time.perf_counter() - started
            count_rows(workspace, extraction.identity.as_dict(), computed, round(took, 2))
        images, different = len(extraction.listed.keys), extraction.listed.keys.different()
        report = ExtractReport(
            images=images,
            computed=len(todo) - len(failures),
            reused=different - len(todo),
            copies=images - different,
            failed=len(failures),
            seconds=engine.seconds,
        )
        _list_failures(workspace, failures)
        if failures:
            raise ImagesFailed(_told(failures, workspace, report, execution.timeout), report)
        record(workspace, extraction.index())
    return report


def missing_rows(
    manifest: Manifest, store: FeatureStore | None, views: Sequence[str] = (CENTER,)
) -> list[Lacking]:
    """Usable images with the views that are not stored, in manifest order, one for each set of copies."""
    unique = {row.sha256: row for row in reversed(manifest.usable)}
    images = list(reversed(unique.values()))
    if store is None:
        return [Lacking(row, tuple(views)) for row in images]
    stored = [store.holds([RowKey(row.sha256, view) for row in images]).tolist() for view in views]
    lacking = (
        Lacking(row, tuple(view for view, there in zip(views, held, strict=True) if not there))
        for row, held in zip(images, zip(*stored, strict=True), strict=True)
    )
    return [each for each in lacking if each.views]


def counted_rows(todo: Sequence[Lacking]) -> tuple[int, str]:
    """Return how many rows are to be computed, and in what unit they are counted: a row is a view."""
    count = sum(len(each.views) for each in todo)
    return count, "images" if count == len(todo) else "views"


def is_complete(workspace: Workspace) -> bool:
    """Whether the store holds the features of every usable image, so that the source can be missed."""
    try:
        params = read_params(workspace.params_file)
        manifest = read_manifest(workspace.manifest_file)
        index = current_index(workspace, params, manifest)
        store = FeatureStore.open(workspace.store_folder, index.identity)
    except (ManifestError, StoreError):
        return False
    return not missing_rows(manifest, store, index.views)


@contextlib.contextmanager
def _left_if_begun(store: FeatureStore, is_new: bool) -> Iterator[None]:
    """Take a new store away again if it could not be begun: another extractor may be asked for then."""
    try:
        yield
    except PipelineError:
        if is_new and not store.shards():
            forget(store.folder)
        raise


def _is_in_the_way(workspace: Workspace, extraction: Extraction) -> bool:
    """Whether there is a store, and it is of another extractor or says nothing that is understood."""
    try:
        FeatureStore.open(workspace.store_folder, extraction.identity)
    except MissingRows:
        return False
    except StoreError:
        return True
    note(f"the features in {workspace.store_folder} are of this extractor already: kept")
    return False


def _warn_of_damage(aside: Sequence[Path], todo: Sequence[Lacking]) -> None:
    if len(aside) == 1:
        shards = f"{aside[0]}: a damaged shard, set aside"
    else:
        shards = f"{len(aside)} damaged shards, set aside (first: {aside[0]})"
    without = f"{counted(len(todo), 'image')} {'has' if len(todo) == 1 else 'have'} no features now"
    warn(f"{shards}; " + (f"{without}: to be computed" if todo else "every image still has its features"))


def _list_failures(workspace: Workspace, failures: list[Failure]) -> None:
    failures.sort(key=lambda failure: failure.path)  # as in the manifest
    if failures:
        write_csv(workspace.failed_file, ("path", "reason"), [(f.path, f.reason) for f in failures])
    else:
        workspace.failed_file.unlink(missing_ok=True)


def _told(failures: Sequence[Failure], workspace: Workspace, report: ExtractReport, timeout: float) -> str:
    """Say what failed, and what may help."""
    total = counted(report.computed + report.failed, "image")
    given_up = [failure for failure in failures if failure.reason.startswith(NOT_COMPUTED)]
    if given_up:
        first = printable(f"{given_up[0].path}: {given_up[0].reason}")
        return (
            f"{len(given_up)} of {total} were not computed (first: {first}; all, and what could not be read: "
            f"{workspace.failed_file}). Run the same command again; what is finished is kept."
        )
    late = sum(failure.reason == "timeout" for failure in failures)
    others = ", the others are stored" if report.computed else ""
    first = printable(f"{failures[0].path}: {failures[0].reason}")
    longer = f"`pipeline extract --timeout {4 * timeout:g}`"
    if late == len(failures):
        what = "it needs" if late == 1 else "they need"
        remedy = f"If {what} more than the {timeout:g} s of --timeout, run {longer}."
    else:
        again = f"{longer}, for {late} took more than {timeout:g} s" if late else "`pipeline extract`"
        remedy = f"Run `pipeline prepare --rehash`, which looks at every image anew, then {again}."
    listed = f"first: {first}; all: {workspace.failed_file}"
    if len(failures) == 1:
        listed = f"{first}; listed in {workspace.failed_file}"
    return f"{len(failures)} of {total} could not be read again{others} ({listed}). {remedy}"
