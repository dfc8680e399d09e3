"""Another look at an image in each epoch: another part of it, mirrored or not, in other light.

Owns the geometry and the colours, and the decoder that workers run for it. What is drawn depends on the
numbers that it is given and on nothing else, so that workers, batches and interruptions change no pixel.

References
----------
Szegedy et al., "Going deeper with convolutions", CVPR 2015: crops of random area and shape.
"""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageEnhance

from pipeline.dataset.examiner import look_at

# Share of the image's area. With a network that stays as it is, the twelfth of a picture that torchvision
# begins with seldom shows what the label says.
_AREA = (0.4, 1.0)
_SHAPE = (3 / 4, 4 / 3)  # width by height
_ATTEMPTS = 10  # at a crop that fits, before all of a side is taken
_COLOUR = 0.2  # by what share brightness, contrast and saturation may change


def augmented(image: Image.Image, image_size: int, seed: list[int]) -> Image.Image:
    """Crop, mirror and tint an image at random.

    Parameters
    ----------
    image : PIL.Image.Image
        RGB, upright.
    image_size : int
        Pixels of the square that comes out.
    seed : list of int
        The same numbers give the same pixels.

    Returns
    -------
    PIL.Image.Image
        RGB, `image_size` × `image_size`.
    """
    generator = np.random.default_rng(seed)
    crop = image.resize(
        (image_size, image_size), Image.Resampling.BILINEAR, box=_box(image.width, image.height, generator)
    )
    if generator.random() < 0.5:
        crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        crop = enhance(crop).enhance(generator.uniform(1 - _COLOUR, 1 + _COLOUR))
    return crop


def answer(request: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
    """Decode ``request["file"]``, and augment it if it says a ``seed``; this runs in the worker."""
    verdict, image = look_at(Path(request["file"]))
    if image is None:
        return asdict(verdict), b""
    try:
        return asdict(verdict), augmented(image, request["image_size"], request["seed"]).tobytes()
    except MemoryError:
        return asdict(replace(verdict, reason="out_of_memory")), b""


def _box(width: int, height: int, generator: np.random.Generator) -> tuple[float, float, float, float]:
    """Draw a part of an image: left, top, right, bottom."""
    for _ in range(_ATTEMPTS):
        area = generator.uniform(*_AREA) * width * height
        shape = math.exp(generator.uniform(math.log(_SHAPE[0]), math.log(_SHAPE[1])))
        w, h = math.sqrt(area * shape), math.sqrt(area / shape)
        if w <= width and h <= height:
            left, top = generator.uniform(0, width - w), generator.uniform(0, height - h)
            return left, top, left + w, top + h
    # too long for any: the square in the middle
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    return left, top, left + side, top + side
