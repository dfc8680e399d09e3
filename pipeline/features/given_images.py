"""Images that a caller names or holds: which rows are theirs, and what the network is to see of them.

Owns the way from a file or an array to its row key and to its pixels.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from pipeline.dataset.examiner import look_at
from pipeline.features.extractor import Extractor
from pipeline.features.store import RowKey
from pipeline.features.transforms import to_pixels
from pipeline.params import ExtractParams

#: A file, or an image of shape (height, width, 3): upright, red, green and blue.
Given = Path | npt.NDArray[np.uint8]


def keys_of(images: Sequence[Given]) -> tuple[dict[int, RowKey], dict[int, str]]:
    """Return the keys of images by their places, and why those have none that cannot be read."""
    keys, failures = {}, {}
    for place, image in enumerate(images):
        if isinstance(image, Path):
            verdict, _ = look_at(image, decode_too=False)
            if verdict.reason:
                reason = "no such file" if verdict.reason == "vanished" else verdict.reason
                failures[place] = f"{image}: {reason}"
            else:
                keys[place] = RowKey(verdict.sha256)
        else:  # no file has these bytes: with such a beginning it is no image
            digest = hashlib.sha256(f"pixels {image.shape}\n".encode())
            digest.update(np.ascontiguousarray(image).data)
            keys[place] = RowKey(digest.hexdigest())
    return keys, failures


def pixels_of(
    extractor: Extractor,
    params: ExtractParams,
    images: Mapping[int, Given],
    keys: Mapping[int, RowKey],
    failures: dict[int, str],
) -> Generator[tuple[int, npt.NDArray[np.uint8]], None, None]:
    """Resize and crop images; a file that cannot be decoded becomes a failure."""
    files = {place: image for place, image in images.items() if isinstance(image, Path)}
    with contextlib.closing(extractor.decoded(files.values())) as decoded:
        for (place, file), image in zip(files.items(), decoded, strict=True):
            if image.pixels is not None and image.verdict.sha256 == keys[place].sha256:
                yield place, image.pixels
            else:
                failures[place] = f"{file}: {image.verdict.reason or 'changed_while_read'}"
    for place, array in images.items():
        if not isinstance(array, Path):
            yield place, np.asarray(to_pixels(Image.fromarray(array), params.resize, params.image_size))
