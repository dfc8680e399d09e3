"""Stage one: every image once through the frozen network, into the feature store.

The story is `extract`: which rows are missing, decode ahead, push through, write a shard,
record the index. Nothing that the store holds is computed again, and torch is not even
imported where nothing is missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pipeline.console import note, printable, progress
from pipeline.dataset.manifest import ImageRow, Manifest, read_manifest
from pipeline.dataset.sources import source_root
from pipeline.errors import ManifestError, SourceError, SourceMissing, StoreError
from pipeline.features.extractor import Extractor, Failure
from pipeline.features.identity import identity_of
from pipeline.features.index import current_index, write_index
from pipeline.features.store import FeatureStore, RowKey, clear
from pipeline.features.weights import resolve_weights
from pipeline.files import write_csv
from pipeline.params import read_params
from pipeline.workspace import Workspace


@dataclass(frozen=True)
class ExtractReport:
    """What `extract` did: numbers of images."""

    images: int
    computed: int
    reused: int
    copies: int


def extract(
    workspace: Workspace,
    *,
    device: str = "auto",
    batch_size: int | None = None,
    workers: int | None = None,
    fresh: bool = False,
) -> ExtractReport:
    """Bring the store up to date with the manifest.

    Parameters
    ----------
    workspace : Workspace
        Its manifest says which images, its ``params.yaml`` which extractor.
    device : {"auto", "cuda", "mps", "cpu"}
        Where the network runs.
    batch_size : int, optional
        Images pushed through at once; changes speed and memory only.
    workers : int, optional
        Threads that read and decode; by default one a processor, at most 8.
    fresh : bool, default False
        Remove what is stored first.

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
    params = read_params(workspace.params_file)
    manifest = read_manifest(workspace.manifest_file)
    weights = resolve_weights(params.extract.weights, workspace.root)
    identity = identity_of(params.extract, weights)
    root = source_root(params.dataset.source, workspace)
    new_extractor = partial(Extractor, params.extract, weights, device, batch_size, workers)
    extractor = None
    if fresh:
        _require_source(root)
        extractor = new_extractor()  # what cannot run must not cost the old features
        note(f"removed {clear(workspace.store_folder)} shards")
    store = FeatureStore.create(workspace.store_folder, identity)
    with store.writing():
        todo = missing_rows(manifest, store)
        failures: list[Failure] = []
        if todo:
            _require_source(root)
            extractor = extractor or new_extractor()
            with progress("extract", len(todo)) as advance:
                for rows, features in extractor.shards(todo, root, failures, advance):
                    store.add([RowKey(row.sha256) for row in rows], features, extractor.made_with)
        _report_failures(workspace, failures, len(todo))
        write_index(workspace, identity, params.extract.weights, manifest)
    unique = len({row.sha256 for row in manifest.usable})
    return ExtractReport(
        images=len(manifest.usable),
        computed=len(todo),
        reused=unique - len(todo),
        copies=len(manifest.usable) - unique,
    )


def missing_rows(manifest: Manifest, store: FeatureStore) -> list[ImageRow]:
    """Usable images whose features are not stored, in manifest order, one for each set of copies."""
    stored = store.keys()
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


def _require_source(root: Path) -> None:
    if not root.is_dir():
        raise SourceMissing(
            f"{printable(str(root))}: the folder of the images is not there, and not all have features yet. "
            f"Bring it back, or run `pipeline prepare`."
        )


def _report_failures(workspace: Workspace, failures: Sequence[Failure], total: int) -> None:
    if not failures:
        workspace.failed_file.unlink(missing_ok=True)
        return
    write_csv(workspace.failed_file, ("path", "reason"), [(f.path, f.reason) for f in failures])
    raise SourceError(
        f"{len(failures)} of {total} images could not be read again, the others are stored "
        f"(first: {printable(f'{failures[0].path}: {failures[0].reason}')}; all: {workspace.failed_file}). "
        f"Run `pipeline prepare`, which looks at them anew, then `pipeline extract`."
    )
