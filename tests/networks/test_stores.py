from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.dataset.manifest import read_manifest
from pipeline.errors import SourceError, SourceMissing, StoreLocked
from pipeline.features import shard_writer
from pipeline.features.extraction import Extraction
from pipeline.features.extractor import Execution, Extractor
from pipeline.features.identity import Identity
from pipeline.features.lock import locked
from pipeline.features.shard_writer import ShardWriter
from pipeline.features.store import FeatureStore, RowKey
from pipeline.networks.stores import fill, opened
from pipeline.workspace import Workspace


@pytest.fixture
def extraction(workspace: Workspace) -> Extraction:
    return Extraction.of(workspace)


@pytest.fixture
def extractor(extraction: Extraction) -> Callable[[], Extractor]:
    return lambda: extraction.extractor(Execution("cpu"))


def never() -> Extractor:
    raise AssertionError("nothing is missing")


def test_opened__another_identity_is_replaced(
    extraction: Extraction, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine, other = extraction.identity, replace(extraction.identity, weights_sha256="ab" * 32)
    features = np.ones((1, mine.dimension), mine.storage)
    opened(tmp_path / "store", mine).add([RowKey("cd" * 32)], features, {})
    assert len(opened(tmp_path / "store", mine).keys()) == 1
    assert capsys.readouterr().err == ""
    store = opened(tmp_path / "store", other)
    assert (store.identity, store.keys()) == (other, set())
    assert "store: 1 shard of another extractor removed" in capsys.readouterr().err
    (tmp_path / "store" / "store.json").write_text("{}")
    assert opened(tmp_path / "store", mine).identity == mine


def test_fill__computes_what_is_missing_once(
    workspace: Workspace,
    extraction: Extraction,
    extractor: Callable[[], Extractor],
    tmp_path: Path,
    forwarded: list[int],
) -> None:
    images = extraction.manifest.of_split("val")
    store = opened(tmp_path / "store", extraction.identity)
    fill(store, images[:2], extraction.root, extractor, "extract")
    fill(store, images, extraction.root, extractor, "extract")
    assert sum(forwarded) == len(images)
    fill(store, images, extraction.root, never, "extract")
    keys = [RowKey(image.sha256) for image in images]
    ordinary = FeatureStore.open(workspace.store_folder).read(keys)
    assert np.array_equal(store.read(keys), ordinary)


def test_fill__a_damaged_shard_is_made_again(
    extraction: Extraction,
    extractor: Callable[[], Extractor],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    images = extraction.manifest.of_split("val")
    store = opened(tmp_path / "store", extraction.identity)
    fill(store, images, extraction.root, extractor, "extract")
    keys = [RowKey(image.sha256) for image in images]
    before = store.read(keys)
    [path] = store.shards()
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1  # somewhere among the features
    path.write_bytes(data)
    capsys.readouterr()
    fill(store, images, extraction.root, extractor, "extract")
    assert "damaged: a damaged shard, set aside; its rows are made again" in capsys.readouterr().err
    assert np.array_equal(store.read(keys), before)
    assert len(list(store.folder.glob("*.damaged"))) == 1


def test_fill__an_image_that_cannot_be_read_again(
    extraction: Extraction, extractor: Callable[[], Extractor], tmp_path: Path
) -> None:
    images = extraction.manifest.of_split("val")
    store = opened(tmp_path / "store", extraction.identity)
    (extraction.root / images[0].path).write_bytes(b"no image")
    with pytest.raises(SourceError, match=rf"1 of {len(images)} images could not be .*{images[0].path}: "):
        fill(store, images, extraction.root, extractor, "extract")
    assert store.keys() == {RowKey(image.sha256) for image in images[1:]}


def test_fill__without_the_images(extraction: Extraction, tmp_path: Path, photos: Path) -> None:
    store = opened(tmp_path / "store", extraction.identity)
    shutil.rmtree(photos)
    with pytest.raises(SourceMissing, match=r"and 6 of them are needed\. Bring it back"):
        fill(store, extraction.manifest.of_split("val"), extraction.root, never, "extract")


def test_fill__one_writer(extraction: Extraction, tmp_path: Path) -> None:
    store = opened(tmp_path / "store", extraction.identity)
    with locked(store.folder), pytest.raises(StoreLocked):
        fill(store, extraction.manifest.of_split("val"), extraction.root, never, "extract")


def test_shards__of_long_rows_have_fewer_rows(
    extraction: Extraction, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shard with 256 rows of what goes into block2 would be larger than what is taken for a shard."""
    long = replace(extraction.identity, layer="pool1", dimension=64 * 128 * 128, storage="float32")
    assert 256 * long.row_bytes > 1 << 28
    assert shard_writer._SHARD_BYTES // long.row_bytes == 16
    store = opened(tmp_path / "store", _with_dimension(long, 100))
    monkeypatch.setattr(shard_writer, "_SHARD_BYTES", 3 * 400 + 100)
    rows = np.random.default_rng(0).normal(0, 1, (8, 100)).astype(np.float32)
    keys = [RowKey(f"{number:064}") for number in range(8)]
    with store.writing(), ShardWriter(store, {}) as writer:
        writer.add(keys, rows)
    assert sorted(len(store.format.contents(path).keys) for path in store.shards()) == [2, 3, 3]
    assert np.array_equal(store.read(keys), rows)


def _with_dimension(identity: Identity, dimension: int) -> Identity:
    return replace(identity, dimension=dimension)


def test_manifest__is_what_the_tests_say(workspace: Workspace) -> None:
    assert len(read_manifest(workspace.manifest_file).of_split("val")) == 6
