from __future__ import annotations

import fcntl
import importlib.util
import os
import shutil
import subprocess
import sys
import time
from collections import namedtuple
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline.dataset.manifest import ImageRow
from pipeline.edit_params import write_params
from pipeline.features import oxford
from pipeline.features.store import FeatureStore, locked
from pipeline.params import ExtractParams
from pipeline.results.doctor import machine, packages
from pipeline.results.doctor.check import Check
from pipeline.results.doctor.doctor import doctor
from pipeline.results.doctor.state import weights
from pipeline.workspace import Workspace
from tests.commands.conftest import tree

Change = Callable[[Callable[[ImageRow], ImageRow]], None]
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


# --- a workspace


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


# --- weights


@pytest.mark.parametrize("name", ["oxford", "IMAGENET1K_V1"])
def test_weights__absent_or_there(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("TORCH_HOME", raising=False)
    check = weights(ExtractParams(weights=name), tmp_path)
    assert check.status == "warn"
    assert list(tmp_path.iterdir()) == []
    checkpoints = tmp_path / "torch" / "hub" / "checkpoints" / "vgg16-397923af.pth"
    file = oxford.weights_file() if name == "oxford" else checkpoints
    assert check.found == f"{name}: {file} is not there yet"
    assert "pipeline extract fetches them" in check.remedy
    file.parent.mkdir(parents=True)
    file.write_bytes(b"x")
    assert weights(ExtractParams(weights=name), tmp_path) == Check("weights", "ok", f"{name}: {file}")


@pytest.mark.parametrize("name", ["mine.pth", "~nobody-of-that-name/mine.pth", "oxfrod"])
def test_weights__of_ones_own(name: str, tmp_path: Path) -> None:
    check = weights(ExtractParams(weights=name), tmp_path)
    assert check.status == "fail"
    assert "Set extract.weights to" in check.remedy
    (tmp_path / "mine.pth").write_bytes(b"x")
    if name == "mine.pth":
        assert weights(ExtractParams(weights=name), tmp_path).status == "ok"


# --- the machine


def by_name() -> dict[str, Check]:
    return {check.name: check for check in packages.packages()}


def test_packages__are_those_of_the_distribution() -> None:
    checks = by_name()
    assert checks["packages"].status == "ok"
    assert f"torch {metadata.version('torch')}" in checks["packages"].found
    extras = set(metadata.metadata("feature-cache-pipeline").get_all("Provides-Extra") or []) - {"dev"}
    assert set(checks) == {"packages", *(f"extra {extra}" for extra in extras)}


def test_packages__too_old_or_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    real = metadata.version

    def version(name: str) -> str:
        if name in ("h5py", "vl-convert-python"):
            raise metadata.PackageNotFoundError(name)
        return {"torch": "2.9.1+cpu"}.get(name) or real(name)

    monkeypatch.setattr(metadata, "version", version)
    checks = by_name()
    assert checks["packages"].status == "fail"
    assert checks["packages"].found == "h5py is not installed, torch is 2.9.1+cpu, below 2.14"
    assert checks["extra report"].status == "warn"
    assert checks["extra report"].found == "vl-convert-python is not installed"
    assert "'feature-cache-pipeline[report]'" in checks["extra report"].remedy


@pytest.mark.parametrize(
    ("requirement", "installed", "status"),
    [
        ("thing>=1.10", "1.9", "fail"),
        ("thing>=1.10", "1.10.0rc1", "ok"),
        ("thing>=2", "2", "ok"),
        ("thing[part]>=2; python_version < '4'", "1", "fail"),
        ("thing", "0", "ok"),
    ],
)
def test_packages__versions_are_compared_by_number(
    monkeypatch: pytest.MonkeyPatch, requirement: str, installed: str, status: str
) -> None:
    monkeypatch.setattr(metadata, "requires", lambda name: [requirement])
    monkeypatch.setattr(metadata, "version", lambda name: installed)
    assert by_name()["packages"].status == status


def test_packages__of_a_checkout_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> list[str]:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "requires", absent)
    assert by_name()["packages"].status == "fail"


def test_device__cpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(machine, "chosen_device", lambda device: "cpu")
    monkeypatch.setattr(machine, "_NVIDIA", str(tmp_path / "nvidiactl"))
    for native, words in ((True, "; native bfloat16"), (False, "half is computed in float32")):
        monkeypatch.setattr(machine, "_cpu_has_bfloat16", lambda native=native: native)
        check = machine.device()
        assert check.status == "ok"
        assert check.found.startswith("cpu: ")
        assert check.found.endswith(words)
    (tmp_path / "nvidiactl").touch()
    check = machine.device()
    assert check.status == "warn"
    assert "torch cannot use the NVIDIA GPU" in check.found


def test_device__bfloat16_of_the_cpu_is_what_torch_says() -> None:
    torch = pytest.importorskip("torch")
    capabilities = torch.cpu.get_capabilities()
    assert machine._cpu_has_bfloat16() == any(
        capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16")
    )


def test_device__cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = SimpleNamespace(
        device_count=lambda: 2,
        get_device_name=lambda number: f"GPU {number}",
        is_bf16_supported=lambda including_emulation: False,
    )
    monkeypatch.setattr(machine, "chosen_device", lambda device: "cuda")
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    assert machine.device().found == "cuda: GPU 0, GPU 1; no native bfloat16: half is computed in float16"


def test_backend__is_the_one_that_auto_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    usual = ExtractParams()
    monkeypatch.setattr(machine, "chosen_device", lambda device: "cpu")
    for there in (True, False):
        monkeypatch.setattr(machine, "is_openvino_fast", lambda there=there: there)
        name = "openvino" if there and importlib.util.find_spec("openvino") else "torch"
        if there and name == "torch":
            continue
        assert machine.backend(usual) == Check("backend", "ok", f"{name} {metadata.version(name)}")
    monkeypatch.setattr(machine, "is_openvino_fast", lambda: True)
    monkeypatch.setattr(machine, "chosen_device", lambda device: "cuda")
    assert machine.backend(usual).found.startswith("torch ")


def test_backend__int8_needs_openvino(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", absent)
    check = machine.backend(replace(ExtractParams(), precision="int8"))
    assert check.status == "fail"
    assert "[openvino]" in check.remedy


def test_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    for free, status in ((1_999_999_999, "warn"), (2_000_000_000, "ok")):
        monkeypatch.setattr(machine, "free_memory", lambda free=free: free)
        assert machine.memory().status == status


def test_programs__are_to_be_found_by_a_shell(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "dvc").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    check = machine.programs()
    assert check.status == "warn"
    assert check.found.startswith("pipeline not on PATH")
    (tmp_path / "pipeline").touch(mode=0o755)
    assert machine.programs().found == f"{tmp_path}/dvc, {tmp_path}/pipeline"
