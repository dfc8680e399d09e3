"""Damaged shards: found, set aside, and their rows computed again."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipeline.dataset.manifest import read_manifest
from pipeline.errors import (
    StoreError,
)
from pipeline.features.extract import ExtractReport, extract
from pipeline.features.extractor import Extractor
from pipeline.features.index import row_keys
from pipeline.features.store import FeatureStore
from pipeline.workspace import Workspace
from tests.features.conftest import (
    shards_of,
)
from tests.features.extracts import quick, random_backbone, small_shards, stored_features

__all__ = ["quick", "random_backbone"]  # fixtures


def _cut(path: Path) -> None:
    os.truncate(path, 1000)


def _garble(path: Path) -> None:
    path.write_bytes(np.random.default_rng(0).bytes(9999))


def _empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("harm", [_cut, _garble, _empty])
@pytest.mark.parametrize("verify", [False, True])
def test_extract__what_is_no_shard_is_set_aside_and_its_rows_are_computed_again(
    workspace: Workspace,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    harm: Callable[[Path], None],
    verify: bool,
) -> None:
    small_shards(monkeypatch, 4)
    extract(workspace)
    whole = shards_of(workspace)
    path = next(path for path in FeatureStore.open(workspace.store_folder).shards() if rows_in(path) == 4)
    harm(path)
    harmed = path.read_bytes()
    capsys.readouterr()
    assert extract(workspace, verify=verify) == ExtractReport(images=10, computed=4, reused=6, copies=0)
    aside = path.with_name(f"{path.name}.damaged")
    warnings = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
    assert warnings == [
        f"warning: {aside}: a damaged shard, set aside; 4 images have no features now: to be computed"
    ]
    assert shards_of(workspace) == whole
    assert aside.read_bytes() == harmed
    assert extract(workspace).computed == 0
    stored_features(workspace)
    assert "warning" not in capsys.readouterr().err


@pytest.mark.usefixtures("quick")
def test_extract__a_link_to_nothing_gives_way(workspace: Workspace) -> None:
    extract(workspace)
    (path,) = workspace.store_folder.glob("*.h5")
    path.unlink()
    path.symlink_to(workspace.root / "nowhere")
    assert extract(workspace).computed == 10
    assert not path.is_symlink()
    stored_features(workspace)


@pytest.mark.usefixtures("quick")
def test_extract__verify_says_what_is_really_computed_again(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small_shards(monkeypatch, 5)
    extract(workspace)
    store = FeatureStore.open(workspace.store_folder)
    keys = row_keys(read_manifest(workspace.manifest_file))
    features = store.read(keys[:6])
    copy = store.add(keys[:6], features, {"device": "elsewhere"})  # all rows of one shard, one of the other
    for path in {*store.shards()} - {copy}:
        flip(path)
    capsys.readouterr()
    assert extract(workspace).computed == 0  # what needs hashing is seen only then
    assert capsys.readouterr().err == ""
    assert extract(workspace, verify=True).computed == 4
    said = capsys.readouterr().err
    assert "2 damaged shards, set aside (first: " in said
    assert "); 4 images have no features now: to be computed\n" in said

    flip(copy)
    store.add(keys[:6], features, {"device": "a third"})
    assert extract(workspace, verify=True).computed == 0
    assert "a damaged shard, set aside; every image still has its features\n" in capsys.readouterr().err


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def rows_in(path: Path) -> int:
    return len(FeatureStore.open(path.parent).format.contents(path).keys)


def test_extract__features_that_float16_cannot_hold(
    workspace: Workspace, quick: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        Extractor, "forward", lambda self, pixels: np.full((len(pixels), 25_088), np.inf, "f2")
    )
    with pytest.raises(StoreError, match=r"do not fit float16: set extract.storage to float32"):
        extract(workspace)
    assert not shards_of(workspace)
    assert not workspace.index_file.exists()
