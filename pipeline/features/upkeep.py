"""What is in a feature store, and whether it is whole.

Changes nothing, and never needs the weights: a store says itself whose features it holds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipeline.dataset.manifest import ImageRow, Manifest, read_manifest
from pipeline.errors import DamagedShard, ManifestError, StoreError
from pipeline.features.index import current_index
from pipeline.features.store import FeatureStore, RowKey
from pipeline.params import read_params
from pipeline.workspace import Workspace


@dataclass(frozen=True)
class StoreInfo:
    """What a store says of itself; nothing is hashed.

    Attributes
    ----------
    folder : str
        Where it is.
    identity : dict
        Of the extractor.
    shards, rows, repeated, bytes : int
        Files in use, rows that differ, rows that are there twice, and the size of all files.
    named, unnamed, missing : int or None
        Rows of images that the manifest uses, other rows, and images of the manifest that have
        none; None where there is no manifest.
    oldest, newest : str or None
        When the first and the last shard were written (ISO 8601, UTC).
    made_with : list of dict
        Circumstances under which rows were made, and how many ``rows`` under each.
    unusable, set_aside : list of str
        Files that are no shards, and damaged ones that were put out of use.
    """

    folder: str
    identity: dict[str, Any]
    shards: int
    rows: int
    repeated: int
    bytes: int
    named: int | None
    unnamed: int | None
    missing: int | None
    oldest: str | None
    newest: str | None
    made_with: list[dict[str, Any]]
    unusable: list[str]
    set_aside: list[str]


@dataclass(frozen=True)
class VerifyReport:
    """What was found when every byte was looked at.

    Attributes
    ----------
    shards, rows, bytes : int
        Looked at; rows of damaged shards are not counted.
    damaged : dict of str to str
        What is wrong, by the name of the file.
    missing : list of str
        Images, by path, whose features the index promises and no whole shard holds.
    """

    shards: int
    rows: int
    bytes: int
    damaged: dict[str, str]
    missing: list[str]


def inspect(workspace: Workspace) -> StoreInfo:
    """Say what a workspace's store holds.

    Raises
    ------
    MissingRows
        There is no store.
    StoreError
        Its description is damaged.
    """
    store = FeatureStore.open(workspace.store_folder)
    rows: Counter[RowKey] = Counter()
    made: Counter[tuple[tuple[str, str], ...]] = Counter()
    unusable: list[str] = []
    shards, aside = store.shards(), set_aside(store)
    for path in shards:
        try:
            contents = store.format.contents(path)
        except (DamagedShard, OSError):
            unusable.append(path.name)
            continue
        rows.update(contents.keys)
        made[tuple(sorted(contents.made_with.items()))] += len(contents.keys)
    manifest = _manifest(workspace)
    images = {row.sha256 for row in manifest.usable} if manifest else set()
    named = sum(key.sha256 in images for key in rows)
    times = sorted(path.stat().st_mtime for path in shards)
    return StoreInfo(
        folder=str(store.folder),
        identity=store.identity.as_dict(),
        shards=len(shards),
        rows=len(rows),
        repeated=rows.total() - len(rows),
        bytes=size_of([*shards, *aside]),
        named=named if manifest else None,
        unnamed=len(rows) - named if manifest else None,
        missing=len(images - {key.sha256 for key in rows}) if manifest else None,
        oldest=_utc(times[0]) if times else None,
        newest=_utc(times[-1]) if times else None,
        made_with=[{**dict(circumstances), "rows": count} for circumstances, count in made.most_common()],
        unusable=unusable,
        set_aside=[path.name for path in aside],
    )


def verify(workspace: Workspace) -> VerifyReport:
    """Look at every byte of a workspace's store, and at whether all is there that the index promises.

    Raises
    ------
    MissingRows
        There is no store.
    StoreError
        Its description is damaged.
    """
    store = FeatureStore.open(workspace.store_folder)
    shards = store.shards()
    size = size_of(shards)
    faults = store.faults()
    whole = (path for path in store.shards() if path not in faults)  # listed anew: some may have been merged
    rows = {key for path in whole for key in store.format.contents(path).keys}
    promised = {row.sha256: row.path for row in reversed(_promised(workspace))}
    stored = {key.sha256 for key in rows}
    return VerifyReport(
        shards=len(shards),
        rows=len(rows),
        bytes=size,
        damaged={path.name: fault for path, fault in faults.items()},
        missing=sorted(path for sha256, path in promised.items() if sha256 not in stored),
    )


def set_aside(store: FeatureStore) -> list[Path]:
    """Return the damaged shards that were put out of use."""
    return sorted(store.folder.glob("*.damaged"))


def size_of(paths: Iterable[Path]) -> int:
    """Bytes that files take up."""
    return sum(path.stat().st_size for path in paths)


def _manifest(workspace: Workspace) -> Manifest | None:
    return read_manifest(workspace.manifest_file) if workspace.manifest_file.is_file() else None


def _promised(workspace: Workspace) -> tuple[ImageRow, ...]:
    """Images whose features are stored, if the index is right; none where it is of other images."""
    try:
        manifest = read_manifest(workspace.manifest_file)
        current_index(workspace, read_params(workspace.params_file), manifest)
    except (ManifestError, StoreError):
        return ()
    return manifest.usable


def _utc(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
