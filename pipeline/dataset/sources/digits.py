"""The ``digits`` source: scikit-learn's 1,797 handwritten digits as PNG files.

Owns the spelling of the files, byte for byte: they are written without compression, so their
hashes do not depend on the zlib at hand. It never writes over a folder that is there.
"""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.dataset.sources.records import write_failure
from pipeline.files import replacing_folder

_WHITE = 16  # load_digits counts the dark pixels in each 4x4 block of a scan


def write_digits(folder: Path) -> None:
    """Write the images as ``<digit>/<number>.png``, unless the folder is there.

    Parameters
    ----------
    folder : Path
        Written whole or not at all. ``number`` is the image's place in ``load_digits()``, 0000
        to 1796; pixels are 8-bit gray, 8x8, 0 to 16 scaled to 0 to 255.

    Raises
    ------
    SourceError
        The disk is full, or the folder cannot be written.

    References
    ----------
    E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning
    Repository, 1998, https://doi.org/10.24432/C50P49.
    """
    if folder.is_dir():
        return
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = np.rint(digits.images * (255 / _WHITE)).astype(np.uint8)  # (1797, 8, 8)
    try:
        with replacing_folder(folder) as temporary:
            for digit in range(10):
                (temporary / str(digit)).mkdir()
            for number, (image, digit) in enumerate(zip(pixels, digits.target, strict=True)):
                (temporary / str(digit) / f"{number:04d}.png").write_bytes(uncompressed_png(image))
    except OSError as error:
        raise write_failure(folder, error) from error


def uncompressed_png(pixels: NDArray[np.uint8]) -> bytes:
    """Encode a small gray image as PNG with a single stored (uncompressed) deflate block.

    Parameters
    ----------
    pixels : ndarray of uint8, shape (height, width)
        ``height * (width + 1)`` is at most 65,535, the size of one stored block.

    References
    ----------
    PNG: https://www.w3.org/TR/png-3/ ; zlib: RFC 1950; stored blocks: RFC 1951, section 3.2.4.
    """
    height, width = pixels.shape
    rows = np.insert(pixels, 0, 0, axis=1).tobytes()  # each row starts with its filter: 0, none
    stored = b"\x01" + struct.pack("<HH", len(rows), len(rows) ^ 0xFFFF) + rows  # 1: the last block
    return b"".join(
        (
            b"\x89PNG\r\n\x1a\n",
            _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)),  # 8-bit gray
            _chunk(b"IDAT", b"\x78\x01" + stored + struct.pack(">I", zlib.adler32(rows))),
            _chunk(b"IEND", b""),
        )
    )


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
