"""Small pictures for people to look at: what the network sees of each image, and nothing else of the file.

Owns their pixels. Image files are decoded in workers that may die of it (`pipeline.features.decoder`);
those that cannot be, or that have changed, have no picture, but a word for why.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
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

_AHEAD = 64
# What `ExtractParams` allows. Where the network sees a small part of a large image, a picture shows more.
_LARGEST_RESIZE = 4096


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """A small picture, or the reason why there is none.

    Attributes
    ----------
    pixels : ndarray of uint8, shape (side, side, 3), or None
        Red, green and blue.
    fault : str
        A reason code as in `pipeline.dataset.verdicts.examine`, or ``changed`` where the file is not the one
        of the manifest any more; empty if there are pixels.
    """

    pixels: npt.NDArray[np.uint8] | None
    fault: str


def pictures(images: Sequence[ImageRow], root: Path, params: ExtractParams, side: int) -> dict[str, Picture]:
    """Make a small picture of each image.

    Parameters
    ----------
    images : sequence of ImageRow
        Copies of an image share a picture.
    root : Path
        Folder of the source; it may be gone.
    params : ExtractParams
        Of these, how much of an image the network sees.
    side : int
        Pixels of a side, at least 32.

    Returns
    -------
    dict of str to Picture
        For the hash of every image.

    Raises
    ------
    ManifestError
        A path leads out of the source.
    """
    wanted = list({image.sha256: image for image in images}.values())
    files = [image_file(image.path, root) for image in wanted]
    resize = min(round(side * params.resize / params.image_size), _LARGEST_RESIZE)
    seen = ExtractParams(resize=resize, image_size=side)
    workers = max(1, min(os.cpu_count() or 1, len(files)))
    found: dict[str, Picture] = {}
    with progress("thumbnails", len(files)) as advance:
        for image, answer in zip(wanted, decoded(files, seen, workers=workers, ahead=_AHEAD), strict=True):
            if answer.pixels is not None and answer.verdict.sha256 == image.sha256:
                found[image.sha256] = Picture(answer.pixels, "")
            else:
                found[image.sha256] = Picture(None, answer.verdict.reason or "changed")
            advance(1)
    return found
