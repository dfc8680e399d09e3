from __future__ import annotations

import errno
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.features import shard_writer
from pipeline.features.identity import Identity
from pipeline.features.shard_writer import ShardWriter
from pipeline.features.store import FeatureStore
from tests.features.conftest import MADE_WITH, some_features, some_keys


@pytest.fixture
def store(tmp_path: Path, identity: Identity, monkeypatch: pytest.MonkeyPatch) -> FeatureStore:
    monkeypatch.setattr(shard_writer, "SHARD_ROWS", 4)
    return FeatureStore.create(tmp_path / "features", identity)


@pytest.mark.parametrize("parts", [[11], [1] * 11, [4, 4, 3], [3, 5, 3], [9, 2]])
def test_shards_do_not_depend_on_how_rows_come(
    store: FeatureStore, identity: Identity, tmp_path: Path, parts: Sequence[int]
) -> None:
    keys, features = some_keys(11), some_features(11)
    expected = FeatureStore.create(tmp_path / "expected", identity)
    for start in (0, 4, 8):
        expected.add(keys[start : start + 4], features[start : start + 4], MADE_WITH)
    with ShardWriter(store, MADE_WITH) as writer:
        start = 0
        for count in parts:
            writer.add(keys[start : start + count], features[start : start + count])
            start += count
    assert {path.name for path in store.folder.glob("*.h5")} == {
        path.name for path in expected.folder.glob("*.h5")
    }
    np.testing.assert_array_equal(FeatureStore.open(store.folder, identity).read(keys), features)


def test_a_row_may_be_overwritten_once_it_was_added(store: FeatureStore, identity: Identity) -> None:
    keys, features = some_keys(6), some_features(6)
    given = features.copy()
    with ShardWriter(store, MADE_WITH) as writer:
        writer.add(keys, given)
        given[:] = 1
    np.testing.assert_array_equal(FeatureStore.open(store.folder, identity).read(keys), features)


def test_nothing_added_writes_nothing(store: FeatureStore) -> None:
    with ShardWriter(store, MADE_WITH):
        pass
    assert not list(store.folder.glob("*.h5"))


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_whatever_ends_it__rows_are_kept(
    store: FeatureStore, identity: Identity, error: type[BaseException]
) -> None:
    keys, features = some_keys(6), some_features(6)

    def rows_and_then_the_end() -> None:
        with ShardWriter(store, MADE_WITH) as writer:
            writer.add(keys, features)
            raise error

    with pytest.raises(error):
        rows_and_then_the_end()
    np.testing.assert_array_equal(FeatureStore.open(store.folder, identity).read(keys), features)


def test_writing_that_fails_is_said_and_ends_it(store: FeatureStore, monkeypatch: pytest.MonkeyPatch) -> None:
    add, added = FeatureStore.add, []

    def full(self: FeatureStore, keys: Any, *rest: Any) -> Path:
        added.append(len(keys))
        if len(added) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        return add(self, keys, *rest)

    monkeypatch.setattr(FeatureStore, "add", full)
    keys, features = some_keys(40), some_features(40)

    def many_rows() -> None:
        with ShardWriter(store, MADE_WITH) as writer:
            for row in range(40):
                writer.add(keys[row : row + 1], features[row : row + 1])

    with pytest.raises(OSError, match="No space left"):
        many_rows()
    assert len(added) < 7  # found out while work went on, and not at its end
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("write")]


def test_rows_that_wait_for_the_disk_are_few(store: FeatureStore, monkeypatch: pytest.MonkeyPatch) -> None:
    go_on, started = threading.Event(), []
    add = FeatureStore.add

    def slow(self: FeatureStore, keys: Any, *rest: Any) -> Path:
        started.append(len(keys))
        go_on.wait(10)
        return add(self, keys, *rest)

    monkeypatch.setattr(FeatureStore, "add", slow)
    with ShardWriter(store, MADE_WITH) as writer:
        writer.add(some_keys(8), some_features(8))  # two shards: one is being written, one waits
        timer = threading.Timer(0.3, go_on.set)
        timer.start()
        writer.add(some_keys(4, 100), some_features(4, 1))  # a third has to wait
        assert writer.seconds > 0.2
        timer.join()
    assert len(list(store.folder.glob("*.h5"))) == 3
