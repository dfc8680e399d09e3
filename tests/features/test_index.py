from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from pipeline.dataset.manifest import ImageRow, read_manifest, write_manifest
from pipeline.errors import IdentityMismatch, MissingRows, StoreError
from pipeline.features.identity import Identity
from pipeline.features.index import Index, current_index, digest_of_keys, row_keys
from pipeline.features.store import RowKey
from pipeline.params import ExtractParams, Params
from pipeline.workspace import Workspace
from tests.index_file import write_index

PARAMS = Params(extract=ExtractParams(weights="random"))


@pytest.fixture
def indexed(workspace: Workspace, identity: Identity) -> Workspace:
    assert write_index(workspace, identity, "random", read_manifest(workspace.manifest_file))
    return workspace


def current(workspace: Workspace, params: Params = PARAMS) -> Index:
    return current_index(workspace, params, read_manifest(workspace.manifest_file))


def test_current_index__what_was_written(indexed: Workspace, identity: Identity) -> None:
    index = current(indexed)
    assert (index.identity, index.weights, index.rows) == (identity, "random", 10)


def test_write_index__is_deterministic_and_quiet(indexed: Workspace, identity: Identity) -> None:
    before = indexed.index_file.read_bytes()
    assert not write_index(indexed, identity, "random", read_manifest(indexed.manifest_file))
    assert indexed.index_file.read_bytes() == before
    assert len(before) < 2000


def test_digest_of_keys__depends_on_order_view_and_number() -> None:
    one, two = RowKey("a" * 64), RowKey("b" * 64)
    digests = {
        digest_of_keys(keys)
        for keys in ([one, two], [two, one], [one], [one, two, two], [one, RowKey("b" * 64, "hflip")], [])
    }
    assert len(digests) == 6


def test_row_keys__usable_images_in_manifest_order(workspace: Workspace) -> None:
    rows = list(read_manifest(workspace.manifest_file).rows)
    rows[3] = replace(rows[3], status="quarantined", split="", reason="corrupt")
    write_manifest(workspace.manifest_file, rows)
    expected = [RowKey(row.sha256) for row in rows[:3] + rows[4:]]
    assert row_keys(read_manifest(workspace.manifest_file)) == expected


def test_current_index__none_yet(workspace: Workspace) -> None:
    with pytest.raises(MissingRows, match=r"index.json: no features yet. Run `pipeline extract`."):
        current(workspace)


def test_current_index__manifest_changed(indexed: Workspace) -> None:
    write_manifest(indexed.manifest_file, read_manifest(indexed.manifest_file).rows[1:])
    with pytest.raises(MissingRows, match=r"index.json is not of the images now in .*manifest.csv. Run"):
        current(indexed)


@pytest.mark.parametrize(
    "change",
    [
        lambda row: replace(row, label="bird"),
        lambda row: replace(row, path="moved/" + row.path),
        lambda row: replace(row, split="test"),
    ],
    ids=["label", "path", "split"],
)
def test_current_index__labels_names_and_splits_are_not_its_business(
    indexed: Workspace, change: Callable[[ImageRow], ImageRow]
) -> None:
    rows = read_manifest(indexed.manifest_file).rows
    write_manifest(indexed.manifest_file, [change(row) for row in rows])
    assert current(indexed).rows == 10


@pytest.mark.parametrize(
    ("part", "value", "shown"),
    [
        ("weights", "oxford", "weights random against oxford"),
        ("precision", "float32", "precision half against float32"),
        ("resize", 300, "resize 256 against 300"),
        ("image_size", 192, "image_size 224 against 192"),
        ("storage", "float32", "storage float16 against float32"),
        ("decoder", "nvjpeg", "decoding pillow, upright, RGB against nvjpeg or else pillow, upright, RGB"),
    ],
)
def test_current_index__params_ask_for_another_extractor(
    indexed: Workspace, part: str, value: Any, shown: str
) -> None:
    other = replace(PARAMS, extract=replace(PARAMS.extract, **{part: value}))
    with pytest.raises(IdentityMismatch) as caught:
        current(indexed, other)
    assert f"index.json and {indexed.params_file} differ: {shown}. Change params.yaml back" in str(
        caught.value
    )


def _without(key: str) -> Callable[[dict[str, Any]], Any]:
    return lambda index: {name: value for name, value in index.items() if name != key}


@pytest.mark.parametrize(
    "spoil",
    [
        _without("identity"),
        _without("keys_sha256"),
        _without("rows"),
        lambda index: index | {"more": 1},
        lambda index: index | {"identity": None},
        lambda index: index | {"identity": index["identity"] | {"more": 1}},
        lambda index: index | {"identity": index["identity"] | {"mean": 5}},
        lambda index: [index],
        lambda _: "text",
        lambda _: None,
    ],
)
def test_current_index__not_an_index(indexed: Workspace, spoil: Callable[[dict[str, Any]], Any]) -> None:
    index = json.loads(indexed.index_file.read_text())
    indexed.index_file.write_text(json.dumps(spoil(index)))
    with pytest.raises(StoreError, match=r"index.json: not an index \(.*\). Run `pipeline extract`."):
        current(indexed)


@pytest.mark.parametrize("data", [b"", b"{", b"\xff\xfe", b'{"rows": 1'])
def test_current_index__not_json(indexed: Workspace, data: bytes) -> None:
    indexed.index_file.write_bytes(data)
    with pytest.raises(StoreError, match="not an index"):
        current(indexed)


def test_write_index__replaces_a_damaged_one(indexed: Workspace, identity: Identity) -> None:
    indexed.index_file.write_text("{")
    write_index(indexed, identity, "random", read_manifest(indexed.manifest_file))
    assert current(indexed).rows == 10
