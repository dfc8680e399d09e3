"""``docs/store-format.md``: its own reader reads what the store writes, and refuses what must be refused."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from pipeline.dataset.manifest import read_manifest
from pipeline.features.identity import Identity
from pipeline.features.shard import FORMAT
from pipeline.features.store import SHARD_ROWS, FeatureStore, RowKey
from pipeline.workspace import Workspace
from tests.commands.conftest import finished, finished_folder
from tests.docs.pages import DOCS, blocks

__all__ = ["finished", "finished_folder"]  # fixtures

PAGE = DOCS / "store-format.md"
TEXT = PAGE.read_text("utf-8")

Reader = Callable[[Path], tuple[dict[str, Any], dict[tuple[str, str], Any]]]


@pytest.fixture
def read_store() -> Reader:
    """The reader that stands on the page; nothing of this package is within its reach."""
    (source,) = blocks(PAGE, "python")
    assert "pipeline" not in source
    names: dict[str, Any] = {}
    exec(compile(source, PAGE, "exec"), names)  # noqa: S102
    reader: Reader = names["read_store"]
    return reader


@pytest.fixture
def example() -> dict[str, Any]:
    """The page's ``store.json``."""
    (text,) = blocks(PAGE, "json")
    description: dict[str, Any] = json.loads(text)
    return description


@pytest.fixture
def small(example: dict[str, Any]) -> Identity:
    """Identity of a network with few features."""
    return Identity.from_dict(example["identity"] | {"backbone": "resnet18", "dimension": 8})


def stored(folder: Path, identity: Identity, count: int = 5) -> FeatureStore:
    """Make a store with `count` rows, in two shards."""
    store = FeatureStore.create(folder, identity)
    keys = [RowKey(hashlib.sha256(bytes([number])).hexdigest()) for number in range(count)]
    X = np.random.default_rng(0).uniform(0, 9, (count, identity.dimension)).astype(identity.storage)
    store.add(keys[:2], X[:2], {"device": "cpu"})
    store.add(keys[2:], X[2:], {"device": "cpu"})
    return store


@pytest.mark.parametrize("changes", [{}, {"storage": "float32"}, {"backbone": "vgg16", "dimension": 25_088}])
def test_reader__has_the_rows_that_the_store_has(
    tmp_path: Path, small: Identity, read_store: Reader, changes: dict[str, Any]
) -> None:
    store = stored(tmp_path, Identity.from_dict(small.as_dict() | changes))
    identity, rows = read_store(tmp_path)
    assert Identity.from_dict(identity) == store.identity
    keys = sorted(store.keys())
    assert sorted(rows) == keys
    found = np.stack([rows[key] for key in keys])
    assert found.dtype == store.identity.storage
    np.testing.assert_array_equal(found, store.read(keys))


def test_reader__of_an_extracted_workspace(finished: Workspace, read_store: Reader) -> None:
    """And the index is what the page says that it is."""
    identity, rows = read_store(finished.store_folder)
    index = json.loads(finished.index_file.read_bytes())
    assert index["identity"] == identity
    usable = [row for row in read_manifest(finished.manifest_file).rows if row.status == "ok"]
    assert index["rows"] == len(usable) == 40
    lines = "".join(f"{row.sha256} center\n" for row in usable)
    assert index["keys_sha256"] == hashlib.sha256(lines.encode()).hexdigest()
    assert sorted(index) == ["identity", "keys_sha256", "rows", "weights"]
    assert rows.keys() == {(row.sha256, "center") for row in usable}


def test_reader__flipped_bit(tmp_path: Path, small: Identity, read_store: Reader) -> None:
    path = stored(tmp_path, small).shards()[0]
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match="damaged"):
        read_store(tmp_path)


def test_reader__shard_of_another_extractor(tmp_path: Path, small: Identity, read_store: Reader) -> None:
    here = stored(tmp_path / "here", small)
    other = stored(tmp_path / "other", Identity.from_dict(small.as_dict() | {"resize": 300}))
    moved = other.shards()[0]
    moved.rename(here.folder / moved.name)
    with pytest.raises(ValueError, match="another extractor"):
        read_store(here.folder)


def test_reader__format_of_the_future(tmp_path: Path, small: Identity, read_store: Reader) -> None:
    stored(tmp_path, small)
    description = tmp_path / "store.json"
    description.write_text(description.read_text().replace(f'"format": {FORMAT}', f'"format": {FORMAT + 1}'))
    with pytest.raises(ValueError, match="not known"):
        read_store(tmp_path)


def _linked(shard: h5py.File, elsewhere: Path) -> None:
    shard["features"] = h5py.ExternalLink(str(elsewhere), "features")


def _virtual(shard: h5py.File, elsewhere: Path) -> None:
    layout = h5py.VirtualLayout((2, 8), np.float16)
    layout[:] = h5py.VirtualSource(str(elsewhere), "features", (2, 8))
    shard.create_virtual_dataset("features", layout)


def _never_written(shard: h5py.File, elsewhere: Path) -> None:
    shard.create_dataset("features", (2, 8), np.float16)


def _of_another_type(shard: h5py.File, elsewhere: Path) -> None:
    shard["features"] = np.ones((2, 8), np.float64)


def _of_other_rows(shard: h5py.File, elsewhere: Path) -> None:
    shard["features"] = np.ones((3, 8), np.float16)


@pytest.mark.parametrize("put", [_linked, _virtual, _never_written, _of_another_type, _of_other_rows])
def test_reader__strangers_shard_of_the_right_name(
    tmp_path: Path, small: Identity, read_store: Reader, put: Callable[[h5py.File, Path], None]
) -> None:
    folder, elsewhere, made = tmp_path / "store", tmp_path / "elsewhere.h5", tmp_path / "made.h5"
    FeatureStore.create(folder, small)
    with h5py.File(elsewhere, "w") as other:
        other["features"] = np.ones((2, 8), np.float16)
    with h5py.File(made, "w") as shard:
        put(shard, elsewhere)
        shard["sha256"] = np.array(["a" * 64, "b" * 64], "S64")
        shard["view"] = np.array(["center"] * 2, "S16")
        shard.attrs["identity"] = json.dumps(small.as_dict(), sort_keys=True)
    made.rename(folder / f"{hashlib.sha256(made.read_bytes()).hexdigest()}.h5")
    with pytest.raises(ValueError, match=r"features|do not fit each other"):
        read_store(folder)


# What the page says in words and tables


def test_page__description_is_one(example: dict[str, Any]) -> None:
    assert example["format"] == FORMAT
    assert Identity.from_dict(example["identity"]).as_dict() == example["identity"]
    assert f"The format has the version {FORMAT}." in TEXT


def table_after(heading: str) -> list[list[str]]:
    """Rows of the first table below a heading, cell by cell, without the header."""
    _, _, section = TEXT.partition(f"## {heading}\n")
    lines = re.search(r"(?:^\|.*\n)+", section, re.MULTILINE)
    assert lines
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[0].splitlines()[2:]]


def test_page__every_part_of_the_identity_is_explained() -> None:
    explained = {name for row in table_after("`store.json`") for name in re.findall(r"`(\w+)`", row[0])}
    assert explained == {field.name for field in fields(Identity)}


def test_page__shard_is_laid_out_as_described(tmp_path: Path, small: Identity) -> None:
    path = stored(tmp_path, small).shards()[0]
    described = {row[0].strip("`"): row[1:] for row in table_after("A shard")}
    with h5py.File(path) as shard:
        assert set(shard) == set(described)
        for name, dataset in shard.items():
            assert dataset.chunks is None
            assert dataset.compression is None
            assert described[name][0] == ("(n, `dimension`)" if dataset.ndim == 2 else "(n,)")
            if name == "features":
                assert dataset.dtype == "<f2"
                assert "little-endian" in described[name][1]
            else:
                assert f"fixed length {dataset.dtype.itemsize}," in described[name][1]
        assert dict(shard.attrs) == {
            "format": str(FORMAT),
            "identity": json.dumps(small.as_dict(), sort_keys=True),
            "device": "cpu",
        }
    assert f"at most {SHARD_ROWS}" in TEXT


def test_page__names_every_file_of_a_store(finished: Workspace) -> None:
    named = {row[0] for row in table_after("Files")}
    (shard,) = finished.store_folder.glob("*.h5")
    assert re.fullmatch(r"[0-9a-f]{64}", shard.stem)
    assert {path.name for path in finished.store_folder.iterdir()} == {shard.name, "store.json", ".lock"}
    for name in ("store.json", "HASH.h5", ".lock", finished.quantised_file.name):
        assert f"`cache/features/{name}`" in named
    for file in (finished.index_file, finished.failed_file, finished.manifest_file):
        assert f"`{file.relative_to(finished.root)}`" in named
