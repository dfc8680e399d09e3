"""What the store refuses to be written, and by whom."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.errors import IdentityMismatch, StoreError, StoreLocked
from pipeline.features.identity import DIMENSION, Identity
from pipeline.features.store import FeatureStore, clear, locked
from tests.features.conftest import MADE_WITH, listing, python_path, some_features, some_keys
from tests.features.stores import ROWS, folder, store

__all__ = ["folder", "store"]  # fixtures


# What is refused when written


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_add__not_finite(store: FeatureStore, folder: Path, bad: float) -> None:
    before, features = listing(folder), some_features(3)
    features[1, 77] = bad
    keys = some_keys(3, 60)
    with pytest.raises(StoreError, match=rf"{keys[1].sha256[:12]}… do not fit float16: set extract.storage"):
        store.add(keys, features, MADE_WITH)
    assert listing(folder) == before
    assert not store.keys() & set(keys)


@pytest.mark.parametrize(
    "features",
    [
        np.ones((2, DIMENSION), np.float16),
        np.ones((3, DIMENSION - 1), np.float16),
        np.ones((3, DIMENSION), np.float32),
        np.ones((3, DIMENSION), ">f2"),
    ],
    ids=["rows", "columns", "type", "byte order"],
)
def test_add__other_shape_or_type(store: FeatureStore, folder: Path, features: Any) -> None:
    before = listing(folder)
    with pytest.raises(ValueError, match="expected 3 rows of 25088 float16"):
        store.add(some_keys(3, 60), features, MADE_WITH)
    assert listing(folder) == before


def _full(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _half_written(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data[: len(data) // 2])
    _full()


@pytest.mark.parametrize(
    ("target", "name", "fault"),
    [(Path, "write_bytes", _half_written), (os, "fsync", _full), (Path, "replace", _full)],
    ids=["write", "fsync", "rename"],
)
def test_add__full_disk_leaves_nothing(
    store: FeatureStore, folder: Path, identity: Identity, target: Any, name: str, fault: Callable[..., None]
) -> None:
    before = {path.name: path.read_bytes() for path in folder.glob("*.h5")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(target, name, fault)
        with pytest.raises(OSError, match="No space left") as caught:
            store.add(some_keys(3, 60), some_features(3), MADE_WITH)
    assert caught.value.filename.endswith(".h5")
    assert listing(folder) == sorted([*before, "store.json"])
    assert {path.name: path.read_bytes() for path in folder.glob("*.h5")} == before
    assert FeatureStore.open(folder, identity).keys() == set(some_keys(2 * ROWS))
    assert store.keys() == set(some_keys(2 * ROWS))


# One writer


def test_create__waits_for_nobody_who_is_making_it(folder: Path, identity: Identity) -> None:
    """Two first writers: the other one sees no half-made store, and is told."""
    with locked(folder), pytest.raises(StoreLocked, match="is being written by process"):
        FeatureStore.create(folder, identity)
    assert listing(folder) == []


def test_writing__store_of_another_identity_made_since_it_was_opened(
    store: FeatureStore, identity: Identity
) -> None:
    clear(store.folder)
    FeatureStore.create(store.folder, replace(identity, resize=300))
    with pytest.raises(IdentityMismatch, match="resize 300 against 256"):
        store.writing().__enter__()


def test_writing__sees_what_another_has_written_since(store: FeatureStore, identity: Identity) -> None:
    store.keys()
    FeatureStore.open(store.folder, identity).add(some_keys(1, 90), some_features(1), MADE_WITH)
    with store.writing():
        assert store.keys() == {*some_keys(2 * ROWS), *some_keys(1, 90)}


def test_readers_never_look_at_the_lock(store: FeatureStore, identity: Identity) -> None:
    (store.folder / ".lock").unlink()
    (store.folder / ".lock").mkdir()  # cannot be opened, as on a file system that is read-only
    np.testing.assert_array_equal(
        FeatureStore.create(store.folder, identity).read(some_keys(ROWS)), some_features(ROWS, 0)
    )
    assert store.faults() == {}


def test_writing__removes_stale_temporaries(store: FeatureStore) -> None:
    stale = store.folder / ".abc.h5.12345678.tmp"
    stale.write_bytes(b"half a shard")
    with store.writing():
        assert not stale.exists()
    assert store.keys() == set(some_keys(2 * ROWS))


def test_keys__temporaries_are_not_read(store: FeatureStore, identity: Identity) -> None:
    (store.folder / ".abc.h5.12345678.tmp").write_bytes(b"half a shard")
    assert FeatureStore.open(store.folder, identity).keys() == set(some_keys(2 * ROWS))


def test_writing__twice_in_turn(store: FeatureStore) -> None:
    for _ in range(2):
        with store.writing():
            pass


@pytest.fixture
def holder(store: FeatureStore) -> Any:
    """Another process that holds the store, until it is killed."""
    code = textwrap.dedent(
        """
        import sys, time
        from pathlib import Path
        from pipeline.features.store import locked
        with locked(Path(sys.argv[1])):
            print("held", flush=True)
            time.sleep(100)
        """
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(store.folder)], stdout=subprocess.PIPE, env=python_path(), text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_writing__second_writer_is_told_who_holds_it(
    store: FeatureStore, holder: subprocess.Popen[str]
) -> None:
    temporary = store.folder / ".abc.h5.12345678.tmp"
    temporary.write_bytes(b"")  # the holder may be writing it right now
    with pytest.raises(StoreLocked, match=rf"is being written by process {holder.pid} on .+\. Wait for it"):
        store.writing().__enter__()
    assert temporary.exists()
    with pytest.raises(StoreLocked):
        clear(store.folder)
    np.testing.assert_array_equal(store.read(some_keys(ROWS)), some_features(ROWS, 0))  # readers need no lock

    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with store.writing():
        assert not temporary.exists()
        assert f"process {os.getpid()} on " in (store.folder / ".lock").read_text()


def test_locked__released_after_an_error(folder: Path) -> None:
    for _ in range(2):
        with pytest.raises(KeyError), locked(folder):
            raise KeyError


def test_clear__removes_shards_and_keeps_other_files(store: FeatureStore, identity: Identity) -> None:
    (store.folder / "notes.txt").write_text("mine")
    assert clear(store.folder) == 2
    assert listing(store.folder) == ["notes.txt"]
    assert FeatureStore.create(store.folder, replace(identity, resize=300)).keys() == set()


def test_clear__nothing_there(tmp_path: Path) -> None:
    assert clear(tmp_path / "none") == 0
