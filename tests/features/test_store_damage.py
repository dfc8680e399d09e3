"""Damaged shards: a shard is found out by its name, whatever has happened to its bytes."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import DamagedShard, MissingRows
from pipeline.features.identity import Identity
from pipeline.features.store import FeatureStore
from tests.features.conftest import MADE_WITH, some_features, some_keys
from tests.features.stores import ROWS, folder, shard_of, store

__all__ = ["folder", "store"]  # fixtures


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
