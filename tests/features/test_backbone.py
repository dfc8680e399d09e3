from __future__ import annotations

import importlib.util
import platform
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline import gpu
from pipeline.errors import DeviceError
from pipeline.features import openvino_backbone, torch_backbone
from pipeline.features.backbone import open_backbone
from pipeline.features.weights import Weights
from tests.features.conftest import python_path
from tests.features.networks import needs_openvino

WEIGHTS = Weights("w.pth", "ef" * 32, (0.0,) * 3, (1.0,) * 3, None)
NETWORK = Path("quantised.safetensors")


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What was set up, in place of setting it up: on an x86 machine with OpenVINO and no GPU."""
    calls: list[tuple[Any, ...]] = []
    monkeypatch.setattr(
        torch_backbone,
        "TorchBackbone",
        lambda weights, precision, device, storage: calls.append(("torch", device)),
    )
    monkeypatch.setattr(
        openvino_backbone,
        "OpenVinoBackbone",
        lambda weights, precision, quantised, threads: calls.append(("openvino", precision, quantised)),
    )
    monkeypatch.setattr(torch_backbone, "choose_device", lambda name: SimpleNamespace(type="cpu"))
    monkeypatch.setattr(gpu, "_FILES", ())
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    return calls


@pytest.mark.parametrize("precision", ["half", "float32"])
@pytest.mark.parametrize("device", ["auto", "cpu"])
def test_auto__openvino_on_a_cpu(opened: list[Any], precision: str, device: str) -> None:
    open_backbone(WEIGHTS, precision, device=device)
    assert opened == [("openvino", precision, None)]


def test_auto__a_quantised_network_of_no_account_for_other_precisions(opened: list[Any]) -> None:
    open_backbone(WEIGHTS, "half", quantised=NETWORK)
    assert opened == [("openvino", "half", None)]


def test_auto__torch_where_openvino_is_not_installed(
    opened: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    open_backbone(WEIGHTS, "half")
    assert opened[0][0] == "torch"


def test_auto__torch_where_openvino_was_not_measured(
    opened: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "arm64")
    open_backbone(WEIGHTS, "half")
    assert opened[0][0] == "torch"


@pytest.mark.parametrize(("found", "expected"), [("cuda", "torch"), ("cpu", "openvino")])
def test_auto__torch_is_asked_where_there_may_be_a_gpu(
    opened: list[Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, found: str, expected: str
) -> None:
    monkeypatch.setattr(gpu, "_FILES", ("/nowhere", str(tmp_path)))
    monkeypatch.setattr(torch_backbone, "choose_device", lambda name: SimpleNamespace(type=found))
    open_backbone(WEIGHTS, "half")
    assert opened[0][0] == expected


def test_auto__torch_for_a_gpu_by_name(opened: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_backbone, "choose_device", lambda name: SimpleNamespace(type=name))
    open_backbone(WEIGHTS, "half", device="cuda")
    assert opened == [("torch", SimpleNamespace(type="cuda"))]


def test_backend__as_it_is_named(opened: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    open_backbone(WEIGHTS, "half", backend="torch")
    monkeypatch.setattr(platform, "machine", lambda: "arm64")
    open_backbone(WEIGHTS, "float32", backend="openvino")
    assert [call[0] for call in opened] == ["torch", "openvino"]


def test_int8__openvino_whatever_the_machine(opened: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "arm64")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(gpu, "_FILES", ("/",))
    open_backbone(WEIGHTS, "int8", quantised=NETWORK)
    assert opened == [("openvino", "int8", NETWORK)]


@pytest.mark.parametrize(
    ("precision", "options", "message"),
    [
        (
            "int8",
            {"device": "cuda"},
            "--device cuda: extract.precision is int8, which only OpenVINO computes, on a CPU. "
            "Leave --device out.",
        ),
        (
            "int8",
            {"backend": "torch"},
            "--backend torch: extract.precision is int8, which only OpenVINO computes, on a CPU. "
            "Leave --backend out, or set extract.precision to half.",
        ),
        (
            "half",
            {"backend": "openvino", "device": "mps"},
            "--device mps: --backend openvino runs on a CPU. Leave --device out.",
        ),
    ],
)
def test_what_does_not_go_together(precision: str, options: dict[str, str], message: str) -> None:
    with pytest.raises(DeviceError) as caught:
        open_backbone(WEIGHTS, precision, quantised=NETWORK, **options)  # type: ignore[arg-type]
    assert str(caught.value) == message


def test_int8__without_a_network() -> None:
    with pytest.raises(ValueError, match="needs a quantised network"):
        open_backbone(WEIGHTS, "int8")


@pytest.mark.parametrize("precision", ["half", "int8"])
def test_openvino__cannot_be_imported(monkeypatch: pytest.MonkeyPatch, precision: str) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(DeviceError) as caught:
        open_backbone(WEIGHTS, precision, backend="openvino", quantised=NETWORK)
    message = str(caught.value)
    assert message.startswith("OpenVINO cannot be imported (")
    assert "pip install 'feature-cache-pipeline[openvino]', or in a checkout pip install" in message


def test_backbone__is_imported_without_what_may_run_it() -> None:
    code = "import sys, pipeline.features.backbone; print(sys.modules.keys() & {'torch', 'openvino'})"
    found = subprocess.run([sys.executable, "-c", code], env=python_path(), capture_output=True, check=True)
    assert found.stdout == b"set()\n"


@needs_openvino
@pytest.mark.skipif(platform.machine() != "x86_64", reason="auto takes torch on other processors")
def test_auto__really_opens_openvino(monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline.features.weights import resolve_weights

    opened = open_backbone(resolve_weights("random", Path()), "half", device="cpu")
    assert opened.made_with["backend"] == "openvino"
    assert opened.batch_size > 0
