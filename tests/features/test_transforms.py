from __future__ import annotations

import resource

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from torchvision.transforms import InterpolationMode, v2

from pipeline.features.transforms import to_pixels, to_views
from pipeline.views import VIEWS


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


@pytest.mark.parametrize(
    ("width", "height"),
    [(500, 375), (375, 500), (333, 251), (64, 64), (41, 90), (20, 17), (1, 1), (900, 901), (65, 100)],
)
@pytest.mark.parametrize(("resize", "image_size"), [(64, 48), (64, 33), (64, 64)])
def test_to_pixels__is_torchvisions_preset(width: int, height: int, resize: int, image_size: int) -> None:
    image = picture(width, height)
    preset = v2.Compose([v2.Resize(resize, InterpolationMode.BILINEAR), v2.CenterCrop(image_size)])
    found = to_pixels(image, resize, image_size)
    assert (found.mode, found.size) == ("RGB", (image_size, image_size))
    np.testing.assert_array_equal(np.asarray(found), np.asarray(preset(image)))


@pytest.mark.parametrize(("width", "height"), [(100, 333), (333, 100), (70, 1000), (40, 90)])
def test_to_pixels__by_formula__widths_first_in_any_version_of_pillow(width: int, height: int) -> None:
    """Pillow's way: a triangle as wide as the larger kind of pixel, weights in 22 bits, 8 bits in between."""

    def weights(size: int, resized: int) -> npt.NDArray[np.float64]:
        scale = size / resized
        centres = (np.arange(resized) + 0.5) * scale
        apart = np.abs(np.arange(size) + 0.5 - centres[:, np.newaxis]) / max(scale, 1)
        triangles = np.maximum(0, 1 - apart)
        rounded: npt.NDArray[np.float64] = np.floor(
            triangles / triangles.sum(axis=1, keepdims=True) * 2**22 + 0.5
        )
        return rounded

    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    shorter = min(width, height)
    wide, high = 64 * width // shorter, 64 * height // shorter
    lines = np.floor(np.einsum("xw,hwc->hxc", weights(width, wide), pixels) / 2**22 + 0.5)
    expected = np.floor(np.einsum("yh,hxc->yxc", weights(height, high), lines) / 2**22 + 0.5)
    top, left = round((high - 64) / 2), round((wide - 64) / 2)
    found = np.asarray(to_pixels(Image.fromarray(pixels), 64, 64))
    np.testing.assert_array_equal(found, expected[top : top + 64, left : left + 64])


def test_to_pixels__same_size_is_the_image_itself() -> None:
    image = picture(32, 32)
    np.testing.assert_array_equal(np.asarray(to_pixels(image, 32, 32)), np.asarray(image))


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
    np.testing.assert_array_equal(np.asarray(pixels), np.asarray(to_pixels(around_centre, 256, 224)))


@pytest.mark.parametrize(("width", "height"), [(500, 375), (333, 251), (41, 90), (64, 64), (1, 1)])
@pytest.mark.parametrize(("resize", "image_size"), [(64, 48), (64, 33), (64, 64)])
def test_to_views__are_torchvisions_five_crops_and_the_mirrored_centre(
    width: int, height: int, resize: int, image_size: int
) -> None:
    image = picture(width, height)
    resized = v2.Resize(resize, InterpolationMode.BILINEAR)(image)
    top_left, top_right, bottom_left, bottom_right, center = v2.FiveCrop(image_size)(resized)
    expected = {
        "center": center,
        "hflip": v2.functional.horizontal_flip(center),
        "top-left": top_left,
        "top-right": top_right,
        "bottom-left": bottom_left,
        "bottom-right": bottom_right,
    }
    assert tuple(expected) == VIEWS
    for view, found in zip(VIEWS, to_views(image, resize, image_size, VIEWS), strict=True):
        np.testing.assert_array_equal(np.asarray(found), np.asarray(expected[view]), view)
