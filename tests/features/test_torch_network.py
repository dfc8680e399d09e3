"""Networks without their last layer, against torchvision's own forward pass and its own loaders."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torchvision import models
from torchvision.models.densenet import _load_state_dict
from torchvision.models.vision_transformer import MLPBlock

from pipeline.architectures import ARCHITECTURES, VGG16, architecture_of
from pipeline.errors import DeviceError
from pipeline.features.torch_backbone import TorchBackbone, load_network
from pipeline.features.torch_network import is_left_out, present_name, random_state, shapes_of, skeleton
from pipeline.features.weights import load_weights, resolve_weights
from tests.features.conftest import relative_errors
from tests.features.networks import cosines, some_pixels

#: Parameters of the output that only training needs, where torchvision counts them.
AUXILIARY = {"inception_v3": 3_326_696}

CPU = torch.device("cpu")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

#: One of each kind that is made or called in a way of its own.
KINDS = {"resnet18": 64, "mobilenet_v3_small": 64, "regnet_y_400mf": 32, "googlenet": 64}
SLOW_KINDS = {"densenet121": 32, "inception_v3": 80, "swin_t": 224, "vit_b_32": 224, "vgg11": 32}
FEW = ["resnet18", "googlenet", "inception_v3", "regnet_y_400mf", "swin_v2_t", "vit_b_32"]
REST = [name for name in ARCHITECTURES if name not in (*FEW, VGG16)]


@torch.inference_mode()
def what_goes_into_the_last_layer(name: str, state: Any, pixels: Any) -> Any:
    """Return what torchvision's whole network hands to its last layer."""
    options: dict[str, Any] = {}
    if name in ("googlenet", "inception_v3"):
        options = {"init_weights": False, "transform_input": True}  # as with weights of torchvision's
    network = models.get_model(name, weights=None, **options).eval()
    values = {key: torch.from_numpy(value) for key, value in state.items()}
    found = network.load_state_dict(network.state_dict() | values)
    assert not found.missing_keys
    last = [each for each in network.modules() if isinstance(each, torch.nn.Linear)][-1]
    caught: list[torch.Tensor] = []
    last.register_forward_pre_hook(lambda module, inputs: caught.append(inputs[0]))
    mean, std = (np.array(values, np.float32)[:, None, None] for values in (MEAN, STD))
    network(torch.from_numpy(((pixels / np.float32(255) - mean) / std).astype(np.float32)))
    return caught[-1].numpy()


@pytest.mark.parametrize(
    ("name", "size"),
    [*KINDS.items(), *(pytest.param(*each, marks=pytest.mark.slow) for each in SLOW_KINDS.items())],
)
def test_backbone__is_torchvisions_own_forward_pass(name: str, size: int) -> None:
    weights = resolve_weights("random", Path(), name)
    pixels = some_pixels(3, size)
    found = TorchBackbone(weights, "float32", CPU)(pixels)
    expected = what_goes_into_the_last_layer(name, load_weights(weights), pixels)
    assert found.shape == (3, architecture_of(name).dimension)
    assert found.dtype == np.float32
    assert relative_errors(found, expected).max() < 1e-4
    assert relative_errors(found[:1], expected[1:2]).max() > 1e-3  # images differ


def test_backbone__statistics_of_normalisations_count() -> None:
    """Evaluation mode, with the statistics of the file, and these are part of the digest."""
    weights = resolve_weights("random", Path(), "resnet18")
    state = load_weights(weights)
    random = np.random.default_rng(0)
    for key in [key for key in state if key.endswith("running_mean")]:
        state[key] = random.normal(0, 0.1, state[key].shape).astype(np.float32)
    pixels = some_pixels(3, 64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.features.torch_network.random_state", lambda backbone: state)
        other = resolve_weights("random", Path(), "resnet18")
        found = TorchBackbone(other, "float32", CPU)(pixels)
    assert other.sha256 != weights.sha256
    expected = what_goes_into_the_last_layer("resnet18", state, pixels)
    assert relative_errors(found, expected).max() < 1e-4
    assert relative_errors(TorchBackbone(weights, "float32", CPU)(pixels), expected).min() > 1e-2


def test_resnet18__batch_size_changes_no_bit_and_half_is_close() -> None:
    backbone = TorchBackbone(resolve_weights("random", Path(), "resnet18"), "float32", CPU)
    pixels = some_pixels(6, 64, seed=7)
    whole = backbone(pixels)
    for count in (1, 2, 5):
        assert np.array_equal(backbone(pixels[-count:]), whole[-count:])
    backbone._network.to(torch.bfloat16)
    backbone._dtype = torch.bfloat16
    assert cosines(backbone(pixels), whole).min() > 0.9999


def test_load_network__frozen_and_evaluated() -> None:
    network = load_network(resolve_weights("random", Path(), "resnet18"))
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert not any(module.training for module in network.modules())
    assert sum(parameter.numel() for parameter in network.parameters()) == 11_176_512  # 11,689,512 with fc


def test_random_state__is_always_the_same_and_disturbs_no_generator() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    one, two = random_state("resnet18"), random_state("resnet18")
    assert torch.equal(torch.get_rng_state(), before)
    assert one.keys() == two.keys() == shapes_of("resnet18").keys()
    assert all(np.array_equal(one[key], two[key]) for key in one)
    assert one["conv1.weight"].std() > 0.01


@pytest.mark.parametrize("name", [*FEW, *(pytest.param(each, marks=pytest.mark.slow) for each in REST)])
def test_skeleton__features_and_parameters(name: str) -> None:
    architecture = architecture_of(name)
    network = skeleton(name)
    parameters = list(network.parameters())
    count = sum(parameter.numel() for parameter in parameters)
    allocated = sum(parameter.numel() for parameter in parameters if not parameter.is_meta)
    assert allocated < 0.001 * count
    published = next(iter(models.get_model_weights(name)))
    last = architecture.dimension * 1000 + (0 if name == "maxvit_t" else 1000)  # maxvit's has no bias
    if published.meta["min_size"][0] <= architecture.smallest:
        assert count + last + AUXILIARY.get(name, 0) == published.meta["num_params"]
    size = architecture.smallest
    images = torch.empty(2, 3, size, size, device="meta")
    with torch.inference_mode():
        features = network.to("meta").eval()(images)
    assert features.shape == (2, architecture.dimension)
    values = skeleton(name).state_dict()
    assert {key for key in values if not is_left_out(name, key)} == shapes_of(name).keys()


def test_is_left_out__the_last_layer_and_what_only_training_needs() -> None:
    whole = models.inception_v3(init_weights=False).state_dict()
    left = {key for key in whole if is_left_out("inception_v3", key)}
    assert whole.keys() - left == shapes_of("inception_v3").keys()
    assert {key.split(".")[0] for key in left if "num_batches" not in key} == {"fc", "AuxLogits"}


def test_present_name__densenet_as_torchvisions_loader_translates_it() -> None:
    network = models.densenet121()
    present = network.state_dict()
    old = {
        re.sub(r"(denselayer\d+\.(?:norm|relu|conv))([12])", r"\1.\2", key): value
        for key, value in present.items()
        if not key.endswith("num_batches_tracked")
    }
    assert len(old.keys() - present.keys()) > 100
    loader = SimpleNamespace(get_state_dict=lambda **_: dict(old))
    _load_state_dict(network, loader, progress=False)  # would fail on names that it does not know
    assert {present_name(key) for key in old} == {k for k in present if not k.endswith("num_batches_tracked")}
    assert all(present_name(key) == key for key in present)


def test_present_name__vision_transformer_as_torchvisions_loader_translates_it() -> None:
    network = torch.nn.ModuleDict({"mlp": MLPBlock(4, 8, 0.0)})
    old = {f"mlp.linear_{n}.{kind}": torch.full(shape, float(n)) for n, kind, shape in (
        (1, "weight", (8, 4)), (1, "bias", (8,)), (2, "weight", (4, 8)), (2, "bias", (4,)),
    )}  # fmt: skip
    network.load_state_dict(dict(old))
    loaded = network.state_dict()
    for key, value in old.items():
        assert torch.equal(loaded[present_name(f"encoder.{key}").removeprefix("encoder.")], value)


def test_out_of_memory__a_device_too_small(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    weights = resolve_weights("random", Path(), "resnet18")
    monkeypatch.setattr(torch.nn.Module, "to", full)
    with pytest.raises(DeviceError, match=r"cpu has not the memory for the network"):
        TorchBackbone(weights, "float32", CPU)
