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

from pipeline.dataset.manifest import read_manifest
from pipeline.errors import DamagedShard, ManifestError, StoreError
from pipeline.features.index import current_index, row_keys
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
    views : dict of str to int
        Rows of each view.
    named, unnamed, missing : int or None
        Rows that the manifest and ``extract.views`` ask for, other rows, and images of the manifest
        that lack one; None where there is no manifest.
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
    views: dict[str, int]
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
    wanted = named_rows(workspace) if workspace.manifest_file.is_file() else None
    named = sum(key in rows for key in wanted or ())
    lacking = {key.sha256 for key in wanted or () if key not in rows}
    times = sorted(path.stat().st_mtime for path in shards)
    return StoreInfo(
        folder=str(store.folder),
        identity=store.identity.as_dict(),
        shards=len(shards),
        rows=len(rows),
        repeated=rows.total() - len(rows),
        bytes=size_of([*shards, *aside]),
        views=dict(sorted(Counter(key.view for key in rows).items())),
        named=None if wanted is None else named,
        unnamed=None if wanted is None else len(rows) - named,
        missing=None if wanted is None else len(lacking),
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
    promised = _promised(workspace)
    return VerifyReport(
        shards=len(shards),
        rows=len(rows),
        bytes=size,
        damaged={path.name: fault for path, fault in faults.items()},
        missing=sorted({path for key, path in promised.items() if key not in rows}),
    )


def set_aside(store: FeatureStore) -> list[Path]:
    """Return the damaged shards that were put out of use."""
    return sorted(store.folder.glob("*.damaged"))


def size_of(paths: Iterable[Path]) -> int:
    """Bytes that files take up."""
    return sum(path.stat().st_size for path in paths)


def named_rows(workspace: Workspace) -> set[RowKey]:
    """Return the rows that are wanted: of every image that the manifest uses, every view of ``params.yaml``.

    Raises
    ------
    ManifestError, ParamsError
        One of the two cannot be read.
    """
    views = read_params(workspace.params_file).extract.views
    return set(row_keys(read_manifest(workspace.manifest_file), views))


def _promised(workspace: Workspace) -> dict[RowKey, str]:
    """Rows that are stored, if the index is right, and whose they are; none where it is of other images."""
    try:
        manifest = read_manifest(workspace.manifest_file)
        index = current_index(workspace, read_params(workspace.params_file), manifest)
    except (ManifestError, StoreError):
        return {}
    return {RowKey(row.sha256, view): row.path for row in reversed(manifest.usable) for view in index.views}


def _utc(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
