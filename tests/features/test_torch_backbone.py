from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.errors import DeviceError
from pipeline.features.torch_backbone import TorchBackbone, choose_device, forward_dtype
from pipeline.features.weights import Weights, load_weights, resolve_weights
from tests.features.conftest import relative_errors
from tests.features.networks import cosines, direct_forward, expected_features, some_pixels

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def random_weights() -> Weights:
    return resolve_weights("random", Path())


@pytest.fixture(scope="module")
def exact(random_weights: Weights) -> TorchBackbone:
    return TorchBackbone(random_weights, "float32", CPU)


@pytest.fixture(scope="module")
def fast(random_weights: Weights) -> TorchBackbone:
    return TorchBackbone(random_weights, "half", CPU)


@pytest.mark.parametrize("size", [32, 75])
def test_backbone__random_weights_equal_torchvision(
    exact: TorchBackbone, random_weights: Weights, size: int
) -> None:
    # torchvision's documentation
    assert (random_weights.mean, random_weights.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    pixels = some_pixels(5, size)
    assert relative_errors(exact(pixels), expected_features(random_weights, pixels)).max() < 1e-4


def test_backbone__oxford_weights_equal_the_original_formulation(oxford_in_cache: Path) -> None:
    weights = resolve_weights("oxford", Path())
    state = load_weights(weights)
    pixels = some_pixels(4, 64, seed=3)
    # Blue, green, red; 0 to 255; the means subtracted; zeros around that; the kernel as it was published.
    inputs = pixels.astype(np.float32)[:, ::-1] - np.array([[[103.939]], [[116.779]], [[123.68]]], np.float32)
    state["0.weight"] = np.ascontiguousarray(state["0.weight"][:, ::-1])
    expected = direct_forward(state, np.ascontiguousarray(inputs))
    assert relative_errors(TorchBackbone(weights, "float32", CPU)(pixels), expected).max() < 1e-4
    assert expected.max() > 1  # and not all zeros


@pytest.mark.parametrize("size", [32, 224])
@pytest.mark.parametrize("precision", ["float32", "half"])
def test_backbone__batch_size_changes_no_bit(
    request: pytest.FixtureRequest, precision: str, size: int
) -> None:
    backbone: TorchBackbone = request.getfixturevalue({"float32": "exact", "half": "fast"}[precision])
    count, batches = (16, (7, 3, 2, 1)) if size == 32 else (3, (1,))
    pixels = some_pixels(count, size, seed=7)
    whole = backbone(pixels)
    for batch in batches:
        assert np.array_equal(backbone(pixels[-batch:]), whole[-batch:]), batch


def test_backbone__number_of_threads_changes_no_bit(exact: TorchBackbone) -> None:
    pixels = some_pixels(3, 64)
    before = torch.get_num_threads()
    results = []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        results.append(exact(pixels))
    torch.set_num_threads(before)
    assert np.array_equal(results[0], results[1])


def test_backbone__a_row_does_not_depend_on_its_neighbours(exact: TorchBackbone) -> None:
    pixels = some_pixels(6)
    others = pixels.copy()
    others[:5] = 255 - others[:5]
    assert np.array_equal(exact(pixels)[5], exact(others)[5])


def test_backbone__layout_in_memory_changes_no_bit(exact: TorchBackbone) -> None:
    pixels = some_pixels(3)
    plain = np.ascontiguousarray(pixels)
    plain.flags.writeable = False
    assert np.array_equal(exact(pixels), exact(plain))


def test_backbone__half_is_close_to_float32(exact: TorchBackbone, fast: TorchBackbone) -> None:
    pixels = some_pixels(6, 64)
    assert cosines(fast(pixels), exact(pixels)).min() > 0.999


def test_backbone__result(exact: TorchBackbone) -> None:
    features = exact(some_pixels(3))
    assert features.shape == (3, 25_088)
    assert features.dtype == np.float32
    assert features.min() == 0  # behind a ReLU
    assert (features.sum(axis=1) > 0).all()
    assert exact.made_with == {
        "device": "cpu",
        "backend": "torch",
        "computed_in": "float32",
        "torch": torch.__version__,
        "torchvision": exact.made_with["torchvision"],
    }


def test_backbone__frozen_and_without_a_classifier(exact: TorchBackbone) -> None:
    parameters = list(exact._network.parameters())
    assert sum(parameter.numel() for parameter in parameters) == 14_714_688
    assert not any(parameter.requires_grad for parameter in parameters)
    assert not exact._network.training


def test_backbone__leaves_its_input_alone(exact: TorchBackbone) -> None:
    pixels = some_pixels(1)
    before = pixels.copy()
    exact(pixels)
    assert np.array_equal(pixels, before)


class SmallDevice:
    """A network on a device with memory for so many images, that keeps count of what it was asked for."""

    def __init__(self, network: Any, room: int) -> None:
        self.network, self.room, self.asked = network, room, list[int]()

    def __call__(self, inputs: torch.Tensor) -> Any:
        self.asked.append(len(inputs))
        if len(inputs) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self.network(inputs)


def test_backbone__out_of_memory_halves_the_batch_for_good(
    exact: TorchBackbone, random_weights: Weights, capsys: pytest.CaptureFixture[str]
) -> None:
    backbone = TorchBackbone(random_weights, "float32", CPU)
    device = SmallDevice(backbone._network, room=2)
    backbone._network = device  # type: ignore[assignment]
    pixels = some_pixels(9)
    assert np.array_equal(backbone(pixels), exact(pixels))
    assert device.asked == [9, 4, 2, 2, 2, 2, 2]  # the last one a pair, as on every CPU
    assert capsys.readouterr().err.splitlines() == [
        "cpu ran out of memory with 9 images at once: going on with 4",
        "cpu ran out of memory with 4 images at once: going on with 2",
    ]
    device.asked.clear()
    assert np.array_equal(backbone(pixels[:4]), exact(pixels[:4]))
    assert device.asked == [2, 2]
    assert capsys.readouterr().err == ""


def test_backbone__out_of_memory_with_a_single_image(random_weights: Weights) -> None:
    backbone = TorchBackbone(random_weights, "float32", CPU)
    backbone._network = SmallDevice(backbone._network, room=0)  # type: ignore[assignment]
    with pytest.raises(DeviceError, match=r"cpu ran out of memory with a single image: .*--device cpu"):
        backbone(some_pixels(3))


def test_backbone__no_memory_for_the_weights(
    random_weights: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch.nn.Sequential, "to", full)
    with pytest.raises(DeviceError, match=r"cpu has not the memory for the network: .*--device cpu"):
        TorchBackbone(random_weights, "float32", CPU)


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
def test_backbone__cuda_agrees_with_cpu(random_weights: Weights, exact: TorchBackbone) -> None:
    pixels = some_pixels(150, 64)  # several pieces, the last one smaller
    expected = exact(pixels)
    found = TorchBackbone(random_weights, "float32", torch.device("cuda"))(pixels)
    assert relative_errors(found, expected).max() < 1e-4
    half = TorchBackbone(random_weights, "half", torch.device("cuda"))
    assert half.made_with["computed_in"] in {"bfloat16", "float16"}
    assert cosines(half(pixels), expected).min() > 0.999


@pytest.mark.gpu
def test_backbone__cuda_gives_the_same_bits_again_and_others_for_another_batch_only(
    random_weights: Weights,
) -> None:
    backbone = TorchBackbone(random_weights, "half", torch.device("cuda"))
    pixels = some_pixels(150, 64)
    whole = backbone(pixels)
    assert np.array_equal(backbone(pixels), whole)
    for count in (1, 3, 100):  # other kernels may be chosen: the last bits of bfloat16, no more
        assert cosines(backbone(pixels[:count]), whole[:count]).min() > 0.9999


@pytest.mark.gpu
def test_backbone__cuda_out_of_memory(
    random_weights: Weights, exact: TorchBackbone, capsys: pytest.CaptureFixture[str]
) -> None:
    device = torch.device("cuda")
    backbone = TorchBackbone(random_weights, "float32", device)
    pixels = some_pixels(64, 224)
    torch.cuda.set_per_process_memory_fraction(2**30 / torch.cuda.mem_get_info(device)[1])
    try:
        found = backbone(pixels)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert "ran out of memory with 64 images at once: going on with 32" in capsys.readouterr().err
    assert relative_errors(found[:2], exact(pixels[:2])).max() < 1e-4
