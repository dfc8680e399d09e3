from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pipeline.errors import DamagedShard, ManifestError, MissingRows, StoreError, StoreLocked
from pipeline.features.compaction import CompactionReport, compact
from pipeline.features.identity import Identity
from pipeline.features.store import FeatureStore, RowKey, locked
from pipeline.workspace import Workspace
from tests.features.compactions import rows_per_shard, small_shards, workspace
from tests.features.conftest import (
    MADE_WITH,
    listing,
    shards_of,
    some_features,
    stat_of,
)
from tests.features.stocks import holds, key_of, list_images, stock

__all__ = ["small_shards", "workspace"]  # fixtures


def test_compact__drops_what_no_image_names_and_merges_the_rest(
    workspace: Workspace, identity: Identity
) -> None:
    stock(workspace.store_folder, identity, [range(4), range(4, 8), [8], [9, 10], [11, 12, 13]])
    list_images(workspace, [0, 1, 2, 3, 5, 8, 9, 11, 12, 13])
    before = sum(map(len, shards_of(workspace).values()))
    report = compact(workspace)
    assert holds(workspace.store_folder, [0, 1, 2, 3, 5, 8, 9, 11, 12, 13])
    assert rows_per_shard(workspace) == [2, 4, 4]
    after = sum(map(len, shards_of(workspace).values()))
    assert report == CompactionReport(10, 4, 5, 3, 0, before - after)
    assert FeatureStore.open(workspace.store_folder).faults() == {}


def test_compact__full_shards_are_not_touched(workspace: Workspace, identity: Identity) -> None:
    stock(workspace.store_folder, identity, [range(4), range(4, 8), [8, 9]])
    list_images(workspace, range(10))
    before = stat_of(sorted(workspace.store_folder.glob("*.h5")))
    report = compact(workspace)
    assert (report.rows_dropped, report.shards_after, report.bytes_freed) == (0, 3, 0)
    assert stat_of(sorted(workspace.store_folder.glob("*.h5"))) == before


def test_compact__twice_is_once(workspace: Workspace, identity: Identity) -> None:
    stock(workspace.store_folder, identity, [[n] for n in range(11)])
    list_images(workspace, range(10))
    assert compact(workspace).shards_after == 3
    before = stat_of(sorted(workspace.store_folder.glob("*.h5")))
    report = compact(workspace)
    assert (report.rows_kept, report.rows_dropped, report.bytes_freed) == (10, 0, 0)
    assert stat_of(sorted(workspace.store_folder.glob("*.h5"))) == before


def test_compact__larger_shards_of_another_release_stay(workspace: Workspace, identity: Identity) -> None:
    stock(workspace.store_folder, identity, [range(9), [9]])
    list_images(workspace, range(10))
    compact(workspace)
    assert rows_per_shard(workspace) == [1, 9]


def test_compact__all_named_views_of_a_named_image_stay(workspace: Workspace, identity: Identity) -> None:
    views = "extract: {views: [center, hflip]}\n"
    workspace.params_file.write_text("dataset: {source: photos}\n" + views)
    store = FeatureStore.create(workspace.store_folder, identity)
    keys = [RowKey(key_of(n).sha256, view) for n in range(2) for view in ("center", "hflip")]
    store.add(keys, some_features(4), MADE_WITH)
    list_images(workspace, [1])
    compact(workspace)
    found = FeatureStore.open(workspace.store_folder)
    assert found.keys() == set(keys[2:])
    np.testing.assert_array_equal(found.read(keys[2:]), some_features(4)[2:])


def test_compact__repeated_rows_are_kept_once(workspace: Workspace, identity: Identity) -> None:
    stock(workspace.store_folder, identity, [[0, 1, 2, 3], [3, 2, 1, 0], [2, 4], [4, 5], [5, 5]])
    list_images(workspace, range(6))
    report = compact(workspace)
    assert holds(workspace.store_folder, range(6))
    assert (report.rows_kept, report.rows_dropped) == (6, 8)
    assert rows_per_shard(workspace) == [2, 4]


def test_compact__rows_keep_the_circumstances_of_their_making(
    workspace: Workspace, identity: Identity
) -> None:
    for numbers, device in (([0, 1], "cpu"), ([2, 3], "cuda"), ([4], "cpu"), ([5], "cuda")):
        stock(workspace.store_folder, identity, [numbers], {"device": device})
    list_images(workspace, range(6))
    compact(workspace)
    store = FeatureStore.open(workspace.store_folder)
    found = {}
    for path in store.shards():
        keys, made_with = store.format.contents(path)
        found[made_with["device"]] = set(keys)
    assert found == {"cpu": {key_of(n) for n in (0, 1, 4)}, "cuda": {key_of(n) for n in (2, 3, 5)}}
    assert holds(workspace.store_folder, range(6))


def test_compact__float32(workspace: Workspace, identity: Identity) -> None:
    store = FeatureStore.create(workspace.store_folder, replace(identity, storage="float32"))
    features = np.random.default_rng(0).random((3, 25088), np.float32)
    for n in range(3):
        store.add([key_of(n)], features[n : n + 1], MADE_WITH)
    list_images(workspace, [0, 2])
    compact(workspace)
    found = FeatureStore.open(workspace.store_folder).read([key_of(0), key_of(2)])
    np.testing.assert_array_equal(found, features[[0, 2]])


def test_compact__removes_what_was_put_aside_and_what_a_killed_writer_left(
    workspace: Workspace, identity: Identity
) -> None:
    store = stock(workspace.store_folder, identity, [range(4)])
    (store.folder / "x.h5.damaged").write_bytes(bytes(700))
    (store.folder / ".x.h5.12345678.tmp").write_bytes(bytes(50))
    (store.folder / "notes.txt").write_text("mine")
    list_images(workspace, range(4))
    report = compact(workspace)
    assert (report.set_aside, report.bytes_freed) == (1, 700)
    assert listing(store.folder) == sorted([*shards_of(workspace), "notes.txt", "store.json"])


def test_compact__dry_run_changes_nothing_and_needs_no_lock(workspace: Workspace, identity: Identity) -> None:
    store = stock(workspace.store_folder, identity, [range(4), [4], [5, 6]])
    (store.folder / "x.h5.damaged").write_bytes(bytes(700))
    (store.folder / ".x.h5.12345678.tmp").write_bytes(bytes(50))
    list_images(workspace, [4, 5])
    files = [store.folder / name for name in listing(store.folder)]
    before = stat_of(files)
    with locked(store.folder):
        forecast = compact(workspace, dry_run=True)
    assert stat_of(files) == before
    report = compact(workspace)
    assert replace(forecast, bytes_freed=0) == replace(report, bytes_freed=0)
    assert abs(forecast.bytes_freed - report.bytes_freed) < 10_000


@pytest.mark.parametrize("dry_run", [True, False])
def test_compact__no_image_is_used(workspace: Workspace, identity: Identity, dry_run: bool) -> None:
    stock(workspace.store_folder, identity, [range(3)])
    list_images(workspace, range(3), status="conflict")
    with pytest.raises(StoreError, match="uses no image, so that all features would go"):
        compact(workspace, dry_run=dry_run)
    assert holds(workspace.store_folder, range(3))


def test_compact__nothing_to_work_on(workspace: Workspace, identity: Identity) -> None:
    with pytest.raises(ManifestError, match="no manifest yet"):
        compact(workspace)
    list_images(workspace, range(3))
    with pytest.raises(MissingRows, match="no features yet"):
        compact(workspace)
    FeatureStore.create(workspace.store_folder, identity)
    assert compact(workspace) == CompactionReport(0, 0, 0, 0, 0, 0)


def test_compact__held_by_another(workspace: Workspace, identity: Identity) -> None:
    stock(workspace.store_folder, identity, [[0], [1]])
    list_images(workspace, [0])
    with locked(workspace.store_folder), pytest.raises(StoreLocked):
        compact(workspace)
    assert holds(workspace.store_folder, [0, 1])


@pytest.mark.parametrize("dry_run", [True, False])
@pytest.mark.parametrize("place", [-1, 60_000])
def test_compact__damaged_shard_stops_it(
    workspace: Workspace, identity: Identity, place: int, dry_run: bool
) -> None:
    """Even if all its rows are elsewhere: which one is whole must be settled before one is dropped."""
    store = stock(workspace.store_folder, identity, [range(4), [4, 5], [4], [6, 7]])
    list_images(workspace, range(6))
    path = next(path for path in store.shards() if store.format.contents(path).keys == [key_of(4), key_of(5)])
    data = bytearray(path.read_bytes())
    data[place] ^= 4
    path.write_bytes(data)
    before = listing(store.folder)
    with pytest.raises(
        DamagedShard, match=rf"1 shard cannot be used, nothing was removed \(first: {path.name}"
    ):
        compact(workspace, dry_run=dry_run)
    assert listing(store.folder) == before
