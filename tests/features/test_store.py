from __future__ import annotations

import errno
import hashlib
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from pipeline.errors import DamagedShard, IdentityMismatch, MissingRows, StoreError, StoreLocked
from pipeline.features.identity import DIMENSION, Identity
from pipeline.features.shard import ShardFormat
from pipeline.features.store import FeatureStore, RowKey, clear, locked
from tests.features.conftest import MADE_WITH, listing, python_path, some_features, some_keys, stat_of

ROWS = 5  # in each of the two shards of `store`


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "features"


@pytest.fixture
def store(folder: Path, identity: Identity) -> FeatureStore:
    """Two shards of five rows."""
    made = FeatureStore.create(folder, identity)
    for number in range(2):
        made.add(some_keys(ROWS, ROWS * number), some_features(ROWS, number), MADE_WITH)
    return FeatureStore.open(folder, identity)


def shard_of(store: FeatureStore, number: int) -> Path:
    """Path of the shard that holds the rows from ``ROWS * number``."""
    (path,) = store._catalogue().sought(some_keys(1, ROWS * number))
    return path


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


# Damage. A shard is found out by its name, whatever has happened to its bytes.


def _flip_in_features(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _zero_a_page(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[16384:20480] = bytes(4096)
    path.write_bytes(data)


def _flip_in_last_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 128
    path.write_bytes(data)


def _rename(path: Path) -> None:
    path.rename(path.with_name("0" * 64 + ".h5"))


@pytest.mark.parametrize("harm", [_flip_in_features, _zero_a_page, _flip_in_last_byte, _rename])
def test_read__damaged_shard_is_refused_by_name(
    store: FeatureStore, folder: Path, identity: Identity, harm: Callable[[Path], None]
) -> None:
    path = shard_of(store, 0)
    harm(path)
    fresh = FeatureStore.open(folder, identity)
    with pytest.raises((DamagedShard, MissingRows)) as caught:
        fresh.read(some_keys(1))
    if isinstance(caught.value, DamagedShard):
        (odd,) = {*folder.glob("*.h5")} - {shard_of(store, 1)}
        assert str(odd) in str(caught.value)
        assert "Run `pipeline extract --verify`, which makes just its rows again" in str(caught.value)
    np.testing.assert_array_equal(fresh.read(some_keys(ROWS, ROWS)), some_features(ROWS, 1))


def test_read__two_shards_with_their_names_swapped(store: FeatureStore, identity: Identity) -> None:
    one, two = shard_of(store, 0), shard_of(store, 1)
    one.rename(one.with_suffix(".x"))
    two.rename(one)
    one.with_suffix(".x").rename(two)
    for start in (0, ROWS):
        with pytest.raises(DamagedShard, match="do not hash to its name"):
            FeatureStore.open(store.folder, identity).read(some_keys(1, start))


def _truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size * 2 // 3)


def _empty(path: Path) -> None:
    os.truncate(path, 0)


def _garbage(path: Path) -> None:
    path.write_bytes(np.random.default_rng(0).bytes(9999))


def _spoil_signature(path: Path) -> None:
    path.write_bytes(b"\x00" + path.read_bytes()[1:])


@pytest.mark.parametrize("harm", [_truncate, _empty, _garbage, _spoil_signature])
def test_keys__unreadable_shard_is_left_out_with_a_warning(
    store: FeatureStore, identity: Identity, harm: Callable[[Path], None], capsys: pytest.CaptureFixture[str]
) -> None:
    path = shard_of(store, 0)
    harm(path)
    damaged = FeatureStore.open(store.folder, identity)
    assert damaged.keys() == set(some_keys(ROWS, ROWS))
    said = capsys.readouterr().err
    assert said == (
        f"warning: {path} is no usable shard (damaged or cut short). "
        f"Run `pipeline extract`, which makes its rows again.\n"
    )
    with pytest.raises(MissingRows, match=f"lacks the features of {ROWS} of {2 * ROWS} images"):
        damaged.read(some_keys(2 * ROWS))
    # Made again, its rows have the same name: the damaged file must give way.
    damaged.add(some_keys(ROWS), some_features(ROWS, 0), MADE_WITH)
    again = FeatureStore.open(store.folder, identity)
    np.testing.assert_array_equal(again.read(some_keys(ROWS)), some_features(ROWS, 0))
    assert len(list(store.folder.glob("*.h5"))) == 2


def test_read__every_flipped_byte_of_the_structure_is_found(store: FeatureStore, identity: Identity) -> None:
    """No flip of a bit outside the features gives other numbers, a crash, or another error."""
    path = shard_of(store, 0)
    data, expected = path.read_bytes(), store.read(some_keys(ROWS))
    places = [place for place in range(len(data)) if not 4096 <= place < len(data) - 4096]
    outcomes = set()
    for place in np.random.default_rng(3).choice(places, 150, replace=False):
        harmed = bytearray(data)
        harmed[place] ^= 1 << int(place % 8)
        path.write_bytes(harmed)
        try:
            found = FeatureStore.open(store.folder, identity).read(some_keys(ROWS))
        except (DamagedShard, MissingRows) as error:
            outcomes.add(type(error))
        else:
            np.testing.assert_array_equal(found, expected)
            pytest.fail(f"a flip of byte {place} went unseen")
    assert DamagedShard in outcomes


def test_read__shard_that_went_away(store: FeatureStore, identity: Identity) -> None:
    path = shard_of(store, 0)
    path.unlink()
    with pytest.raises(MissingRows, match=f"{path} has gone. Run `pipeline extract`"):
        store.read(some_keys(1))
    with pytest.raises(MissingRows, match="lacks the features"):
        FeatureStore.open(store.folder, identity).read(some_keys(1))


def test_read__missing_rows_name_the_damaged_shard(store: FeatureStore, identity: Identity) -> None:
    path = shard_of(store, 0)
    _truncate(path)
    with pytest.raises(MissingRows, match=rf"lacks the features of {ROWS} of .* {path} cannot be used\. Run"):
        FeatureStore.open(store.folder, identity).read(some_keys(2 * ROWS))


# Setting aside


def test_faults__whole_store(store: FeatureStore, capsys: pytest.CaptureFixture[str]) -> None:
    assert store.faults() == {}
    assert capsys.readouterr().err.startswith("verify: 2 shards in ")


def test_faults__shard_that_was_merged_meanwhile(
    store: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards = [*store.shards(), store.folder / f"{'0' * 64}.h5"]
    monkeypatch.setattr(store, "shards", lambda: shards)
    assert store.faults() == {}


@pytest.mark.parametrize("harm", [_flip_in_features, _zero_a_page, _rename, _truncate, _empty, _garbage])
def test_set_aside_damaged__rows_are_missing_then_and_made_again(
    store: FeatureStore, identity: Identity, harm: Callable[[Path], None], capsys: pytest.CaptureFixture[str]
) -> None:
    harm(shard_of(store, 0))
    (odd,) = {*store.shards()} - {shard_of(store, 1)}
    harmed = odd.read_bytes()
    again = FeatureStore.open(store.folder, identity)
    with again.writing():
        (aside,) = again.set_aside_damaged()
        assert aside == odd.with_name(f"{odd.name}.damaged")
        assert aside.read_bytes() == harmed
        assert again.keys() == set(some_keys(ROWS, ROWS))
        again.add(some_keys(ROWS), some_features(ROWS, 0), MADE_WITH)
        assert again.set_aside_damaged() == []
    assert "warning" not in capsys.readouterr().err
    np.testing.assert_array_equal(again.read(some_keys(ROWS)), some_features(ROWS, 0))
    np.testing.assert_array_equal(
        FeatureStore.open(store.folder, identity).read(some_keys(ROWS, ROWS)), some_features(ROWS, 1)
    )


def test_set_aside_damaged__the_same_shard_again(store: FeatureStore) -> None:
    path, names = shard_of(store, 0), []
    with store.writing():
        for number in range(3):
            path.write_bytes(bytes([number]))
            names += [aside.name for aside in store.set_aside_damaged()]
            store.add(some_keys(ROWS), some_features(ROWS, 0), MADE_WITH)
    assert names == [f"{path.name}.damaged", f"{path.name}.2.damaged", f"{path.name}.3.damaged"]
    assert [(store.folder / name).read_bytes() for name in names] == [b"\0", b"\1", b"\2"]


def test_set_aside_damaged__swapped_shards(store: FeatureStore) -> None:
    one, two = shard_of(store, 0), shard_of(store, 1)
    one.rename(one.with_suffix(".x"))
    two.rename(one)
    one.with_suffix(".x").rename(two)
    with store.writing():
        assert len(store.set_aside_damaged()) == 2
        assert store.keys() == set()


def test_keys__shard_of_another_identity_is_never_mixed_in(
    store: FeatureStore, tmp_path: Path, identity: Identity, capsys: pytest.CaptureFixture[str]
) -> None:
    other = FeatureStore.create(tmp_path / "other", replace(identity, resize=300))
    stranger = other.add(some_keys(2, 70), some_features(2), MADE_WITH)
    moved = stranger.rename(store.folder / stranger.name)
    assert FeatureStore.open(store.folder, identity).keys() == set(some_keys(2 * ROWS))
    assert f"{moved} is no usable shard (made by another extractor)" in capsys.readouterr().err


# Shards whose name is their true hash, and which would still lead elsewhere or make numbers up


def _external_link(shard: h5py.File, elsewhere: Path) -> None:
    shard["features"] = h5py.ExternalLink(str(elsewhere), "features")


def _soft_link(shard: h5py.File, elsewhere: Path) -> None:
    shard["hidden"] = np.zeros((2, DIMENSION), np.float16)
    shard["features"] = h5py.SoftLink("/hidden")


def _dangling_link(shard: h5py.File, elsewhere: Path) -> None:
    shard["features"] = h5py.SoftLink("/nowhere")


def _external_storage(shard: h5py.File, elsewhere: Path) -> None:
    raw = elsewhere.with_suffix(".raw")
    raw.write_bytes(bytes(2 * DIMENSION * 2))
    shard.create_dataset("features", (2, DIMENSION), np.float16, external=[(str(raw), 0, 2 * DIMENSION * 2)])


def _virtual(shard: h5py.File, elsewhere: Path) -> None:
    layout = h5py.VirtualLayout((2, DIMENSION), np.float16)
    layout[:] = h5py.VirtualSource(str(elsewhere), "features", (2, DIMENSION))
    shard.create_virtual_dataset("features", layout)


def _never_written(shard: h5py.File, elsewhere: Path) -> None:
    shard.create_dataset("features", (2, DIMENSION), np.float16)


def _chunks_never_written(shard: h5py.File, elsewhere: Path) -> None:
    shard.create_dataset("features", (2, DIMENSION), np.float16, chunks=(1, DIMENSION))


def _group(shard: h5py.File, elsewhere: Path) -> None:
    shard.create_group("features")


def _absent(shard: h5py.File, elsewhere: Path) -> None:
    pass


def _other_type(shard: h5py.File, elsewhere: Path) -> None:
    shard["features"] = np.ones((2, DIMENSION), np.float64)


def _text(shard: h5py.File, elsewhere: Path) -> None:
    shard["features"] = np.array([["x"] * 3] * 2, object)


def _scalar(shard: h5py.File, elsewhere: Path) -> None:
    shard["features"] = np.float16(1)


def _other_rows(shard: h5py.File, elsewhere: Path) -> None:
    shard["features"] = np.ones((3, DIMENSION), np.float16)


def _other_columns(shard: h5py.File, elsewhere: Path) -> None:
    shard["features"] = np.ones((2, 512), np.float16)


@pytest.mark.parametrize(
    "put_features",
    [
        _external_link, _soft_link, _dangling_link, _external_storage, _virtual, _never_written,
        _chunks_never_written, _group, _absent, _other_type, _text, _scalar, _other_rows, _other_columns,
    ],
)  # fmt: skip
def test_hostile_shard__is_refused(
    tmp_path: Path,
    folder: Path,
    identity: Identity,
    put_features: Callable[[h5py.File, Path], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    elsewhere = tmp_path / "elsewhere.h5"
    with h5py.File(elsewhere, "w") as other:
        other["features"] = np.zeros((2, DIMENSION), np.float16)
    store = FeatureStore.create(folder, identity)
    made = tmp_path / "made.h5"
    keys = some_keys(2)
    with h5py.File(made, "w") as shard:
        put_features(shard, elsewhere)
        shard["sha256"] = np.array([key.sha256 for key in keys], "S64")
        shard["view"] = np.array([key.view for key in keys], "S16")
        shard.attrs["identity"] = json.dumps(identity.as_dict(), sort_keys=True)
    path = folder / f"{hashlib.sha256(made.read_bytes()).hexdigest()}.h5"
    made.rename(path)
    assert store.keys() == set()
    assert f"{path} is no usable shard (" in capsys.readouterr().err
    with pytest.raises(MissingRows):
        store.read(keys)
    store._catalogue().add(path, keys)  # had the catalogue let it pass
    with pytest.raises(DamagedShard, match="is no usable shard"):
        store.read(keys)


def test_hostile_shard__claims_more_keys_than_there_is_memory(
    folder: Path, identity: Identity, capsys: pytest.CaptureFixture[str]
) -> None:
    store = FeatureStore.create(folder, identity)
    with h5py.File(folder / "big.h5", "w") as shard:
        shard.create_dataset("features", (10**12, DIMENSION), np.float16, chunks=(1, DIMENSION))
        shard.create_dataset("sha256", (10**12,), "S64", chunks=(9,))
        shard.create_dataset("view", (10**12,), "S16", chunks=(9,))
        shard.attrs["identity"] = json.dumps(identity.as_dict(), sort_keys=True)
    assert store.keys() == set()
    assert "big.h5 is no usable shard" in capsys.readouterr().err


# store.json


def test_open__no_store(tmp_path: Path, identity: Identity) -> None:
    with pytest.raises(MissingRows, match=r"no features yet\. Run `pipeline extract` first"):
        FeatureStore.open(tmp_path / "none", identity)


def test_open__another_identity_shows_both(store: FeatureStore, identity: Identity) -> None:
    with pytest.raises(IdentityMismatch) as caught:
        FeatureStore.create(store.folder, replace(identity, precision="float32", resize=300))
    assert str(caught.value) == (
        f"the features in {store.folder} and what params.yaml asks for differ: resize 256 against 300; "
        f"precision half against float32. Change params.yaml back, or run `pipeline extract --fresh`, "
        f"which replaces these features."
    )


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", '{"format": 1}', '{"format": 2, "identity": {}}', '{"format": 1, "identity": 7}'],
)
def test_open__damaged_description(store: FeatureStore, identity: Identity, text: str) -> None:
    (store.folder / "store.json").write_text(text)
    with pytest.raises(StoreError, match=r"store.json: not a description of a feature store .*--fresh"):
        FeatureStore.open(store.folder, identity)


def test_create__leaves_an_existing_store_alone(store: FeatureStore, identity: Identity) -> None:
    before = stat_of(sorted(store.folder.iterdir()))
    FeatureStore.create(store.folder, identity)
    assert stat_of(sorted(store.folder.iterdir())) == before


def test_open__whatever_it_is(store: FeatureStore, identity: Identity) -> None:
    found = FeatureStore.open(store.folder)
    assert found.identity == identity
    assert found.keys() == set(some_keys(2 * ROWS))


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
