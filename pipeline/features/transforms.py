"""From a decoded image to the pixels that the network sees, the same for every image.

Owns the geometry. Its constants are part of the identity (`pipeline.features.identity`).
"""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image

from pipeline.views import CENTER, View

#: Of an image more than so many times as long as wide, the middle is seen. A line of 1 × 30,000 pixels would
#: grow to 6 GB, and what lies so far from its centre is never seen.
LONGEST = 16


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

    Notes
    -----
    Widths are resized first, then heights. Pillow does so too, but from version 13 on not where an image is
    much taller than wide: one level in some pixels, by which features would tell that version from others.
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
    image = _centre(image, min(width, LONGEST * height), min(height, LONGEST * width))
    width, height = resized_size(*image.size, resize)
    for size in ((width, image.height), (width, height)):
        image = image.resize(size, Image.Resampling.BILINEAR)
    return [_cut(image, image_size, view) for view in views]


def resized_size(width: int, height: int, resize: int) -> tuple[int, int]:
    """Return width and height of an image whose shorter side is resized to `resize`."""
    shorter = min(width, height)
    return resize * width // shorter, resize * height // shorter


def corner_of(view: View, width: int, height: int, size: int) -> tuple[int, int]:
    """Return where the square of a view begins in the resized image: pixels from its left and its top."""
    if view in ("center", "hflip"):
        return round((width - size) / 2), round((height - size) / 2)  # torchvision's rounding: half to even
    upright, sideways = view.split("-")
    return 0 if sideways == "left" else width - size, 0 if upright == "top" else height - size


def _cut(image: Image.Image, size: int, view: View) -> Image.Image:
    left, top = corner_of(view, *image.size, size)
    square = image.crop((left, top, left + size, top + size))
    return square.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if view == "hflip" else square


def _centre(image: Image.Image, width: int, height: int) -> Image.Image:
    """Cut off what is longer than that on both sides."""
    if image.size == (width, height):
        return image
    left, top = round((image.width - width) / 2), round((image.height - height) / 2)
    return image.crop((left, top, left + width, top + height))
