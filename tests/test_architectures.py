"""The table of networks, against torchvision's own definitions and descriptions."""

from __future__ import annotations

import pytest
import torch
from torchvision import models

from pipeline.architectures import ARCHITECTURES, VGG16, architecture_of
from pipeline.errors import ParamsError

RESTLESS = tuple(name for name in ARCHITECTURES if name.startswith("regnet"))  # cannot be made on meta


def test_table__is_all_that_torchvision_lists_but_the_squeezenets() -> None:
    listed = set(models.list_models(module=models))
    assert set(ARCHITECTURES) == {name for name in listed if not name.startswith("squeezenet")}
    assert all(name == architecture.name for name, architecture in ARCHITECTURES.items())


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_table__sizes_are_those_that_torchvision_publishes(name: str) -> None:
    sizes = {member.meta["min_size"][0] for member in models.get_model_weights(name)}
    architecture = architecture_of(name)
    assert architecture.smallest == max(32, min(sizes))
    # where torchvision's weights ask for several sizes, a network is made for one of them
    assert architecture.only_smallest or len(sizes) == 1


def last_linear(name: str) -> tuple[str, int]:
    """Name and inputs of the last linear layer, found in torchvision's whole network."""
    options = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    with torch.device("cpu" if name in RESTLESS else "meta"):
        network = models.get_model(name, weights=None, **options)
    linear = [(key, each) for key, each in network.named_modules() if isinstance(each, torch.nn.Linear)]
    return linear[-1][0], linear[-1][1].in_features


FEW = ["resnet18", "alexnet", "convnext_tiny", "mobilenet_v3_small", "inception_v3", "maxvit_t", "vit_b_32"]
FEW += ["densenet121", "regnet_y_400mf", "swin_t", "efficientnet_b0"]
HUGE = ("regnet_y_128gf", "regnet_y_32gf")  # gigabytes off the meta device; `num_params` tells of them
REST = [name for name in ARCHITECTURES if name not in (*FEW, *HUGE, VGG16)]


@pytest.mark.parametrize("name", [*FEW, *(pytest.param(each, marks=pytest.mark.slow) for each in REST)])
def test_table__features_are_what_goes_into_the_last_layer(name: str) -> None:
    architecture = architecture_of(name)
    assert (architecture.replaced, architecture.dimension) == last_linear(name)
    assert architecture.layer == f"input of {architecture.replaced}"


def test_vgg16__is_cut_before_its_classifier() -> None:
    vgg16 = architecture_of(VGG16)
    assert (vgg16.layer, vgg16.dimension) == ("avgpool.flatten", 25_088)
    with torch.device("meta"):
        network = models.vgg16()
    assert network.classifier[0].in_features == vgg16.dimension


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("resnet5", "such as resnet50, convnext_tiny or vit_b_16, found 'resnet5'. Did you mean 'resnet50'?"),
        ("VGG16", "found 'VGG16'. Did you mean 'vgg16'?"),
        ("x", "extract.backbone: expected vgg16 or another of torchvision's classifiers, such as"),
        (
            "squeezenet1_1",
            "extract.backbone: squeezenet1_1 ends in a convolution, so that there is no linear",
        ),
        ("fasterrcnn_resnet50_fpn", "extract.backbone: expected vgg16 or another of torchvision's"),
    ],
)
def test_architecture_of__unknown(name: str, said: str) -> None:
    with pytest.raises(ParamsError) as caught:
        architecture_of(name)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
