"""Dropping rows that no image asks for, and merging small shards into full ones.

New shards are written and synced before an old one is removed, so at every moment each row that
is named is in a shard, and an interrupted run is finished by the next. Rows are hashed before
they are copied, and never changed.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.console import counted, progress
from pipeline.errors import DamagedShard, StoreError
from pipeline.features.shard import Features
from pipeline.features.store import SHARD_ROWS, FeatureStore, RowKey
from pipeline.features.upkeep import named_rows, set_aside, size_of
from pipeline.workspace import Workspace


@dataclass(frozen=True)
class CompactionReport:
    """What was removed, or would be.

    Attributes
    ----------
    rows_kept, rows_dropped : int
        Dropped are rows of images that the manifest does not use, or of views that ``extract.views`` does
        not name, and repeated rows.
    shards_before, shards_after : int
        Files in use.
    set_aside : int
        Damaged shards, put out of use before, that are removed.
    bytes_freed : int
        About that many where nothing was done yet.
    """

    rows_kept: int
    rows_dropped: int
    shards_before: int
    shards_after: int
    set_aside: int
    bytes_freed: int


@dataclass(frozen=True)
class _Pool:
    """Rows that were made under the same circumstances, to be written anew; which shard has each."""

    made_with: dict[str, str]
    shard_of: dict[RowKey, Path]

    @property
    def parts(self) -> list[list[RowKey]]:
        """Row keys by the shard to be written."""
        keys = list(self.shard_of)
        return [keys[start : start + SHARD_ROWS] for start in range(0, len(keys), SHARD_ROWS)]


@dataclass(frozen=True)
class _Plan:
    """What becomes of a store: shards that stay as they are, and rows that move to new ones."""

    kept: dict[Path, int]  # with the number of rows
    pools: list[_Pool]
    rows_before: int

    @property
    def needed(self) -> set[Path]:
        return {*self.kept, *(path for pool in self.pools for path in pool.shard_of.values())}

    @property
    def rows(self) -> int:
        return sum(self.kept.values()) + sum(len(pool.shard_of) for pool in self.pools)

    @property
    def shards(self) -> int:
        return len(self.kept) + sum(len(pool.parts) for pool in self.pools)


def compact(workspace: Workspace, *, dry_run: bool = False) -> CompactionReport:
    """Drop rows that manifest and views do not name, and merge small shards.

    Rows keep the circumstances of their making: only those made under the same ones are merged.
    The result depends on the store, the manifest and the views alone.

    Parameters
    ----------
    workspace : Workspace
        Its manifest and its ``extract.views`` name the rows that stay.
    dry_run : bool, default False
        Say what would be done, and do nothing; what would stop it stops this, too.

    Raises
    ------
    MissingRows
        There is no store.
    ManifestError, ParamsError
        There is no manifest, or the views cannot be told.
    StoreError
        The manifest names no image: all would go.
    StoreLocked
        Another process is writing the store.
    DamagedShard
        A shard is damaged: nothing was removed.
    """
    named = named_rows(workspace)
    if not named:
        raise StoreError(
            f"{workspace.manifest_file} uses no image, so that all features would go. "
            f"Run `pipeline prepare` first."
        )
    store = FeatureStore.open(workspace.store_folder)
    with contextlib.nullcontext() if dry_run else store.writing():
        shards, aside = store.shards(), set_aside(store)
        before = size_of([*shards, *aside])
        _require_whole(store)
        plan = _plan(store, named)
        if dry_run:
            moved = plan.rows - sum(plan.kept.values())
            after = size_of(plan.kept) + moved * store.identity.row_bytes
        else:
            for path in {*shards, *aside} - plan.needed:
                path.unlink()
            if plan.pools:
                _merge(store, plan)
            after = size_of(store.shards())
    return CompactionReport(
        rows_kept=plan.rows,
        rows_dropped=plan.rows_before - plan.rows,
        shards_before=len(shards),
        shards_after=plan.shards,
        set_aside=len(aside),
        bytes_freed=before - after,
    )


def _require_whole(store: FeatureStore) -> None:
    """See to it that no row is dropped for being in a shard that is damaged, too."""
    faults = store.faults()
    for path, fault in faults.items():
        raise DamagedShard(
            f"{counted(len(faults), 'shard')} cannot be used, nothing was removed "
            f"(first: {path.name} is {fault}). "
            f"Run `pipeline extract --verify`, which sets damaged shards aside and makes their rows again."
        )


def _plan(store: FeatureStore, named: set[RowKey]) -> _Plan:
    """Decide what becomes of each row, going through the shards by name.

    A full shard stays if all its rows are named, and none is in a shard that stays already. What an
    interrupted run has written are such shards, so the next one goes on where it was.
    """
    contents = {path: store.format.contents(path) for path in store.shards()}
    kept: dict[Path, int] = {}
    placed: set[RowKey] = set()
    for path, (keys, _) in contents.items():
        wanted = named.intersection(keys)
        if SHARD_ROWS <= len(keys) == len(wanted) and placed.isdisjoint(wanted):
            kept[path] = len(keys)
            placed |= wanted
    pools: dict[tuple[tuple[str, str], ...], _Pool] = {}
    for path, (keys, made_with) in contents.items():
        pool = pools.setdefault(tuple(sorted(made_with.items())), _Pool(made_with, {}))
        moved = [key for key in dict.fromkeys(keys) if key in named and key not in placed]
        pool.shard_of.update(dict.fromkeys(moved, path))
        placed.update(moved)
    merged = []
    for _, pool in sorted(pools.items()):
        sources = set(pool.shard_of.values())
        alone = sources.pop() if len(sources) == 1 else None
        if alone and len(contents[alone].keys) == len(pool.shard_of):
            kept[alone] = len(pool.shard_of)  # nothing to drop from it, and nothing to merge it with
        elif pool.shard_of:
            merged.append(pool)
    return _Plan(kept, merged, sum(len(keys) for keys, _ in contents.values()))


def _merge(store: FeatureStore, plan: _Plan) -> None:
    """Write new shards, and remove the old ones whose last row has moved."""
    moving = sum(len(pool.shard_of) for pool in plan.pools)
    with progress("merge", moving, "rows") as advance:
        for pool in plan.pools:
            left = Counter(pool.shard_of.values())
            for keys in pool.parts:
                sought: dict[Path, dict[RowKey, list[int]]] = {}
                for place, key in enumerate(keys):
                    sought.setdefault(pool.shard_of[key], {})[key] = [place]
                features: Features = np.empty((len(keys), store.identity.dimension), store.identity.storage)
                for path, rows in sought.items():
                    store.format.copy_rows(path, rows, features)
                written = store.add(keys, features, pool.made_with)
                for path, rows in sought.items():
                    left[path] -= len(rows)
                    if not left[path] and path != written:
                        path.unlink()
                advance(len(keys))
