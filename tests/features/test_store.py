from __future__ import annotations

import hashlib
import json
import threading
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from pipeline.errors import DamagedShard, MissingRows
from pipeline.features.identity import DIMENSION, Identity
from pipeline.features.shard import ShardFormat
from pipeline.features.store import FeatureStore, RowKey
from tests.features.conftest import MADE_WITH, some_features, some_keys, stat_of
from tests.features.stores import ROWS, folder, shard_of, store

__all__ = ["folder", "store"]  # fixtures


# Round trip


def test_read__what_was_added(store: FeatureStore) -> None:
    expected = np.concatenate([some_features(ROWS, 0), some_features(ROWS, 1)])
    found = store.read(some_keys(2 * ROWS))
    assert found.dtype == np.float16
    np.testing.assert_array_equal(found, expected)


def test_read__any_order_and_repeated(store: FeatureStore) -> None:
    keys, expected = some_keys(2 * ROWS), store.read(some_keys(2 * ROWS))
    order = np.random.default_rng(0).integers(0, 2 * ROWS, 40)
    np.testing.assert_array_equal(store.read([keys[row] for row in order]), expected[order])


def test_read__nothing(store: FeatureStore) -> None:
    assert store.read([]).shape == (0, DIMENSION)


def test_read__float32_store(folder: Path, identity: Identity) -> None:
    store = FeatureStore.create(folder, replace(identity, storage="float32"))
    features = np.random.default_rng(0).random((3, DIMENSION), dtype=np.float32)
    store.add(some_keys(3), features, MADE_WITH)
    np.testing.assert_array_equal(store.read(some_keys(3)), features)


def test_read__views_are_rows_of_their_own(folder: Path, identity: Identity) -> None:
    store = FeatureStore.create(folder, identity)
    (plain,) = some_keys(1)
    flipped = RowKey(plain.sha256, "hflip")
    features = some_features(2)
    store.add([plain, flipped], features, MADE_WITH)
    found = FeatureStore.open(folder, identity).read([flipped, plain])
    np.testing.assert_array_equal(found, features[::-1])


def test_keys__are_those_added_even_before_a_new_open(store: FeatureStore) -> None:
    assert store.keys() == set(some_keys(2 * ROWS))
    store.add(some_keys(1, 99), some_features(1, 9), MADE_WITH)
    assert store.keys() == {*some_keys(2 * ROWS), *some_keys(1, 99)}
    np.testing.assert_array_equal(store.read(some_keys(1, 99)), some_features(1, 9))


def test_add__same_rows_give_same_bytes(tmp_path: Path, identity: Identity) -> None:
    one, two = (
        FeatureStore.create(tmp_path / name, identity).add(some_keys(3), some_features(3), MADE_WITH)
        for name in ("one", "two")
    )
    assert one.name == two.name == hashlib.sha256(two.read_bytes()).hexdigest() + ".h5"


def test_add__again_writes_nothing(store: FeatureStore, folder: Path) -> None:
    before = stat_of(sorted(folder.glob("*.h5")))
    store.add(some_keys(ROWS), some_features(ROWS, 0), MADE_WITH)
    assert stat_of(sorted(folder.glob("*.h5"))) == before


def test_shard__holds_what_the_docs_say(store: FeatureStore, identity: Identity) -> None:
    with h5py.File(shard_of(store, 0)) as shard:
        assert set(shard) == {"features", "sha256", "view"}
        assert shard["features"].shape == (ROWS, DIMENSION)
        assert shard["features"].chunks is None
        assert shard["sha256"][0].decode() == some_keys(1)[0].sha256
        assert shard["view"][0] == b"center"
        assert json.loads(shard.attrs["identity"]) == identity.as_dict()
        assert shard.attrs["device"] == "cpu"


def test_read__missing_rows_are_counted_and_named(store: FeatureStore) -> None:
    (absent,) = some_keys(1, 50)
    with pytest.raises(MissingRows) as caught:
        store.read([*some_keys(3), absent])
    assert f"lacks the features of 1 of 4 images (first: {absent.sha256[:12]}…, view center)" in str(
        caught.value
    )
    assert "Run `pipeline extract`" in str(caught.value)


# Where the rows go


def test_read__into_an_array_of_the_caller(store: FeatureStore) -> None:
    out = np.full((3, DIMENSION), -1, np.float16)
    assert store.read(some_keys(3), out) is out
    np.testing.assert_array_equal(out, some_features(ROWS, 0)[:3])


def test_read__float16_as_float32(store: FeatureStore) -> None:
    keys = [*some_keys(2 * ROWS), *some_keys(2)]
    found = store.read(keys, np.empty((len(keys), DIMENSION), np.float32))
    np.testing.assert_array_equal(found, store.read(keys).astype(np.float32))


def test_read__into_a_file(store: FeatureStore, tmp_path: Path) -> None:
    mapped = np.memmap(tmp_path / "matrix", np.float32, "w+", shape=(2 * ROWS, DIMENSION))
    store.read(some_keys(2 * ROWS), mapped)
    mapped.flush()
    written = np.fromfile(tmp_path / "matrix", np.float32).reshape(2 * ROWS, DIMENSION)
    np.testing.assert_array_equal(written, store.read(some_keys(2 * ROWS)))


def test_read__into_columns_of_fortran(store: FeatureStore) -> None:
    out = np.empty((4, DIMENSION), np.float32, order="F")
    np.testing.assert_array_equal(store.read(some_keys(4), out), store.read(some_keys(4)))


@pytest.mark.parametrize(
    ("out", "found"),
    [
        (np.empty((3, DIMENSION), np.float16), "float16"),
        (np.empty((4, 512), np.float16), "float16"),
        (np.empty((4, DIMENSION), np.float64), "float64"),
        (np.empty((4, DIMENSION), np.int16), "int16"),
    ],
)
def test_read__into_what_does_not_fit(store: FeatureStore, out: Any, found: str) -> None:
    with pytest.raises(ValueError, match=rf"expected float16 or wider, shape \(4, 25088\): {found}"):
        store.read(some_keys(4), out)


def test_read__a_float32_store_is_never_narrowed(folder: Path, identity: Identity) -> None:
    store = FeatureStore.create(folder, replace(identity, storage="float32"))
    store.add(some_keys(1), np.ones((1, DIMENSION), np.float32), MADE_WITH)
    with pytest.raises(ValueError, match="expected float32 or wider"):
        store.read(some_keys(1), np.empty((1, DIMENSION), np.float16))


def test_read__needs_no_memory_but_the_result(folder: Path, identity: Identity) -> None:
    store = FeatureStore.create(folder, identity)
    for number in range(6):
        store.add(some_keys(40, 40 * number), some_features(40, number), MADE_WITH)
    keys = [key for pair in zip(some_keys(120), some_keys(120, 120), strict=True) for key in pair]
    store.keys()
    tracemalloc.start()
    try:
        found = store.read(keys)  # 12 MB, its rows from here and there
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak <= 1.2 * found.nbytes
    np.testing.assert_array_equal(found[::2][40:80], some_features(40, 1))


@pytest.mark.parametrize("size", [1, 3, ROWS, ROWS + 1, 3 * ROWS, 99])
def test_blocks__each_position_once_and_hardly_a_shard_twice(
    store: FeatureStore, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = [key for pair in zip(some_keys(ROWS), some_keys(ROWS, ROWS), strict=True) for key in pair]
    keys.append(keys[0])
    expected = store.read(keys).astype(np.float32)
    read: list[Path] = []
    copy_rows = ShardFormat.copy_rows

    def watched(form: ShardFormat, path: Path, *rest: Any) -> None:
        read.append(path)
        copy_rows(form, path, *rest)

    monkeypatch.setattr(ShardFormat, "copy_rows", watched)
    found = np.full((len(keys), DIMENSION), -1, np.float32)
    seen = []
    for places, features in store.blocks(keys, np.empty((size, DIMENSION), np.float32)):
        assert len(places) <= size
        found[places] = features
        seen += places
    assert sorted(seen) == list(range(len(keys)))
    np.testing.assert_array_equal(found, expected)
    if size > ROWS:
        assert len(read) == 2


def test_blocks__missing_row_is_told_before_any_work(store: FeatureStore) -> None:
    with pytest.raises(MissingRows, match="lacks the features of 1 of 2 images"):
        next(store.blocks([*some_keys(1), *some_keys(1, 50)], np.empty((1, DIMENSION), np.float16)))
    assert list(store.blocks([], np.empty((1, DIMENSION), np.float16))) == []


def test_read__leaves_no_thread(store: FeatureStore) -> None:
    shard_of(store, 1).write_bytes(b"")
    for _ in range(3):
        with pytest.raises(DamagedShard):
            store.read(some_keys(2 * ROWS))
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("read")] == []


def test_read__shards_that_were_merged_since_the_keys_were_read(
    store: FeatureStore, identity: Identity
) -> None:
    keys, old = some_keys(2 * ROWS), [shard_of(store, 0), shard_of(store, 1)]
    expected = store.read(keys)
    FeatureStore.open(store.folder, identity).add(keys[::-1], expected[::-1].astype(np.float16), MADE_WITH)
    for path in old:
        path.unlink()
    np.testing.assert_array_equal(store.read(keys), expected)
