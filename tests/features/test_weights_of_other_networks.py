"""Files with the weights of other networks than VGG16."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from pipeline.errors import WeightsError
from pipeline.features.weights import load_weights, resolve_weights
from tests.features.checkpoint_files import _Code, old, tensors, whole_network

__all__ = ["old", "tensors"]  # fixtures

Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def resnet18() -> Tensors:
    """A state dict of torchvision's whole ``resnet18``, its values those of ``random``."""
    from torchvision import models

    values = load_weights(resolve_weights("random", Path(), "resnet18"))
    whole: Tensors = models.resnet18().state_dict()
    return whole | {key: torch.from_numpy(value) for key, value in values.items()}


def test_other__every_container_is_the_same_identity(tmp_path: Path, resnet18: Tensors) -> None:
    torch.save(resnet18, tmp_path / "whole.pth")
    save_file(resnet18, tmp_path / "whole.safetensors")
    bare = {key: value for key, value in resnet18.items() if not key.startswith("fc.")}
    old = {key: value for key, value in bare.items() if not key.endswith("num_batches_tracked")}
    torch.save(old, tmp_path / "old.pt")  # from before torch counted batches
    random = resolve_weights("random", Path(), "resnet18")
    assert len(load_weights(random)) == len(old)
    for path in sorted(tmp_path.iterdir()):
        weights = resolve_weights(path.name, tmp_path, "resnet18")
        assert (weights.sha256, weights.backbone) == (random.sha256, "resnet18"), path
        for key, value in load_weights(weights).items():
            np.testing.assert_array_equal(value, resnet18[key].numpy())


@pytest.mark.parametrize("key", ["bn1.running_var", "layer4.1.conv2.weight"])
def test_other__one_changed_number_is_another_identity(tmp_path: Path, resnet18: Tensors, key: str) -> None:
    changed = resnet18[key].clone()
    changed.view(-1)[-1] += 1
    save_file(resnet18 | {key: changed, "fc.bias": torch.ones(1000)}, tmp_path / "a.safetensors")
    save_file(resnet18 | {"fc.bias": torch.ones(1000)}, tmp_path / "head.safetensors")
    expected = resolve_weights("random", Path(), "resnet18").sha256
    assert resolve_weights("head.safetensors", tmp_path, "resnet18").sha256 == expected
    assert resolve_weights("a.safetensors", tmp_path, "resnet18").sha256 != expected


@pytest.mark.parametrize(
    ("backbone", "message"),
    [
        (
            "resnet18",
            "w.pth lacks a float tensor conv1.weight of shape (64, 3, 7, 7): expected the keys of "
            "torchvision's resnet18.",
        ),
        ("vgg11_bn", "lacks a float tensor features.1.weight of shape (64,)"),
    ],
)
def test_other__a_file_of_vgg16(tmp_path: Path, tensors: Tensors, backbone: str, message: str) -> None:
    torch.save(whole_network(tensors), tmp_path / "w.pth")
    with pytest.raises(WeightsError) as caught:
        resolve_weights("w.pth", tmp_path, backbone)
    assert message in str(caught.value)


def test_other__a_file_of_a_larger_network_of_the_family(tmp_path: Path, resnet18: Tensors) -> None:
    """It has every key that is looked for, and in the right shape."""
    torch.save(resnet18 | {"layer1.2.conv1.weight": torch.zeros(64, 64, 3, 3)}, tmp_path / "w.pth")
    with pytest.raises(WeightsError) as caught:
        resolve_weights("w.pth", tmp_path, "resnet18")
    assert str(caught.value) == (
        f"extract.weights: {tmp_path / 'w.pth'} holds layer1.2.conv1.weight, which torchvision's resnet18 "
        f"has not. Set extract.backbone to the network that the file is of."
    )


def test_other__a_file_whose_digest_for_vgg16_is_known_is_read_anew(
    tmp_path: Path, old: None, tensors: Tensors, resnet18: Tensors
) -> None:
    save_file(whole_network(tensors) | resnet18, tmp_path / "both.safetensors")
    assert resolve_weights("both.safetensors", tmp_path).sha256 == resolve_weights("random", Path()).sha256
    with pytest.raises(
        WeightsError, match=r"holds classifier\.0\.weight, which torchvision's resnet18 has not"
    ):
        resolve_weights("both.safetensors", tmp_path, "resnet18")


def test_other__code_in_a_checkpoint_is_not_run(tmp_path: Path, cache_home: Path, resnet18: Tensors) -> None:
    torch.save(resnet18 | {"extra": _Code()}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="cannot be read as plain tensors"):
        resolve_weights("w.pth", tmp_path, "resnet18")
    assert not (cache_home / "code-ran").exists()


def test_other__oxford_is_unknown_there(tmp_path: Path) -> None:
    with pytest.raises(WeightsError) as caught:
        resolve_weights("oxford", tmp_path, "resnet50")
    assert str(caught.value) == (
        "extract.weights: 'oxford' is unknown. Set extract.weights to DEFAULT, IMAGENET1K_V1, IMAGENET1K_V2 "
        "(from torchvision), or to the path of a .pth or .safetensors file with the keys of torchvision's "
        "resnet50; or extract.backbone to vgg16, whose weights are on the package index."
    )
