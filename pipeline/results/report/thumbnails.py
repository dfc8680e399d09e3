"""Small pictures for the page: what the network sees of each image, and nothing else of the file.

Owns their size and encoding. Image files are decoded in workers that may die of it
(`pipeline.features.decoder`); those that cannot be, or that have changed, have no picture.
"""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.console import progress
from pipeline.dataset.manifest import ImageRow
from pipeline.dataset.sources.names import image_file
from pipeline.features.decoder import decoded
from pipeline.params import ExtractParams

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

#: Pixels of a side.
SIDE = 72
# 1,000 photographs: 2.2 MB as base64
_QUALITY = 70
_AHEAD = 64


def thumbnails(images: Sequence[ImageRow], root: Path, params: ExtractParams) -> dict[str, str]:
    """Make a small picture of each image.

    Parameters
    ----------
    images : sequence of ImageRow
        Copies of an image share a picture.
    root : Path
        Folder of the source; it may be gone.
    params : ExtractParams
        Of these, how much of an image the network sees.

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
    wanted = list({image.sha256: image for image in images}.values())
    files = [image_file(image.path, root) for image in wanted]
    seen = ExtractParams(resize=round(SIDE * params.resize / params.image_size), image_size=SIDE)
    workers = max(1, min(os.cpu_count() or 1, len(files)))
    found: dict[str, str] = {}
    with progress("thumbnails", len(files)) as advance:
        for image, answer in zip(wanted, decoded(files, seen, workers=workers, ahead=_AHEAD), strict=True):
            if answer.pixels is not None and answer.verdict.sha256 == image.sha256:
                found[image.sha256] = _address(answer.pixels)
            advance(1)
    return found


def _address(pixels: npt.NDArray[np.uint8]) -> str:
    from PIL import Image

    picture = io.BytesIO()
    Image.fromarray(pixels).save(picture, "JPEG", quality=_QUALITY, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(picture.getvalue()).decode()}"
