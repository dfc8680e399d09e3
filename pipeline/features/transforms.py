"""From a decoded image to the pixels that the network sees, the same for every image.

Owns the geometry. Its constants are part of the identity (`pipeline.features.identity`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional

if TYPE_CHECKING:
    from PIL import Image

# A line of 1 × 30,000 pixels would grow to 6 GB. What lies so far from its centre is never seen.
_LONGEST = 16  # times the shorter side


def to_pixels(image: Image.Image, resize: int, image_size: int) -> torch.Tensor:
    """Resize the shorter side, and cut the square from the centre.

    Parameters
    ----------
    image : PIL.Image.Image
        RGB, upright.
    resize : int
        Pixels of the shorter side.
    image_size : int
        Pixels of the square, at most `resize`.

    Returns
    -------
    torch.Tensor of uint8, shape (3, image_size, image_size)
        Red, green and blue, 0 to 255.
    """
    pixels: torch.Tensor = functional.pil_to_tensor(image)
    height, width = pixels.shape[1:]
    pixels = functional.center_crop(pixels, [min(height, _LONGEST * width), min(width, _LONGEST * height)])
    # bilinear with antialiasing, then the centre: torchvision's presets for VGG16
    pixels = functional.resize(pixels, [resize], InterpolationMode.BILINEAR, antialias=True)
    pixels = functional.center_crop(pixels, [image_size, image_size])
    return pixels.contiguous()
