"""Stage one: every image once through the frozen network, into the feature store.

The story is `extract`: which rows are missing, decode ahead, push through, write shards,
record the index. Nothing that the store holds is computed again, and torch is not even
imported where nothing is missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from pipeline.console import counted, note, printable, progress, warn
from pipeline.dataset.manifest import ImageRow, Manifest, read_manifest
from pipeline.errors import ManifestError, SourceError, StoreError
from pipeline.features.extraction import Extraction
from pipeline.features.extractor import Execution, Failure
from pipeline.features.index import current_index, write_index
from pipeline.features.shard_writer import ShardWriter
from pipeline.features.store import FeatureStore, RowKey, clear
from pipeline.files import write_csv
from pipeline.params import read_params
from pipeline.workspace import Workspace


@dataclass(frozen=True)
class ExtractReport:
    """What `extract` did.

    Attributes
    ----------
    images : int
        Usable images of the manifest.
    computed, reused : int
        Of those that differ, how many were pushed through now, and how many were stored already.
    copies : int
        Images whose bytes are those of another one.
    seconds : dict of str to float
        Time that went by waiting for images (``decode``), in the ``forward`` pass, and waiting
        for the disk (``write``); empty if nothing was computed.
    """

    images: int
    computed: int
    reused: int
    copies: int
    seconds: dict[str, float] = field(default_factory=dict, compare=False)


def extract(
    workspace: Workspace,
    execution: Execution = Execution(),  # noqa: B008 (frozen)
    *,
    fresh: bool = False,
    verify: bool = False,
) -> ExtractReport:
    """Bring the store up to date with the manifest.

    Parameters
    ----------
    workspace : Workspace
        Its manifest says which images, its ``params.yaml`` which extractor.
    execution : Execution
        What changes speed and memory only.
    fresh : bool, default False
        Remove what is stored first.
    verify : bool, default False
        Hash what is stored first, and make the rows of damaged shards again.

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
    SourceError
        Images could not be read again; the rest is stored.
    WeightsError, DeviceError
        The network cannot be set up.
    """
    extraction = Extraction.of(workspace, redraw=fresh)
    extractor = None
    if fresh:
        extractor = extraction.extractor(execution)  # what cannot run must not cost the old features
        note(f"removed {counted(clear(workspace.store_folder), 'shard')}")
    store = FeatureStore.create(workspace.store_folder, extraction.identity)
    seconds: dict[str, float] = {}
    failures: list[Failure] = []
    with store.writing():
        if verify:
            for path in store.set_aside_damaged():
                warn(f"{path.name}: damaged, set aside; its rows are made again")
        todo = missing_rows(extraction.manifest, store)
        if todo:
            with progress("extract", len(todo)) as advance:
                extractor = extractor or extraction.extractor(execution)
                with ShardWriter(store, extractor.made_with) as writer:
                    for rows, features in extractor.batches(todo, extraction.root, failures):
                        writer.add([RowKey(row.sha256) for row in rows], features)
                        advance(len(rows))
            seconds = {**extractor.seconds, "write": writer.seconds}
        _report_failures(workspace, failures, len(todo))
        write_index(workspace, extraction.identity, extraction.params.weights, extraction.manifest)
    usable = extraction.manifest.usable
    unique = len({row.sha256 for row in usable})
    return ExtractReport(len(usable), len(todo), unique - len(todo), len(usable) - unique, seconds)


def missing_rows(manifest: Manifest, store: FeatureStore | None) -> list[ImageRow]:
    """Usable images whose features are not stored, in manifest order, one for each set of copies."""
    stored = store.keys() if store else set()
    unique = {row.sha256: row for row in reversed(manifest.usable)}
    return [row for row in reversed(unique.values()) if RowKey(row.sha256) not in stored]


def is_complete(workspace: Workspace) -> bool:
    """Whether the store holds the features of every usable image, so that the source can be missed."""
    try:
        params = read_params(workspace.params_file)
        manifest = read_manifest(workspace.manifest_file)
        index = current_index(workspace, params, manifest)
        store = FeatureStore.open(workspace.store_folder, index.identity)
    except (ManifestError, StoreError):
        return False
    return not missing_rows(manifest, store)


def _report_failures(workspace: Workspace, failures: Sequence[Failure], total: int) -> None:
    if not failures:
        workspace.failed_file.unlink(missing_ok=True)
        return
    failures = sorted(failures, key=lambda failure: failure.path)  # as in the manifest
    write_csv(workspace.failed_file, ("path", "reason"), [(f.path, f.reason) for f in failures])
    raise SourceError(
        f"{len(failures)} of {total} images could not be read again, the others are stored "
        f"(first: {printable(f'{failures[0].path}: {failures[0].reason}')}; all: {workspace.failed_file}). "
        f"Run `pipeline prepare --rehash`, which looks at every image anew, then `pipeline extract`."
    )
