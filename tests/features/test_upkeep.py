from __future__ import annotations

import os
from dataclasses import replace

import pytest

from pipeline.errors import MissingRows, StoreError
from pipeline.features.identity import Identity
from pipeline.features.store import FeatureStore, locked
from pipeline.features.upkeep import inspect, verify
from pipeline.workspace import Workspace
from tests.features.conftest import stat_of
from tests.features.stocks import key_of, list_images, stock
from tests.index_file import write_index

CPU, CUDA = {"device": "cpu", "torch": "2.14"}, {"device": "cuda", "torch": "2.14"}


@pytest.fixture
def identity(identity: Identity) -> Identity:
    """What the workspace's ``params.yaml`` asks for."""
    return replace(identity, precision="float32", resize=32, image_size=32)


@pytest.fixture
def stocked(workspace: Workspace, identity: Identity) -> Workspace:
    """Rows 0 to 7 in four shards, two of them repeated; images 0 to 5."""
    stock(workspace.store_folder, identity, [[0, 1, 2], [3, 4]], CPU)
    stock(workspace.store_folder, identity, [[5, 6, 7], [6, 7]], CUDA)
    write_index(workspace, identity, "random", list_images(workspace, range(6)))
    return workspace


def test_inspect__counts(stocked: Workspace, identity: Identity) -> None:
    store = FeatureStore.open(stocked.store_folder)
    for path in store.shards():
        os.utime(path, (1_700_000_000, 1_700_000_000))
    newest = store.shards()[2]
    os.utime(newest, (1_700_003_600, 1_700_003_600))
    info = inspect(stocked)
    assert (info.shards, info.rows, info.repeated) == (4, 8, 2)
    assert (info.named, info.unnamed, info.missing) == (6, 2, 0)
    assert info.bytes == sum(path.stat().st_size for path in store.shards())
    assert info.identity == identity.as_dict()
    assert (info.oldest, info.newest) == ("2023-11-14T22:13:20+00:00", "2023-11-14T23:13:20+00:00")
    assert sorted(info.made_with, key=lambda made: str(made["device"])) == [
        {**CPU, "rows": 5},
        {**CUDA, "rows": 5},
    ]
    assert (info.unusable, info.set_aside) == ([], [])


def test_inspect__images_without_features(stocked: Workspace) -> None:
    list_images(stocked, range(3, 12))
    info = inspect(stocked)
    assert (info.named, info.unnamed, info.missing) == (5, 3, 4)


def test_inspect__no_manifest(stocked: Workspace) -> None:
    stocked.manifest_file.unlink()
    info = inspect(stocked)
    assert (info.rows, info.named, info.unnamed, info.missing) == (8, None, None, None)


def test_inspect__empty_store(workspace: Workspace, identity: Identity) -> None:
    FeatureStore.create(workspace.store_folder, identity)
    info = inspect(workspace)
    assert (info.shards, info.rows, info.bytes, info.oldest, info.newest) == (0, 0, 0, None, None)
    assert info.missing == 10  # the workspace's photographs


def test_inspect__files_out_of_use(stocked: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    first, second, *_ = FeatureStore.open(stocked.store_folder).shards()
    first.write_bytes(b"")
    aside = second.rename(second.with_name(f"{second.name}.damaged"))
    info = inspect(stocked)
    assert (info.unusable, info.set_aside) == ([first.name], [aside.name])
    assert info.bytes == sum(path.stat().st_size for path in stocked.store_folder.glob("*.h5*"))
    assert capsys.readouterr().err == ""


def test_inspect_and_verify__no_store(workspace: Workspace) -> None:
    for look in (inspect, verify):
        with pytest.raises(MissingRows, match="no features yet"):
            look(workspace)
    assert not workspace.store_folder.exists()


def test_inspect_and_verify__damaged_description(stocked: Workspace) -> None:
    (stocked.store_folder / "store.json").write_text("{")
    for look in (inspect, verify):
        with pytest.raises(StoreError, match=r"store\.json: not a description of a feature store"):
            look(stocked)


def test_verify__whole_store(stocked: Workspace) -> None:
    before = stat_of(sorted(stocked.store_folder.iterdir()))
    report = verify(stocked)
    assert (report.shards, report.rows, report.damaged, report.missing) == (4, 8, {}, [])
    assert report.bytes == inspect(stocked).bytes
    assert stat_of(sorted(stocked.store_folder.iterdir())) == before


def test_verify__names_every_bad_file_with_its_reason(stocked: Workspace) -> None:
    flipped, cut, one, two = FeatureStore.open(stocked.store_folder).shards()
    data = bytearray(flipped.read_bytes())
    data[30_000] ^= 16
    flipped.write_bytes(data)
    os.truncate(cut, 70_000)
    aside = one.rename(one.with_suffix(".x"))
    two.rename(one)
    aside.rename(two)
    report = verify(stocked)
    assert set(report.damaged) == {path.name for path in (flipped, cut, one, two)}
    for path in (flipped, one, two):
        assert report.damaged[path.name] == "damaged: its bytes do not hash to its name"
    assert report.damaged[cut.name] == "no usable shard (damaged or cut short)"
    assert report.rows == 0


def test_verify__missing_shard_is_told_by_the_images_that_it_had(stocked: Workspace) -> None:
    store = FeatureStore.open(stocked.store_folder)
    (path,) = store._catalogue().sought([key_of(0)])
    path.unlink()
    report = verify(stocked)
    assert report.damaged == {}
    assert report.missing == ["0000.png", "0001.png", "0002.png"]


def test_verify__images_that_were_never_extracted_are_not_missing(stocked: Workspace) -> None:
    list_images(stocked, range(9))
    assert verify(stocked).missing == []


def test_inspect_and_verify__while_another_process_writes(stocked: Workspace) -> None:
    with locked(stocked.store_folder):
        assert verify(stocked).damaged == {}
        assert inspect(stocked).rows == 8
