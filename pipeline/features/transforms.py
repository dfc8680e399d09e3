"""From a decoded image to the pixels that the network sees, the same for every image.

Owns the geometry. Its constants are part of the identity (`pipeline.features.identity`).
"""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image

from pipeline.views import CENTER, View

# A line of 1 × 30,000 pixels would grow to 6 GB. What lies so far from its centre is never seen.
_LONGEST = 16  # times the shorter side


def to_pixels(image: Image.Image, resize: int, image_size: int) -> Image.Image:
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
    PIL.Image.Image
        RGB, `image_size` × `image_size`, the same bits as torchvision's presets for VGG16 make of a
        Pillow image: ``Resize(resize)``, bilinear with antialiasing, and ``CenterCrop(image_size)``.
        Of an image more than 16 times as long as wide, the middle.
    """
    return to_views(image, resize, image_size, (CENTER,))[0]


def to_views(image: Image.Image, resize: int, image_size: int, views: Sequence[View]) -> list[Image.Image]:
    """Resize the shorter side once, and cut a square for each view.

    Parameters
    ----------
    image, resize, image_size
        See `to_pixels`, which gives the view ``center``.
    views : sequence of str
        ``hflip`` is that square mirrored; ``top-left`` and its like are the squares in the corners, the same
        bits as torchvision's ``FiveCrop(image_size)`` of the resized image.

    Returns
    -------
    list of PIL.Image.Image
        One for each of `views`.
    """
    width, height = image.size
    image = _centre(image, min(width, _LONGEST * height), min(height, _LONGEST * width))
    shorter = min(image.size)
    width, height = (resize * side // shorter for side in image.size)
    resized = image.resize((width, height), Image.Resampling.BILINEAR)
    return [_cut(resized, image_size, view) for view in views]


def _cut(image: Image.Image, size: int, view: View) -> Image.Image:
    if view in ("center", "hflip"):
        centre = _centre(image, size, size)
        return centre if view == "center" else centre.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    upright, sideways = view.split("-")
    left = 0 if sideways == "left" else image.width - size
    top = 0 if upright == "top" else image.height - size
    return image.crop((left, top, left + size, top + size))


def _centre(image: Image.Image, width: int, height: int) -> Image.Image:
    if image.size == (width, height):
        return image
    # torchvision's rounding: half to even
    left, top = round((image.width - width) / 2), round((image.height - height) / 2)
    return image.crop((left, top, left + width, top + height))
