from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import time
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.edit_params import write_params
from pipeline.features.store import FeatureStore, locked
from pipeline.results.doctor.check import Check
from pipeline.results.doctor.doctor import doctor
from pipeline.workspace import Workspace
from tests.commands.conftest import tree

Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def workspace(workspace: Workspace, tmp_path: Path) -> Workspace:
    """All is well in it, but that the weights are random; beside it the (empty) folder of its images."""
    (tmp_path / "photos").mkdir()
    write_params(workspace.params_file, {"dataset": {"source": "../photos"}})
    return workspace


def found(workspace: Workspace) -> dict[str, Check]:
    checks = doctor(workspace.root)
    by_name = {check.name: check for check in checks}
    assert len(by_name) == len(checks)
    assert all(check.found for check in checks)
    assert all(bool(check.remedy) == (check.status != "ok") for check in checks)
    return by_name


def test_doctor__all_is_well(workspace: Workspace) -> None:
    before = tree(workspace.root)
    checks = found(workspace)
    of_workspace = list(checks)[list(checks).index("workspace") :]
    assert of_workspace == [
        *("workspace", "params.yaml", "images", "source", "backend", "weights", "features"),
        *("disk", "store lock", "leftovers"),
    ]
    assert {name for name in of_workspace if checks[name].status != "ok"} == {"images", "weights"}
    assert checks["images"].found == (
        "60 images of 3 classes (36 train, 12 val, 12 test); 1 other is not used"
    )
    assert checks["features"].found == (
        "60 rows in 2 shards, 3.0 MB; `pipeline store verify` looks at every byte"
    )
    assert checks["workspace"] == Check("workspace", "ok", f"{workspace.root} can be written")
    assert checks["store lock"] == Check("store lock", "ok", "free")
    assert tree(workspace.root) == before


def test_doctor__folders_that_cannot_be_written(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = workspace.models_folder
    models.mkdir()
    access = os.access  # who is root may write everywhere, so permissions alone would show nothing
    closed = {workspace.root / "cache", models, workspace.root / "reports"}  # there are no reports yet
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) not in closed and access(path, mode))
    check = found(workspace)["workspace"]
    assert check.status == "fail"
    assert check.found == f"{workspace.root / 'cache'}, {models} cannot be written"
    assert "--root DIR" in check.remedy


def test_doctor__parameters_that_are_wrong_leave_the_rest_to_be_looked_at(workspace: Workspace) -> None:
    workspace.params_file.write_text("hesds: {}\n")
    checks = found(workspace)
    assert checks["params.yaml"].status == "fail"
    assert "hesds: unknown key" in checks["params.yaml"].found
    assert "features" not in checks
    assert checks["images"].found.startswith("60 images")
    assert checks["store lock"].status == "ok"


def test_doctor__a_manifest_that_is_damaged(workspace: Workspace) -> None:
    workspace.manifest_file.write_text("path,label\n")
    checks = found(workspace)
    assert (checks["images"].status, checks["features"].status) == ("fail", "fail")
    assert "expected the header" in checks["images"].found
    assert "pipeline prepare --resplit" in checks["images"].remedy


def test_doctor__nothing_done_yet(workspace: Workspace) -> None:
    shutil.rmtree(workspace.root / "cache")
    shutil.rmtree(workspace.root / "data")
    checks = found(workspace)
    assert checks["images"] == Check("images", "warn", "no manifest yet", "pipeline prepare")
    assert checks["features"] == Check("features", "warn", "none yet", "pipeline extract")
    assert not (workspace.root / "cache").exists()


@pytest.mark.parametrize(
    ("source", "status", "words"),
    [
        ("../gone", "warn", "pipeline prepare --source DIR"),
        ("digits", "warn", "pipeline prepare, which unpacks it"),
        ("../some.zip", "warn", "pipeline prepare, which unpacks it"),
        ("~nobody-of-that-name/x", "fail", "Write the path in full"),
    ],
)
def test_doctor__source(workspace: Workspace, source: str, status: str, words: str) -> None:
    text = workspace.params_file.read_text().replace("../photos", source)
    workspace.params_file.write_text(text)
    check = found(workspace)["source"]
    assert check.status == status
    assert words in check.remedy


def test_doctor__images_without_features(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    store = FeatureStore.open(workspace.store_folder)
    lost = len(store.format.contents(store.shards()[0]).keys)
    store.shards()[0].unlink()
    checks = found(workspace)
    assert checks["features"].status == "warn"
    assert checks["features"].found.endswith(f"; {lost} images without features")
    assert checks["features"].remedy == "pipeline extract"
    needed = lost * 25088 * 2
    for free, status in ((needed - 1, "fail"), (needed + 10**9 - 1, "warn"), (needed + 10**9, "ok")):
        monkeypatch.setattr(shutil, "disk_usage", lambda _, free=free: Usage(10**12, 0, free))
        disk = found(workspace)["disk"]
        assert disk.status == status
        assert "the features that are missing take 1.5 MB" in disk.found


def test_doctor__files_that_are_no_shards(workspace: Workspace) -> None:
    shard = next(workspace.store_folder.glob("*.h5"))
    data = shard.read_bytes()
    shard.write_bytes(data[:1000])
    checks = found(workspace)
    assert checks["features"].status == "fail"
    assert "; 1 file cannot be read" in checks["features"].found
    shard.write_bytes(data)
    shard.with_name(f"{shard.name}.damaged").write_bytes(b"x")
    checks = found(workspace)
    assert checks["features"].status == "warn"
    assert "; 1 damaged file set aside" in checks["features"].found


def test_doctor__features_of_another_extractor(workspace: Workspace) -> None:
    write_params(workspace.params_file, {"extract.precision": "float32"})
    check = found(workspace)["features"]
    assert check.status == "fail"
    assert "precision half against float32" in check.found
    assert "pipeline extract --fresh" in check.remedy


def test_doctor__index_of_other_images(workspace: Workspace) -> None:
    workspace.index_file.unlink()
    check = found(workspace)["features"]
    assert check.status == "warn"
    assert check.found.endswith("; cache/index.json is not of these images")


def test_doctor__description_that_is_damaged(workspace: Workspace) -> None:
    (workspace.store_folder / "store.json").write_text("[]")
    check = found(workspace)["features"]
    assert check.status == "fail"
    assert "not a description of a feature store" in check.found


@pytest.fixture
def writer(workspace: Workspace) -> Iterator[int]:
    """Number of another process that holds the store."""
    code = f"""
import time
from pathlib import Path
from pipeline.features.store import FeatureStore, locked
with locked(Path({str(workspace.store_folder)!r})):
    print("held", flush=True)
    time.sleep(60)
"""
    path = os.pathsep.join(entry for entry in sys.path if entry)
    with subprocess.Popen(
        [sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": path}, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        yield process.pid
        process.kill()


def test_doctor__a_store_that_is_being_written(workspace: Workspace, writer: int) -> None:
    check = found(workspace)["store lock"]
    assert check.status == "warn"
    assert check.found.startswith(f"held by process {writer} on ")


def test_doctor__a_lock_that_nobody_holds_any_more(workspace: Workspace) -> None:
    with locked(workspace.store_folder):
        pass
    assert found(workspace)["store lock"].status == "ok"
    with locked(workspace.store_folder):  # the doctor has not kept it
        assert found(workspace)["store lock"].status == "warn"


def test_doctor__half_written_files_of_killed_runs(workspace: Workspace) -> None:
    for name in ("cache/features/.a.h5.12ab.tmp", "models/.knn.12ab.tmp", "cache/.matrix.12ab.tmp"):
        path = workspace.root / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x")
    assert found(workspace)["leftovers"].status == "ok"  # they are being written
    long_ago = time.time() - 7200
    for path in workspace.root.rglob(".*.tmp"):
        os.utime(path, (long_ago, long_ago))
    check = found(workspace)["leftovers"]
    assert check.status == "warn"
    assert check.found == ("3 half-written files of killed runs (first: cache/.matrix.12ab.tmp)")
    with (workspace.root / "cache" / ".matrix.12ab.tmp").open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # a training of more than an hour
        assert found(workspace)["leftovers"].found.startswith("2 half-written files")
