"""From a decoded image to the pixels that the network sees, the same for every image.

Owns the geometry. Its constants are part of the identity (`pipeline.features.identity`).
"""

from __future__ import annotations

from PIL import Image

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
    width, height = image.size
    image = _centre(image, min(width, LONGEST * height), min(height, LONGEST * width))
    shorter = min(image.size)
    width, height = (resize * side // shorter for side in image.size)
    for size in ((width, image.height), (width, height)):
        image = image.resize(size, Image.Resampling.BILINEAR)
    return _centre(image, image_size, image_size)


def _centre(image: Image.Image, width: int, height: int) -> Image.Image:
    if image.size == (width, height):
        return image
    # torchvision's rounding: half to even
    left, top = round((image.width - width) / 2), round((image.height - height) / 2)
    return image.crop((left, top, left + width, top + height))
