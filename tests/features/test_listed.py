"""What a manifest asks for and a store lacks: the same by number as row by row."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.dataset import manifest_keys
from pipeline.features import catalogue, listed
from pipeline.features.extract import missing_rows
from pipeline.features.identity import Identity
from pipeline.features.index import digest_of_keys, row_keys
from pipeline.features.layout import RowKey
from pipeline.features.listed import Listed
from pipeline.features.prints import prints_of_keys
from pipeline.features.store import FeatureStore
from pipeline.workspace import Workspace
from tests.features.conftest import MADE_WITH, some_features
from tests.features.stocks import key_of, list_images, stock


@pytest.mark.parametrize("views", [("center",), ("center", "hflip")])
@pytest.mark.parametrize("large", [0, 1 << 26])
@pytest.mark.parametrize("at_once", [3, 1 << 20])
def test_listed__is_what_the_rows_say(
    workspace: Workspace,
    identity: Identity,
    monkeypatch: pytest.MonkeyPatch,
    views: tuple[str, ...],
    large: int,
    at_once: int,
) -> None:
    manifest = list_images(workspace, range(10))
    store = stock(workspace.store_folder, identity, [[0, 1, 2], [5, 20]])
    store.add([RowKey(key_of(n).sha256, "hflip") for n in (1, 7)], some_features(2), MADE_WITH)
    store = FeatureStore.open(workspace.store_folder, identity)
    monkeypatch.setattr(manifest_keys, "_LARGE", large)
    monkeypatch.setattr(listed, "_AT_ONCE", at_once)
    monkeypatch.setattr(catalogue, "_AT_ONCE", at_once)
    found = Listed.of(workspace.manifest_file, views)
    assert found.keys_sha256 == digest_of_keys(row_keys(manifest, views))
    assert found.lacking(store) == missing_rows(manifest, store, views)
    assert found.lacking(None) == missing_rows(manifest, None, views)
    assert {image.path for image, _ in found.lacking(store)} == {
        f"{number:04}.png" for number in ({3, 4, 6, 7, 8, 9} if len(views) == 1 else set(range(10)) - {1})
    }


def test_catalogue__different_keys_with_the_same_head_are_told_apart(
    tmp_path: Path, identity: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    fold = prints_of_keys

    def same_heads(keys: list[RowKey]) -> object:
        prints = fold(keys)
        prints[:, 0] = 7
        return prints

    store = stock(tmp_path / "store", identity, [[0, 1], [2, 3, 0]])
    form = store.format
    monkeypatch.setattr(catalogue, "prints_of_keys", same_heads)
    monkeypatch.setattr(
        type(form), "prints", lambda self, path: same_heads(self.contents(path).keys), raising=True
    )
    shards = store.shards()
    known = catalogue.Catalogue.of(tmp_path, form, shards)
    assert known.holds([key_of(n) for n in range(5)]).tolist() == [True] * 4 + [False]
    for number in range(4):
        (path,) = known.sought([key_of(number)])
        last = [shard for shard in shards if key_of(number) in form.contents(shard).keys][-1]
        assert path == last
