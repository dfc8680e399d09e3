"""`pipeline doctor` on weights and on the machine."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline.features import oxford
from pipeline.params import ExtractParams
from pipeline.results.doctor import machine
from pipeline.results.doctor.check import Check
from pipeline.results.doctor.state import weights
from tests.results.checks import by_name

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
