from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional
from torchvision.models import vgg16

from pipeline.errors import DeviceError
from pipeline.features.backbone import Backbone, choose_device, forward_dtype
from pipeline.features.weights import Weights, load_weights, resolve_weights
from tests.features.conftest import relative_errors

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def original() -> Any:
    """Torchvision's network, to be filled with the weights of a test."""
    return vgg16(weights=None, init_weights=False).eval()


@pytest.fixture(scope="module")
def random_weights() -> Weights:
    return resolve_weights("random", Path())


@pytest.fixture(scope="module")
def exact(random_weights: Weights) -> Backbone:
    return Backbone(random_weights, "float32", CPU)


@pytest.fixture(scope="module")
def fast(random_weights: Weights) -> Backbone:
    return Backbone(random_weights, "half", CPU)


def some_pixels(count: int, size: int = 32, seed: int = 0) -> torch.Tensor:
    coarse = torch.rand((count, 3, 6, 6), generator=torch.Generator().manual_seed(seed))
    smooth = functional.interpolate(coarse, (size, size), mode="bilinear")
    return (smooth * 255).to(torch.uint8)


@torch.inference_mode()
def direct_forward(network: Any, state: dict[str, Any], inputs: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Torchvision's own forward pass up to the classifier, as its source has it."""
    network.features.load_state_dict({key: torch.from_numpy(value) for key, value in state.items()})
    result: np.ndarray[Any, Any] = torch.flatten(
        network.avgpool(network.features(torch.from_numpy(inputs))), 1
    ).numpy()
    return result


@pytest.mark.parametrize("size", [32, 75])
def test_backbone__random_weights_equal_torchvision(
    original: Any, exact: Backbone, random_weights: Weights, size: int
) -> None:
    pixels = some_pixels(5, size)
    mean, std = (
        np.array([0.485, 0.456, 0.406]),
        np.array([0.229, 0.224, 0.225]),
    )  # torchvision's documentation
    inputs = (pixels.numpy() / 255.0 - mean[:, None, None]) / std[:, None, None]
    expected = direct_forward(original, load_weights(random_weights), inputs.astype(np.float32))
    assert relative_errors(exact(pixels).numpy(), expected).max() < 1e-4


def test_backbone__oxford_weights_equal_the_original_formulation(
    original: Any, oxford_in_cache: Path
) -> None:
    weights = resolve_weights("oxford", Path())
    state = load_weights(weights)
    pixels = some_pixels(4, 64, seed=3)
    # Blue, green, red; 0 to 255; the means subtracted; zeros around that; the kernel as it was published.
    inputs = pixels.numpy().astype(np.float32)[:, ::-1] - np.array(
        [[[103.939]], [[116.779]], [[123.68]]], np.float32
    )
    state["0.weight"] = np.ascontiguousarray(state["0.weight"][:, ::-1])
    expected = direct_forward(original, state, inputs)
    found = Backbone(weights, "float32", CPU)(pixels).numpy()
    assert relative_errors(found, expected).max() < 1e-4
    assert expected.max() > 1  # and not all zeros


@pytest.mark.parametrize("size", [32, 224])
@pytest.mark.parametrize("precision", ["float32", "half"])
def test_backbone__batch_size_changes_no_bit(
    request: pytest.FixtureRequest, precision: str, size: int
) -> None:
    backbone: Backbone = request.getfixturevalue({"float32": "exact", "half": "fast"}[precision])
    count, batches = (16, (7, 3, 2, 1)) if size == 32 else (3, (2, 1))
    pixels = some_pixels(count, size, seed=7)
    whole = backbone(pixels)
    for batch in batches:
        assert torch.equal(backbone(pixels[-batch:]), whole[-batch:]), batch


def test_backbone__a_row_does_not_depend_on_its_neighbours(exact: Backbone) -> None:
    pixels = some_pixels(6)
    others = pixels.clone()
    others[:5] = 255 - others[:5]
    assert torch.equal(exact(pixels)[5], exact(others)[5])


def test_backbone__half_is_close_to_float32(exact: Backbone, fast: Backbone) -> None:
    pixels = some_pixels(6, 64)
    cosine = functional.cosine_similarity(fast(pixels), exact(pixels))
    assert float(cosine.min()) > 0.999


def test_backbone__result(exact: Backbone) -> None:
    features = exact(some_pixels(3))
    assert features.shape == (3, 25_088)
    assert features.dtype == torch.float32
    assert not features.requires_grad
    assert float(features.min()) == 0  # behind a ReLU
    assert bool((features.sum(dim=1) > 0).all())


def test_backbone__frozen_and_without_a_classifier(exact: Backbone) -> None:
    parameters = list(exact._network.parameters())
    assert sum(parameter.numel() for parameter in parameters) == 14_714_688
    assert not any(parameter.requires_grad for parameter in parameters)
    assert not exact._network.training


def test_backbone__leaves_its_input_alone(exact: Backbone) -> None:
    pixels = some_pixels(1)
    before = pixels.clone()
    exact(pixels)
    assert torch.equal(pixels, before)


def test_backbone__out_of_memory_names_the_remedy(
    random_weights: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = Backbone(random_weights, "float32", CPU)

    def full(inputs: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(backbone, "_network", full)
    with pytest.raises(DeviceError, match=r"cpu ran out of memory with 3 images at once: .*--batch-size"):
        backbone(some_pixels(3))


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_choose_device__not_here() -> None:
    with pytest.raises(DeviceError, match=r"--device cuda: no such device here\. Available: .*cpu"):
        choose_device("cuda")


def test_choose_device__auto_prefers_cuda_then_mps(monkeypatch: pytest.MonkeyPatch) -> None:
    for cuda, mps, expected in ((True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda cuda=cuda: cuda)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda mps=mps: mps)
        assert choose_device("auto").type == expected
        assert choose_device("cpu").type == "cpu"


@pytest.mark.parametrize(
    ("capability", "expected"),
    [("avx512_bf16", torch.bfloat16), ("amx_bf16", torch.bfloat16), ("avx512_f", torch.float32)],
)
def test_forward_dtype__cpu(monkeypatch: pytest.MonkeyPatch, capability: str, expected: torch.dtype) -> None:
    monkeypatch.setattr(torch, "cpu", SimpleNamespace(get_capabilities=lambda: {capability: True}))
    assert forward_dtype("half", CPU) == expected
    assert forward_dtype("float32", CPU) == torch.float32


@pytest.mark.parametrize(("native", "expected"), [(True, torch.bfloat16), (False, torch.float16)])
def test_forward_dtype__cuda(monkeypatch: pytest.MonkeyPatch, native: bool, expected: torch.dtype) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: native)
    assert forward_dtype("half", torch.device("cuda")) == expected
    assert forward_dtype("float32", torch.device("cuda")) == torch.float32
    assert forward_dtype("half", torch.device("mps")) == torch.float32


@pytest.mark.gpu
def test_backbone__cuda_agrees_with_cpu(random_weights: Weights, exact: Backbone) -> None:
    pixels = some_pixels(4, 64)
    found = Backbone(random_weights, "float32", torch.device("cuda"))(pixels)
    assert relative_errors(found.numpy(), exact(pixels).numpy()).max() < 1e-4
