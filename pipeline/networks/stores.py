"""Feature stores besides the workspace's own: of a frozen part's outputs, and of fine-tuned networks.

Owns how they are opened and filled. Both can be made again, so one of another extractor is replaced.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path

from pipeline.console import counted, note, printable, progress, warn
from pipeline.dataset.manifest import ImageRow, Manifest
from pipeline.errors import SourceError, SourceMissing, StoreError
from pipeline.features.description import is_store
from pipeline.features.extract import missing_rows
from pipeline.features.extractor import Extractor
from pipeline.features.identity import Identity
from pipeline.features.lacking import Failure, parts_of
from pipeline.features.shard_writer import rows_in_shard
from pipeline.features.shards import ShardMaker
from pipeline.features.store import FeatureStore, clear


def opened(folder: Path, identity: Identity) -> FeatureStore:
    """Open a store that can be made again, or an empty one where there is none of this identity.

    Raises
    ------
    StoreLocked
        Another process is writing it.
    """
    if is_store(folder):
        try:
            return FeatureStore.open(folder, identity)
        except StoreError:
            note(f"{printable(str(folder))}: {counted(clear(folder), 'shard')} of another extractor removed")
    return FeatureStore.create(folder, identity)


def fill(
    store: FeatureStore,
    images: Sequence[ImageRow],
    root: Path,
    extractor: Callable[[], Extractor],
    label: str,
) -> int:
    """Compute and store the rows that are missing; shards that are damaged are set aside, and made again.

    Parameters
    ----------
    store : FeatureStore
    images : sequence of ImageRow
        Whose rows are wanted.
    root : Path
        Their folder.
    extractor : callable
        Sets up what computes them; called only where a row is missing.
    label : str
        Of the progress.

    Returns
    -------
    int
        How many rows were computed.

    Raises
    ------
    StoreLocked
        Another process is writing the store.
    SourceMissing
        The folder of the images is not there.
    SourceError
        An image cannot be read, or is not that of the manifest. The rows of the others are stored.
    """
    wanted = Manifest(tuple(images))
    damaged = any(store.format.fault(path) for path in store.shards())
    if not (damaged or missing_rows(wanted, store)):
        return 0
    with store.writing():
        for path in store.set_aside_damaged() if damaged else ():
            warn(f"{printable(str(path))}: a damaged shard, set aside; its rows are made again")
        todo = missing_rows(wanted, store)
        if not todo:
            return 0
        if not root.is_dir():
            raise SourceMissing(
                f"{printable(str(root))}: the folder of the images is not there, and {len(todo)} of them are "
                f"needed. Bring it back, or run `pipeline prepare`."
            )
        failures: list[Failure] = []
        made = extractor()
        parts = parts_of(todo, rows_in_shard(store.identity))
        with (
            progress(label, len(todo)) as advance,
            contextlib.closing(ShardMaker(made, store, root).make(parts, advance)) as shards,
        ):
            for shard in shards:
                failures += shard.failures
    if failures:
        first = printable(f"{failures[0].path}: {failures[0].reason}")
        raise SourceError(
            f"{len(failures)} of {counted(len(todo), 'image')} could not be read again (first: {first}). "
            f"Run `pipeline prepare --rehash`, which looks at every image anew."
        )
    return len(todo)
