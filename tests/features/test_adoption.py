from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.errors import IdentityMismatch, MissingRows, StoreError, StoreLocked
from pipeline.features.adoption import ImportReport, take_in
from pipeline.features.identity import Identity, identity_of
from pipeline.features.quantised import QUANTISED, quantised_digest
from pipeline.features.store import FeatureStore, locked
from pipeline.features.weights import resolve_weights
from pipeline.params import ExtractParams
from pipeline.workspace import Workspace
from tests.features.conftest import disk_full_at, listing, shards_of, stat_of
from tests.features.networks import needs_openvino
from tests.features.stocks import holds, key_of, stock


@pytest.fixture
def identity() -> Identity:
    """What the workspaces' ``params.yaml`` ask for."""
    return identity_of(ExtractParams(), resolve_weights("oxford", Path()))


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """Without a store."""
    return new_workspace(tmp_path / "here")


@pytest.fixture
def other(tmp_path: Path, identity: Identity) -> Workspace:
    """A workspace whose store has rows 0 to 5 in three shards."""
    made = new_workspace(tmp_path / "there")
    stock(made.store_folder, identity, [[0, 1], [2, 3], [4, 5]])
    return made


def new_workspace(root: Path) -> Workspace:
    root.mkdir()
    (root / "params.yaml").write_text("dataset: {source: photos}\n")
    return Workspace(root)


def shard_with(folder: Path, number: int) -> Path:
    (path,) = FeatureStore.open(folder)._catalogue().sought([key_of(number)])
    return path


def test_take_in__only_shards_with_a_new_row(
    workspace: Workspace, other: Workspace, identity: Identity
) -> None:
    stock(workspace.store_folder, identity, [[0], [1, 2], [10]])
    before = stat_of(sorted(other.store_folder.iterdir()))
    report = take_in(workspace, other.root)
    assert report == ImportReport(shards=2, rows=3, skipped=1)
    assert holds(workspace.store_folder, [0, 1, 2, 3, 4, 5, 10])
    assert stat_of(sorted(other.store_folder.iterdir())) == before
    assert take_in(workspace, other.root) == ImportReport(shards=0, rows=0, skipped=3)


@pytest.mark.parametrize("name", ["", "cache", "cache/features"])
def test_take_in__into_a_workspace_without_a_store(
    workspace: Workspace, other: Workspace, identity: Identity, name: str
) -> None:
    assert take_in(workspace, other.root / name).rows == 6
    assert shards_of(workspace) == shards_of(other)
    assert FeatureStore.open(workspace.store_folder).identity == identity


def test_take_in__copies_and_never_links(workspace: Workspace, other: Workspace) -> None:
    take_in(workspace, other.root)
    with shard_with(other.store_folder, 0).open("r+b") as file:
        file.write(b"damaged where it came from")
    assert holds(workspace.store_folder, range(6))


def test_take_in__another_identity_shows_both(
    workspace: Workspace, other: Workspace, identity: Identity
) -> None:
    stock(workspace.store_folder, replace(identity, resize=300), [[0]])
    before = listing(workspace.store_folder)
    with pytest.raises(IdentityMismatch) as caught:
        take_in(workspace, other.root)
    assert str(caught.value) == (
        f"the features in {workspace.store_folder} and those in {other.store_folder} differ: resize 300 "
        f"against 256. Only features of the same extractor can stand side by side: nothing was taken in."
    )
    assert listing(workspace.store_folder) == before


def test_take_in__into_a_workspace_that_asks_for_another_identity(
    workspace: Workspace, other: Workspace
) -> None:
    workspace.params_file.write_text("extract: {resize: 300}\n")
    with pytest.raises(IdentityMismatch) as caught:
        take_in(workspace, other.root)
    assert str(caught.value) == (
        f"what {workspace.params_file} asks for and the features in {other.store_folder} differ: resize 300 "
        f"against 256. Change params.yaml, or name a store of that extractor: nothing was taken in."
    )
    assert not workspace.store_folder.exists()


@needs_openvino
@pytest.mark.parametrize("precision", ["int8", "half"])
def test_take_in__int8(
    workspace: Workspace, tmp_path: Path, identity: Identity, random_network: Path, precision: str
) -> None:
    """The network comes with its features, if it is asked for."""
    source = stock(
        tmp_path / "there",
        replace(identity, precision="int8", quantised_sha256=quantised_digest(random_network)),
        [[0, 1]],
    )
    shutil.copyfile(random_network, source.folder / QUANTISED)
    workspace.params_file.write_text(f"extract: {{precision: {precision}}}\n")
    if precision == "int8":
        assert take_in(workspace, source.folder).rows == 2
        assert workspace.quantised_file.read_bytes() == random_network.read_bytes()
        return
    with pytest.raises(
        IdentityMismatch, match=r"precision half against int8; quantised_sha256 none against [0-9a-f]{12}…\."
    ):
        take_in(workspace, source.folder)
    assert not workspace.store_folder.exists()


def _flip(path: Path, tmp_path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _truncate(path: Path, tmp_path: Path) -> None:
    os.truncate(path, path.stat().st_size - 9)


def _empty(path: Path, tmp_path: Path) -> None:
    path.write_bytes(b"")


def _link_to_outside(path: Path, tmp_path: Path) -> None:
    path.symlink_to(path.rename(tmp_path / "outside.h5"))


def _fifo(path: Path, tmp_path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _folder(path: Path, tmp_path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (_flip, "damaged: its bytes do not hash to its name"),
        (_truncate, "no usable shard (damaged or cut short)"),
        (_empty, "no usable shard (damaged or cut short)"),
        (_link_to_outside, "not a regular file"),
        (_fifo, "not a regular file"),
        (_folder, "not a regular file"),
    ],
)
def test_take_in__bad_shard_is_named_and_the_others_come_in(
    workspace: Workspace, other: Workspace, tmp_path: Path, harm: Callable[[Path, Path], None], reason: str
) -> None:
    path = shard_with(other.store_folder, 2)
    harm(path, tmp_path)
    report = take_in(workspace, other.root)
    assert list(report.rejected) == [path.name]
    assert report.rejected[path.name].startswith(reason)
    assert (report.shards, report.rows) == (2, 4)
    assert holds(workspace.store_folder, [0, 1, 4, 5])


def test_take_in__swapped_shard(workspace: Workspace, other: Workspace) -> None:
    path = shard_with(other.store_folder, 2)
    shutil.copy(shard_with(other.store_folder, 4), path)
    report = take_in(workspace, other.root)
    assert report.rows == 4
    assert holds(workspace.store_folder, [0, 1, 4, 5])


def test_take_in__shard_of_another_identity(
    workspace: Workspace, other: Workspace, tmp_path: Path, identity: Identity
) -> None:
    """Put by hand where it does not belong."""
    stranger = stock(tmp_path / "x", replace(identity, resize=300), [[7]]).shards()[0]
    shutil.copy(stranger, other.store_folder)
    report = take_in(workspace, other.root)
    assert report.rejected == {stranger.name: "no usable shard (made by another extractor)"}
    assert holds(workspace.store_folder, range(6))


def test_take_in__replaces_a_shard_that_is_no_shard_any_more(
    workspace: Workspace, other: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    take_in(workspace, other.root)
    shard_with(workspace.store_folder, 2).write_bytes(b"")
    assert take_in(workspace, other.root).rows == 2
    assert "warning" in capsys.readouterr().err
    assert holds(workspace.store_folder, range(6))


def test_take_in__held_by_another(workspace: Workspace, other: Workspace, identity: Identity) -> None:
    stock(workspace.store_folder, identity, [[9]])
    with locked(workspace.store_folder), pytest.raises(StoreLocked):
        take_in(workspace, other.root)
    assert holds(workspace.store_folder, [9])


def test_take_in__from_one_that_is_being_written(workspace: Workspace, other: Workspace) -> None:
    with locked(other.store_folder):
        assert take_in(workspace, other.root).rows == 6


def test_take_in__itself(other: Workspace, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(other.root)
    for folder in (other.root, other.store_folder, tmp_path / "link"):
        with pytest.raises(StoreError, match="this is the store itself"):
            take_in(other, folder)


@pytest.mark.parametrize("name", ["nowhere", "empty", "workspace"])
def test_take_in__no_store_there(workspace: Workspace, tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    new_workspace(tmp_path / "workspace")
    with pytest.raises(MissingRows, match=rf"{name}: not a feature store. Expected a folder with store.json"):
        take_in(workspace, tmp_path / name)
    assert not workspace.store_folder.exists()


def test_take_in__description_that_would_wait_for_ever(workspace: Workspace, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "store.json")
    with pytest.raises(MissingRows, match="not a feature store"):
        take_in(workspace, tmp_path)


def test_take_in__full_disk_keeps_what_came_in(workspace: Workspace, other: Workspace) -> None:
    with disk_full_at(3), pytest.raises(OSError, match="No space left"):  # after store.json and a shard
        take_in(workspace, other.root)
    assert len(shards_of(workspace)) == 1
    assert listing(workspace.store_folder) == sorted([*shards_of(workspace), "store.json"])
    assert take_in(workspace, other.root).rows == 4
    assert shards_of(workspace) == shards_of(other)
