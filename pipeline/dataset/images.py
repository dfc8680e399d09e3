"""From an image file's bytes to upright RGB pixels, or to the reason why not.

Owns the list of formats and every convention of decoding. ``prepare`` takes its verdicts here
and ``extract`` its pixels, so the two cannot disagree. It never opens a file.
"""

from __future__ import annotations

import functools
import importlib.util
import io
import logging
import re
import struct
import threading
import warnings
import zlib
from typing import NamedTuple, cast

from PIL import ExifTags, Image, UnidentifiedImageError

#: Larger images are refused by their header, before any pixel is decoded: 100 megapixels are 400 MB in
#: Pillow, and about the largest that can be converted in less than 1 GB.
MAX_PIXELS = 100_000_000

# Pillow would try 40 formats more, some of them by starting other programs (EPS: Ghostscript). MPO, the
# JPEG of some phones, comes with JPEG.
_FORMATS = ("JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP")
_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG", b"BM", b"GIF8", b"II*\0", b"MM\0*", b"RIFF")

# What transparent pixels show: pages are white, and dark drawings on nothing are common.
_BACKGROUND = (255, 255, 255)

# The values that may be white in images deeper than 8 bits: the first that no pixel exceeds. Integers have
# the 16 bits of the formats they come from, whatever part of them is used, so that all images of a set are
# scaled alike. Floats follow one of three conventions, told apart by range.
_WHITE = {
    "I;16": (65535,),
    "I;16B": (65535,),
    "I;16L": (65535,),
    "I;16N": (65535,),
    "I": (65535,),
    "F": (1, 255, 65535),
}

_UPRIGHT: dict[object, Image.Transpose] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# All that Pillow's decoders were seen, or can be read, to raise over damaged bytes. KeyError, IndexError,
# UnicodeDecodeError, NotImplementedError and UnidentifiedImageError are among their subclasses.
_DECODER_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)

# Pillow logs what it also raises; without a handler Python would print that.
logging.getLogger("PIL").addHandler(logging.NullHandler())


class UndecodableImage(Exception):
    """The bytes are not an image that can be used.

    Attributes
    ----------
    reason : str
        A code: ``empty_file``, ``unsupported_format``, ``unsupported_mode``, ``truncated``,
        ``corrupt``, ``too_large`` or ``out_of_memory``.
    detail : str
        What the decoder said.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


def decode(data: bytes) -> Image.Image:
    """Decode an image: upright, RGB, the first frame of many.

    Parameters
    ----------
    data : bytes
        A whole file in JPEG, PNG, BMP, GIF, TIFF or WebP, or in HEIF where ``pillow-heif`` is
        installed. Its name does not matter.

    Returns
    -------
    PIL.Image.Image
        Mode ``RGB``, 8 bits a channel, at least 1 × 1 and at most `MAX_PIXELS` pixels. EXIF
        orientations 1 to 8 are applied and others ignored, as is damaged EXIF. Transparency
        is laid over white. Grey images of 16 bits are scaled by 255/65535, floating-point ones
        by the range they use. Colour profiles are not applied.

    Raises
    ------
    UndecodableImage
        With a reason code, whatever is wrong with the bytes.
    """
    if not data:
        raise UndecodableImage("empty_file", "no bytes")
    _silence_pillow()
    try:
        image: Image.Image = Image.open(io.BytesIO(data), formats=_formats())
        if image.width * image.height > MAX_PIXELS:
            raise UndecodableImage("too_large", f"{image.width} x {image.height} pixels")
        image.load()
        turn = _UPRIGHT.get(_orientation(image))
        image = _rgb(image)
        return image if turn is None else image.transpose(turn)
    except _DECODER_ERRORS as error:
        raise UndecodableImage(_reason(error, data), f"{type(error).__name__}: {error}") from error


class JpegHeader(NamedTuple):
    """What a JPEG says of itself: the upright image's size in pixels, and its EXIF orientation."""

    width: int
    height: int
    orientation: int


def jpeg_header(data: bytes) -> JpegHeader | None:
    """Read the header of a JPEG that any decoder takes for the same image.

    Parameters
    ----------
    data : bytes
        A whole file, of any kind.

    Returns
    -------
    JpegHeader or None
        None for other formats, for grey or coloured JPEGs that are not stored as such (CMYK, and RGB without
        the usual transform), for one that `decode` would refuse by its header, and for damaged headers.
    """
    if not data.startswith(b"\xff\xd8\xff"):
        return None
    _silence_pillow()
    try:
        image: Image.Image = Image.open(io.BytesIO(data), formats=("JPEG",))
        orientation = _orientation(image)
    except _DECODER_ERRORS:
        return None
    plain = image.format == "JPEG" and image.mode in ("RGB", "L")
    if not plain or image.info.get("adobe_transform") == 0 or image.width * image.height > MAX_PIXELS:
        return None
    if not isinstance(orientation, int) or orientation not in _UPRIGHT:
        orientation = 1
    width, height = image.size if orientation < 5 else reversed(image.size)
    return JpegHeader(width, height, orientation)


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "LAB":
        raise UndecodableImage("unsupported_mode", "CIELAB pixels")
    colours = _eight_bits(image) if image.mode in _WHITE else image
    if image.has_transparency_data:
        with_alpha = image if image.mode == "RGBA" else image.convert("RGBA")
        opaque = Image.new("RGB", image.size, _BACKGROUND)
        opaque.paste(with_alpha if colours is image else colours, mask=with_alpha)
        return opaque
    return colours if colours.mode == "RGB" else colours.convert("RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    """Scale a deep grey image to 0–255; a plain ``convert`` would cut everything above 255 to white."""
    values = image.convert("F")
    low, high = cast("tuple[float, float]", values.getextrema())
    for white in _WHITE[image.mode]:
        if 0 <= low <= high <= white:
            # 0.5: the conversion to L cuts fractions off, and this rounds
            return values.point(lambda value, scale=255 / white: value * scale + 0.5).convert("L")
    raise UndecodableImage("unsupported_mode", f"{image.mode} pixels from {low} to {high}")


def _orientation(image: Image.Image) -> object:
    try:
        return image.getexif().get(ExifTags.Base.Orientation)
    except _DECODER_ERRORS:  # damaged metadata do not make the pixels wrong
        return None


def _reason(error: Exception, data: bytes) -> str:
    if isinstance(error, Image.DecompressionBombError):
        return "too_large"
    if isinstance(error, MemoryError):
        return "out_of_memory"
    if isinstance(error, UnidentifiedImageError) and not data.startswith(_SIGNATURES):
        return "unsupported_format"
    return "truncated" if "truncated" in str(error).lower() else "corrupt"


@functools.cache
def _formats() -> tuple[str, ...]:
    if importlib.util.find_spec("pillow_heif") is None:
        return _FORMATS
    import pillow_heif

    pillow_heif.register_heif_opener()
    return (*_FORMATS, "HEIF")


_IGNORE_PILLOW = ("ignore", None, Warning, re.compile(r"PIL\."), 0)
_filtering = threading.Lock()


def _silence_pillow() -> None:
    """Keep warnings that Pillow raises over odd metadata and large headers from the user.

    ``warnings.catch_warnings`` is not safe in threads. A filter for Pillow's own modules, put
    in place once and left there, is.
    """
    with _filtering:
        if not warnings.filters or warnings.filters[0] != _IGNORE_PILLOW:
            warnings.filterwarnings("ignore", module=r"PIL\.")
