from __future__ import annotations

import resource

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.features.transforms import to_pixels


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


@pytest.mark.parametrize(
    ("width", "height"),
    [(500, 375), (375, 500), (333, 251), (64, 64), (41, 90), (20, 17), (1, 1), (900, 901)],
)
def test_to_pixels__agrees_with_pillow(width: int, height: int) -> None:
    image = picture(width, height)
    short = min(width, height)
    resized = image.resize((64 * width // short, 64 * height // short), Image.Resampling.BILINEAR)
    left, top = round((resized.width - 48) / 2), round((resized.height - 48) / 2)
    expected = np.asarray(resized.crop((left, top, left + 48, top + 48))).transpose(2, 0, 1)
    found = to_pixels(image, 64, 48)
    assert found.shape == (3, 48, 48)
    assert found.dtype == torch.uint8
    assert found.is_contiguous()
    # the two round alike but for single levels
    assert np.abs(found.numpy().astype(int) - expected.astype(int)).max() <= 1


def test_to_pixels__same_size_is_the_image_itself() -> None:
    image = picture(32, 32)
    np.testing.assert_array_equal(to_pixels(image, 32, 32).numpy(), np.asarray(image).transpose(2, 0, 1))


def test_to_pixels__channels_are_red_green_blue() -> None:
    pixels = to_pixels(Image.new("RGB", (50, 40), (10, 20, 30)), 40, 32)
    assert [int(value) for value in pixels.float().mean(dim=(1, 2))] == [10, 20, 30]


@pytest.mark.parametrize("upright", [False, True])
def test_to_pixels__a_line_does_not_fill_the_memory(upright: bool) -> None:
    line = picture(30_000, 1)
    around_centre = line.crop((15_000 - 8, 0, 15_000 + 8, 1))
    if upright:
        line, around_centre = (image.transpose(Image.Transpose.ROTATE_90) for image in (line, around_centre))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    pixels = to_pixels(line, 256, 224)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 300_000_000 / 1024  # resized whole, it would take 6 GB
    assert torch.equal(pixels, to_pixels(around_centre, 256, 224))
