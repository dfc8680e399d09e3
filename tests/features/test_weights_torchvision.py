"""Torchvision's own weights, and the memory of digests."""

from __future__ import annotations

import os
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from pipeline.errors import WeightsError
from pipeline.features import checkpoints
from pipeline.features import weights as weights_module
from pipeline.features.weights import resolve_weights
from pipeline.params import ExtractParams
from tests.features.checkpoint_files import old, tensors, whole_network
from tests.features.conftest import python_path

__all__ = ["old", "tensors"]  # fixtures

Tensors = dict[str, torch.Tensor]


# The memory of digests


@pytest.mark.usefixtures("old")
def test_digest__remembered_until_the_file_changes(
    tmp_path: Path, tensors: Tensors, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = []
    read = weights_module._read

    def counted(file: Path, backbone: str) -> Any:
        reads.append(file)
        return read(file, backbone)

    monkeypatch.setattr(weights_module, "_read", counted)
    file = tmp_path / "a.safetensors"
    save_file(tensors, file)
    first = resolve_weights(file.name, tmp_path).sha256
    assert resolve_weights(file.name, tmp_path).sha256 == first
    assert len(reads) == 1
    save_file({**tensors, "0.bias": torch.ones(64)}, tmp_path / "b.safetensors")
    status = file.stat()
    (tmp_path / "b.safetensors").replace(file)  # same size, and time put back
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert resolve_weights(file.name, tmp_path).sha256 != first
    assert len(reads) == 2


def test_digest__a_young_file_is_not_remembered(tmp_path: Path, tensors: Tensors, cache_home: Path) -> None:
    save_file(tensors, tmp_path / "a.safetensors")
    resolve_weights("a.safetensors", tmp_path)
    memory = cache_home / "feature-cache-pipeline" / "weights-seen.json"
    assert not memory.exists()


@pytest.mark.usefixtures("old")
def test_digest__memory_that_cannot_be_written_costs_time_only(
    tmp_path: Path, tensors: Tensors, cache_home: Path
) -> None:
    (cache_home / "feature-cache-pipeline").write_text("a file where the folder should be")
    save_file(tensors, tmp_path / "a.safetensors")
    for _ in range(2):
        assert resolve_weights("a.safetensors", tmp_path).sha256 == resolve_weights("random", Path()).sha256


@pytest.mark.usefixtures("old")
def test_digest__second_look_does_not_import_torch(tmp_path: Path, tensors: Tensors) -> None:
    save_file(tensors, tmp_path / "a.safetensors")
    expected = resolve_weights("a.safetensors", tmp_path).sha256
    code = (
        "import sys; from pathlib import Path\n"
        "from pipeline.features.weights import resolve_weights\n"
        f"print(resolve_weights('a.safetensors', Path({str(tmp_path)!r})).sha256, 'torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=python_path(), check=True
    )
    assert done.stdout.split() == [expected, "False"]


# Torchvision's own


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise urllib.error.URLError("Network is unreachable")

    monkeypatch.setattr(urllib.request, "urlopen", unreachable)
    monkeypatch.setattr("torch.hub.urlopen", unreachable)


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("name", ["IMAGENET1K_V1", "IMAGENET1K_FEATURES"])
def test_torchvision__no_network(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    with pytest.raises(WeightsError) as caught:
        resolve_weights(name, tmp_path)
    message = str(caught.value)
    assert f"extract.weights: {name} is not in {tmp_path / 'torch'} and cannot be downloaded" in message
    assert "Network is unreachable" in message
    assert "`oxford` (from the package index)" in message
    assert "\n" not in message
    assert f"fetching torchvision's VGG16 weights {name}" in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.pth"))


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("variable", ["TORCH_HOME", "XDG_CACHE_HOME"])
def test_torchvision__taken_from_torch_home(
    variable: str, tmp_path: Path, tensors: Tensors, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, str(tmp_path))
    home = tmp_path if variable == "TORCH_HOME" else tmp_path / "torch"
    file = home / "hub" / "checkpoints" / "vgg16_features-amdegroot-88682ab5.pth"
    file.parent.mkdir(parents=True)
    torch.save(whole_network(tensors), file)
    assert torch.hub.get_dir() == str(home / "hub")
    weights = resolve_weights("IMAGENET1K_FEATURES", tmp_path)
    assert weights.file == file
    assert weights.sha256 == resolve_weights("random", tmp_path).sha256


def test_torchvision__names_and_normalisation_are_torchvisions() -> None:
    from torchvision.models import VGG16_Weights

    assert set(checkpoints._VGG16) == {member.name for member in VGG16_Weights}
    for name, (checkpoint, mean, std) in checkpoints._VGG16.items():
        published = VGG16_Weights[name]
        assert published.url.endswith("/" + checkpoint)
        preset = published.transforms()
        np.testing.assert_allclose(mean, preset.mean, atol=1e-7)
        np.testing.assert_allclose(std, preset.std, rtol=1e-6)
        assert preset.resize_size == [ExtractParams.resize]
        assert preset.crop_size == [ExtractParams.image_size]
        assert preset.antialias
        assert preset.interpolation.value == "bilinear"
