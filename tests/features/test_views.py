"""Views in stage one: each a row of its own, computed once, and looked after like any other row."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.dataset.images import decode
from pipeline.dataset.manifest import read_manifest
from pipeline.edit_params import write_params
from pipeline.errors import MissingRows
from pipeline.features.adoption import take_in
from pipeline.features.backbone import open_backbone
from pipeline.features.compaction import compact
from pipeline.features.extract import extract, is_complete, missing_rows
from pipeline.features.extractor import Execution, Extractor
from pipeline.features.forecast import forecast
from pipeline.features.index import current_index, row_keys
from pipeline.features.store import FeatureStore, RowKey
from pipeline.features.transforms import to_views
from pipeline.features.upkeep import inspect, verify
from pipeline.features.weights import resolve_weights
from pipeline.params import read_params
from pipeline.views import VIEWS
from pipeline.workspace import Workspace
from tests.features.conftest import PARAMS, manifest_of, shards_of, write_photo

GEOMETRY = PARAMS.replace("resize: 32", "resize: 36")  # else all five crops of a square image are one
NewWorkspace = Callable[..., Workspace]


@pytest.fixture(scope="module")
def backbone() -> Any:
    return open_backbone(resolve_weights("random", Path()), "float32", device="cpu", backend="torch")


@pytest.fixture
def pushed(backbone: Any, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many squares go through the network, batch by batch."""
    counts: list[int] = []

    def counting(pixels: Any) -> Any:
        counts.append(len(pixels))
        return backbone(pixels)

    counting.batch_size, counting.made_with = 4, backbone.made_with  # type: ignore[attr-defined]
    monkeypatch.setattr("pipeline.features.extractor.open_backbone", lambda *_, **__: counting)
    return counts


@pytest.fixture
def workspace(new_workspace: NewWorkspace) -> Workspace:
    """Five photographs, of which only the centre is asked for."""
    return new_workspace(count=5, params=GEOMETRY)


def ask_for(workspace: Workspace, *views: str) -> None:
    write_params(workspace.params_file, {"extract.views": list(views)})


def store_of(workspace: Workspace) -> FeatureStore:
    return FeatureStore.open(workspace.store_folder)


def test_extract__each_view_is_a_row(workspace: Workspace, backbone: Any, pushed: list[int]) -> None:
    ask_for(workspace, *VIEWS)
    report = extract(workspace)
    assert (report.images, report.computed, report.reused) == (5, 5, 0)
    assert pushed == [4] * 7 + [2]  # an image's views may be in two batches
    manifest = read_manifest(workspace.manifest_file)
    store = store_of(workspace)
    assert store.keys() == set(row_keys(manifest, VIEWS))
    for row in manifest.usable:
        image = decode((workspace.root / "photos" / row.path).read_bytes())
        squares = [np.asarray(view).transpose(2, 0, 1) for view in to_views(image, 36, 32, VIEWS)]
        expected = backbone(np.stack(squares))
        found = store.read([RowKey(row.sha256, view) for view in VIEWS])
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)
        assert len(np.unique(found, axis=0)) == len(VIEWS)


def test_extract__adding_a_view_computes_that_view_only(workspace: Workspace, pushed: list[int]) -> None:
    extract(workspace)
    center = shards_of(workspace)
    assert sum(pushed) == 5
    ask_for(workspace, "center", "hflip")
    assert not is_complete(workspace)
    pushed.clear()
    report = extract(workspace)
    assert (report.computed, report.reused, sum(pushed)) == (5, 0, 5)
    added = {name: data for name, data in shards_of(workspace).items() if name not in center}
    assert shards_of(workspace) == center | added
    store = store_of(workspace)
    assert Counter(key.view for key in store.keys()) == {"center": 5, "hflip": 5}  # noqa: SIM118
    assert is_complete(workspace)
    write_photo(workspace.root / "photos" / "cat" / "new.png", 77)
    manifest_of(workspace)
    pushed.clear()
    assert extract(workspace).computed == 1
    assert sum(pushed) == 2


def test_extract__an_image_is_decoded_once_for_all_its_views(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask_for(workspace, "center", "hflip", "top-left")
    asked: list[list[str]] = []
    original = Extractor.decoded

    def decoded(self: Extractor, files: Any, **views: Any) -> Any:
        wanted = list(views["views"])
        asked.extend(list(each["views"]) for each in wanted)
        return original(self, files, views=wanted)

    monkeypatch.setattr(Extractor, "decoded", decoded)
    extract(workspace)
    assert asked == [["center", "hflip", "top-left"]] * 5


def test_extract__what_a_stop_left_of_an_image_is_not_computed_again(
    workspace: Workspace, pushed: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    ask_for(workspace, "center", "hflip", "top-left")
    forward = Extractor.forward

    def stopped(extractor: Extractor, pixels: Any) -> Any:
        if len(pushed) == 2:
            raise KeyboardInterrupt
        return forward(extractor, pixels)

    with monkeypatch.context() as patch:
        patch.setattr(Extractor, "forward", stopped)
        with pytest.raises(KeyboardInterrupt):
            extract(workspace)
    manifest = read_manifest(workspace.manifest_file)
    left = missing_rows(manifest, store_of(workspace), ("center", "hflip", "top-left"))
    assert [each.views for each in left] == [("top-left",), *[("center", "hflip", "top-left")] * 2]
    pushed.clear()
    extract(workspace)
    assert sum(pushed) == 7
    assert store_of(workspace).keys() == set(row_keys(manifest, ("center", "hflip", "top-left")))


@pytest.mark.usefixtures("pushed")
def test_extract__batches_and_workers_change_no_byte(new_workspace: NewWorkspace) -> None:
    outcomes = []
    for batch_size, workers in ((1, 1), (5, 2), (32, 3)):
        workspace = new_workspace(f"b{batch_size}", count=4, params=GEOMETRY)
        ask_for(workspace, "center", "hflip", "bottom-right")
        extract(workspace, Execution(batch_size=batch_size, workers=workers))
        outcomes.append((shards_of(workspace), workspace.index_file.read_bytes()))
    assert outcomes[0] == outcomes[1] == outcomes[2]


@pytest.mark.usefixtures("pushed")
def test_index__names_views_only_where_there_are_several(workspace: Workspace) -> None:
    extract(workspace)
    alone = workspace.index_file.read_bytes()
    assert json.loads(alone).keys() == {"identity", "keys_sha256", "rows", "weights"}
    ask_for(workspace, "hflip", "center")
    params, manifest = read_params(workspace.params_file), read_manifest(workspace.manifest_file)
    with pytest.raises(MissingRows, match=r"of the views center, and extract\.views .* names center, hflip"):
        current_index(workspace, params, manifest)
    extract(workspace)
    index = current_index(workspace, params, manifest)
    assert (index.views, index.rows) == (("center", "hflip"), 5)
    ask_for(workspace, "center")
    assert extract(workspace).computed == 0
    assert workspace.index_file.read_bytes() == alone


@pytest.mark.usefixtures("pushed")
def test_upkeep__counts_and_misses_views(workspace: Workspace) -> None:
    extract(workspace)
    ask_for(workspace, "center", "hflip")
    info = inspect(workspace)
    assert (info.views, info.named, info.unnamed, info.missing) == ({"center": 5}, 5, 0, 5)
    extract(workspace)
    info = inspect(workspace)
    assert (info.views, info.named, info.missing) == ({"center": 5, "hflip": 5}, 10, 0)
    store = store_of(workspace)
    manifest = read_manifest(workspace.manifest_file)
    for path in store.shards():
        if store.format.contents(path).keys[0].view == "hflip":
            path.unlink()
    assert verify(workspace).missing == [row.path for row in manifest.usable]


@pytest.mark.usefixtures("pushed")
def test_compact__drops_views_that_are_not_named_any_more(workspace: Workspace) -> None:
    ask_for(workspace, "center", "hflip")
    extract(workspace)
    assert compact(workspace, dry_run=True).rows_dropped == 0
    ask_for(workspace, "center")
    assert (compact(workspace).rows_dropped, compact(workspace).rows_kept) == (5, 5)
    assert {key.view for key in store_of(workspace).keys()} == {"center"}  # noqa: SIM118


def test_take_in__takes_views_too(
    workspace: Workspace, new_workspace: NewWorkspace, pushed: list[int]
) -> None:
    extract(workspace)
    other = new_workspace("other", count=5, params=GEOMETRY)
    ask_for(other, "center", "hflip")
    extract(other)
    assert take_in(workspace, other.root).rows == 5
    ask_for(workspace, "center", "hflip")
    pushed.clear()
    assert extract(workspace).computed == 0
    assert pushed == []


@pytest.mark.usefixtures("pushed")
def test_forecast__counts_views(workspace: Workspace) -> None:
    extract(workspace)
    ask_for(workspace, "center", "hflip", "top-left")
    found = forecast(workspace, Execution())
    assert (found.images, found.stored, found.to_compute, found.rows) == (5, 0, 5, 10)
    assert found.bytes == 10 * 25088 * 2
    assert found.told().startswith("5 images to compute in 10 views, 0 in the store\n0.5 MB to be written\n")
    assert "views/s" in found.told()
