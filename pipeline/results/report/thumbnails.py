"""Small pictures for the page, as text that stands in it.

Owns their size and encoding; what is on them, `pipeline.results.pictures` knows.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.dataset.manifest import ImageRow
from pipeline.params import ExtractParams
from pipeline.results.pictures import pictures

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

#: Pixels of a side.
SIDE = 72
# 1,000 photographs: 2.2 MB as base64
_QUALITY = 70


def thumbnails(images: Sequence[ImageRow], root: Path, params: ExtractParams) -> dict[str, str]:
    """Make a small picture of each image; the parameters are those of `pictures`.

    Returns
    -------
    dict of str to str
        For the hash of an image, its picture as a ``data:`` address; without images that cannot be read, or
        are not those of the manifest any more.

    Raises
    ------
    ManifestError
        A path leads out of the source.
    """
    found = pictures(images, root, params, SIDE)
    return {
        sha256: _address(picture.pixels) for sha256, picture in found.items() if picture.pixels is not None
    }


def _address(pixels: npt.NDArray[np.uint8]) -> str:
    from PIL import Image

    picture = io.BytesIO()
    Image.fromarray(pixels).save(picture, "JPEG", quality=_QUALITY, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(picture.getvalue()).decode()}"
