"""Shards whose name is their true hash and which would lead elsewhere, and store.json of all kinds."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from pipeline.errors import DamagedShard, IdentityMismatch, MissingRows, StoreError
from pipeline.features.identity import DIMENSION, Identity
from pipeline.features.store import FeatureStore
from tests.features.conftest import some_keys, stat_of
from tests.features.stores import ROWS, folder, store

__all__ = ["folder", "store"]  # fixtures


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
