"""The weights that torchvision publishes for networks other than VGG16; of VGG16 see `test_weights`."""

from __future__ import annotations

import urllib.error
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.models import ResNet18_Weights, ResNet50_Weights, get_model_weights

from pipeline.errors import WeightsError
from pipeline.features.checkpoints import published
from pipeline.features.weights import load_weights, resolve_weights


@pytest.fixture
def torch_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where torchvision keeps what it has downloaded; nothing can be downloaded now."""

    def unreachable(*_: object, **__: object) -> None:
        raise urllib.error.URLError("Network is unreachable")

    monkeypatch.setattr("torch.hub.urlopen", unreachable)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path / "torch"


@pytest.mark.parametrize("name", ["DEFAULT", "IMAGENET1K_V1", "IMAGENET1K_V2"])
def test_published__as_torchvision_names_them(name: str, torch_home: Path) -> None:
    found, member = published("resnet50", name), ResNet50_Weights[name]
    assert found is not None
    assert (
        found.file.parent == torch_home / "hub" / "checkpoints" == Path(torch.hub.get_dir()) / "checkpoints"
    )
    assert member.url.endswith(f"/{found.file.name}")
    preset = member.transforms()
    np.testing.assert_array_equal((found.mean, found.std), (preset.mean, preset.std))


def test_published__normalisation_is_that_of_the_weights() -> None:
    found = published("efficientnet_v2_l", "DEFAULT")
    assert found is not None
    assert (found.mean, found.std) == ((0.5,) * 3, (0.5,) * 3)


@pytest.mark.parametrize("name", ["IMAGENET1K_V3", "default", "w.pth", "random", "oxford", "_member_map_"])
def test_published__no_name_of_torchvisions(name: str) -> None:
    assert published("resnet50", name) is None


def test_published__not_those_for_images_of_another_size() -> None:
    assert {member.name for member in get_model_weights("vit_h_14")} == {
        "IMAGENET1K_SWAG_E2E_V1", "IMAGENET1K_SWAG_LINEAR_V1",
    }  # fmt: skip
    assert published("vit_h_14", "IMAGENET1K_SWAG_LINEAR_V1") is not None
    for name in ("IMAGENET1K_SWAG_E2E_V1", "DEFAULT"):  # of 518 pixels
        with pytest.raises(WeightsError, match=rf"'{name}' is unknown\. .* to IMAGENET1K_SWAG_LINEAR_V1 \("):
            resolve_weights(name, Path(), "vit_h_14")


def test_resolve__taken_from_torch_home(torch_home: Path) -> None:
    random = resolve_weights("random", Path(), "resnet18")
    file = torch_home / "hub" / "checkpoints" / ResNet18_Weights.DEFAULT.url.rpartition("/")[2]
    file.parent.mkdir(parents=True)
    torch.save({key: torch.from_numpy(value) for key, value in load_weights(random).items()}, file)
    weights = resolve_weights("DEFAULT", Path(), "resnet18")
    assert (weights.name, weights.file, weights.sha256) == ("DEFAULT", file, random.sha256)
    assert weights.backbone == "resnet18"


def test_resolve__no_network(torch_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(WeightsError) as caught:
        resolve_weights("IMAGENET1K_V2", Path(), "resnet50")
    message = str(caught.value)
    assert f"extract.weights: IMAGENET1K_V2 is not in {torch_home} and cannot be downloaded" in message
    assert "Network is unreachable" in message
    assert "the path of a .pth or .safetensors file with the keys of torchvision's resnet50" in message
    assert "or extract.backbone to vgg16, whose weights are on the package index" in message
    assert "\n" not in message
    said = capsys.readouterr().err
    assert f"fetching torchvision's ResNet50 weights IMAGENET1K_V2 into {torch_home}" in said
    assert "torchvision scores them with extract.resize 232 and extract.image_size 224" in said
    assert not list(torch_home.rglob("*.pth"))
