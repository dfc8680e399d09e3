"""VGG16 in the shape that tensor cores are fast with: what is put together, and that it computes the same."""

from __future__ import annotations

import copy

import pytest
import torch
from torchvision.models import vgg16

from pipeline.features import torch_fused
from pipeline.features.torch_fused import fused


@pytest.mark.parametrize(("height", "width"), [(8, 6), (7, 6), (8, 5)])
def test_halving__is_max_pooling(height: int, width: int) -> None:
    images = torch.randn(3, 16, height, width, generator=torch.Generator().manual_seed(0))
    images[1, 2, 3, 4] = torch.nan
    expected = torch.nn.functional.max_pool2d(images, 2)
    [halving] = fused(torch.nn.Sequential(torch.nn.MaxPool2d(2)))
    for layout in (torch.channels_last, torch.contiguous_format):
        found = halving(images.to(memory_format=layout))
        torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)
        assert found.is_contiguous(memory_format=torch.channels_last)


def test_fused__each_convolution_takes_its_relu_along() -> None:
    features = vgg16(weights=None).features
    kinds = [type(layer).__name__ for layer in fused(torch.nn.Sequential(features, torch.nn.Flatten()))]
    assert kinds.count("_ConvolutionReLU") == 13
    assert kinds.count("_MaxOfFour") == 5
    assert kinds[-1] == "Flatten"
    assert len(kinds) == 19


def test_fused__what_it_does_not_know_stays() -> None:
    strange = [
        torch.nn.Conv2d(8, 8, 3, groups=2),
        torch.nn.ReLU(),
        torch.nn.Conv2d(8, 8, 3, padding="same"),
        torch.nn.ReLU(),
        torch.nn.Conv2d(8, 8, 3),
        torch.nn.MaxPool2d(3, 2),
        torch.nn.MaxPool2d(2, ceil_mode=True),
    ]
    assert list(fused(torch.nn.Sequential(*strange))) == strange


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_fused__computes_the_same(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    plain = vgg16(weights=None).features.eval().cuda()
    images = torch.randn(5, 3, 64, 64, device="cuda")
    halved = copy.deepcopy(plain).to(dtype).to(memory_format=torch.channels_last)
    with torch.inference_mode():
        expected = plain(images).flatten(1)
        one_by_one, found = (
            network(images.to(dtype, memory_format=torch.channels_last)).flatten(1).float()
            for network in (halved, fused(halved))
        )
    lost = (one_by_one - expected).norm() / expected.norm()
    assert (found - expected).norm() / expected.norm() <= 1.1 * lost


@pytest.mark.gpu
def test_fused__the_first_convolution_is_padded_with_nothing() -> None:
    convolution = torch.nn.Conv2d(3, 64, 3, padding=1)
    [layer] = fused(torch.nn.Sequential(convolution, torch.nn.ReLU()))
    assert isinstance(layer, torch_fused._ConvolutionReLU)
    images = torch.randn(2, 3, 16, 16)
    expected = torch.relu(convolution(images))
    found = layer.cuda()(images.cuda().to(memory_format=torch.channels_last)).cpu()
    torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-2)  # TF32
