"""Decoding: conventions against independent references, damage against reason codes."""

from __future__ import annotations

import io
import struct
import threading
import warnings
import zlib
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from pipeline.dataset.images import MAX_PIXELS, UndecodableImage, decode


def photograph(width: int = 48, height: int = 32) -> NDArray[np.uint8]:
    """Make smooth colours with a different value at every corner; uint8, shape (height, width, 3)."""
    y, x = np.mgrid[0:height, 0:width]
    channels = [x * 255 / (width - 1), y * 255 / (height - 1), (x + y) * 255 / (width + height - 2)]
    return np.stack(channels, axis=-1).round().astype(np.uint8)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def pixels(data: bytes) -> NDArray[np.int16]:
    image = decode(data)
    assert image.mode == "RGB"
    return np.asarray(image).astype(np.int16)


def reason(data: bytes) -> str:
    with pytest.raises(UndecodableImage) as caught:
        decode(data)
    return caught.value.reason


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF"])
def test_lossless_formats_give_the_exact_pixels(kind: str) -> None:
    array = photograph()
    assert np.array_equal(pixels(encoded(Image.fromarray(array), kind)), array)


@pytest.mark.parametrize(("kind", "options"), [("JPEG", {"quality": 95}), ("WEBP", {"quality": 95})])
def test_lossy_formats_give_nearly_the_pixels(kind: str, options: dict[str, Any]) -> None:
    array = photograph()
    difference = pixels(encoded(Image.fromarray(array), kind, **options)) - array
    assert np.abs(difference).mean() < 3


# How stored pixels must be turned to stand upright, from the EXIF 2.3 definition of the tag: the places of
# the stored row 0 and column 0 in the picture.
UPRIGHT = {
    1: lambda stored: stored,  # top, left
    2: lambda stored: stored[:, ::-1],  # top, right
    3: lambda stored: stored[::-1, ::-1],  # bottom, right
    4: lambda stored: stored[::-1],  # bottom, left
    5: lambda stored: stored.transpose(1, 0, 2),  # left, top
    6: lambda stored: stored.transpose(1, 0, 2)[:, ::-1],  # right, top
    7: lambda stored: stored[::-1, ::-1].transpose(1, 0, 2),  # right, bottom
    8: lambda stored: stored.transpose(1, 0, 2)[::-1],  # left, bottom
}


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize("orientation", sorted(UPRIGHT))
def test_orientation_is_applied(orientation: int, kind: str) -> None:
    array = photograph()
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(Image.fromarray(array), kind, exif=exif)
    assert np.array_equal(pixels(data), UPRIGHT[orientation](array))


@pytest.mark.parametrize("orientation", [0, 9, 255])
def test_orientation_out_of_range_is_ignored(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert np.array_equal(pixels(encoded(Image.fromarray(photograph()), exif=exif)), photograph())


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0MM\0*\xff\xff\xff\xff", b"Exif\0\0II*\0\x08\0\0\0\xff\xff", b"nonsense"]
)
def test_damaged_exif_does_not_reject_an_image(exif: bytes) -> None:
    image = Image.fromarray(photograph())
    expected = pixels(encoded(image, "JPEG"))
    assert np.array_equal(pixels(encoded(image, "JPEG", exif=exif)), expected)


def test_16_bit_grey_is_scaled_not_cut() -> None:
    grey = photograph()[..., 0]
    deep = Image.fromarray(grey.astype(np.uint16) * 257)
    assert deep.mode == "I;16"
    for data in (encoded(deep), encoded(deep, "TIFF")):
        assert np.array_equal(pixels(data), np.repeat(grey[..., None], 3, axis=2))


def test_big_endian_16_bit_grey() -> None:
    grey = photograph()[..., 0]
    deep = grey.astype(">u2") * 257
    tags = [
        (256, 48),
        (257, 32),
        (258, 16),
        (259, 1),
        (262, 1),
        (273, 122),
        (277, 1),
        (278, 32),
        (279, 48 * 64),
    ]
    header = b"MM\0*" + struct.pack(">IH", 8, len(tags))
    header += b"".join(
        struct.pack(">HHIHH", tag, 3, 1, value, 0)
        for tag, value in tags  # SHORT, left-justified
    )
    data = header + bytes(4) + deep.tobytes()
    with Image.open(io.BytesIO(data)) as image:
        assert image.mode == "I;16B"
    assert np.array_equal(pixels(data), np.repeat(grey[..., None], 3, axis=2))


@pytest.mark.parametrize("white", [1.0, 255.0, 65535.0])
def test_floats_are_scaled_by_their_convention(white: float) -> None:
    grey = photograph()[..., 0]
    data = encoded(Image.fromarray((grey / 255 * white).astype(np.float32)), "TIFF")
    assert np.abs(pixels(data) - grey[..., None]).max() <= 1


@pytest.mark.parametrize("values", [[-1.0, 0.5], [0.0, 1e9], [float("nan"), 1.0]])
def test_floats_of_no_convention_are_refused(values: list[float]) -> None:
    data = encoded(Image.fromarray(np.array([values], dtype=np.float32)), "TIFF")
    assert reason(data) == "unsupported_mode"


def test_lab_is_refused() -> None:
    assert reason(encoded(Image.new("LAB", (4, 4)), "TIFF")) == "unsupported_mode"


def test_transparency_shows_white() -> None:
    array = np.dstack([photograph(), np.full((32, 48), 255, np.uint8)])
    array[:16, :, 3] = 0
    array[16:20, :, 3] = 128
    for kind in ("PNG", "TIFF"):
        found = pixels(encoded(Image.fromarray(array), kind))
        assert (found[:16] == 255).all()
        assert np.abs(found[16:20] - (photograph()[16:20] * 128.0 + 255 * 127) / 255).max() <= 1
        assert np.array_equal(found[20:], photograph()[20:])


def test_opaque_alpha_equals_its_plain_twin() -> None:
    image = Image.fromarray(photograph())
    plain = pixels(encoded(image))
    assert np.array_equal(pixels(encoded(image.convert("RGBA"))), plain)
    grey = image.convert("L")
    assert np.array_equal(pixels(encoded(grey.convert("LA"))), pixels(encoded(grey)))


def test_palettes_and_their_transparency() -> None:
    image = Image.new("P", (4, 1))
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    image.putdata([0, 1, 2, 0])
    expected = [[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 0, 0]]
    assert pixels(encoded(image))[0].tolist() == expected
    assert pixels(encoded(image, "GIF"))[0].tolist() == expected
    assert pixels(encoded(image, transparency=1))[0].tolist() == [expected[0], [255] * 3, *expected[2:]]
    several = pixels(encoded(image, transparency=bytes([0, 255, 0])))[0].tolist()
    assert several == [[255] * 3, expected[1], [255] * 3, [255] * 3]


def test_transparent_16_bit_grey() -> None:
    deep = Image.fromarray(np.array([[0, 257 * 100, 65535]], np.uint16))
    assert pixels(encoded(deep, transparency=0))[0, :, 0].tolist() == [255, 100, 255]


def test_bilevel_is_black_and_white() -> None:
    image = Image.new("1", (2, 1))
    image.putpixel((1, 0), 1)
    assert pixels(encoded(image))[0].tolist() == [[0, 0, 0], [255, 255, 255]]


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_cmyk_is_not_inverted(kind: str) -> None:
    array = photograph()
    found = pixels(encoded(Image.fromarray(array).convert("CMYK"), kind))
    assert np.abs(found - array).mean() < 4


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_the_first_frame_counts(kind: str) -> None:
    red, blue = Image.new("RGB", (8, 8), "red"), Image.new("RGB", (8, 8), "blue")
    data = encoded(red, kind, save_all=True, append_images=[blue])
    with Image.open(io.BytesIO(data)) as image:
        assert getattr(image, "n_frames", 1) == 2
    assert np.abs(pixels(data) - [255, 0, 0]).max() <= 4


def test_one_pixel_is_an_image() -> None:
    assert decode(encoded(Image.new("RGB", (1, 1)))).size == (1, 1)


def test_extension_does_not_matter_nor_what_follows_the_image() -> None:
    data = encoded(Image.fromarray(photograph()), "JPEG")
    assert np.array_equal(pixels(data + b"PK\x03\x04 and more"), pixels(data))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP"])
def test_half_a_file_is_refused(kind: str) -> None:
    data = encoded(Image.effect_noise((64, 64), 80).convert("RGB"), kind)
    assert reason(data[: len(data) // 2]) in {"truncated", "corrupt"}


def test_flipped_bit_in_png_is_found() -> None:
    data = bytearray(encoded(Image.effect_noise((64, 64), 80)))
    data[len(data) // 2] ^= 1
    assert reason(bytes(data)) == "corrupt"


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "empty_file"),
        (b"\0", "unsupported_format"),
        (b"<html>Not found</html>", "unsupported_format"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "unsupported_format"),
        (b"P6 1 1 255 \0\0\0", "unsupported_format"),
        (b"\xff\xd8\xff\xd9", "corrupt"),
    ],
)
def test_reasons(data: bytes, expected: str) -> None:
    assert reason(data) == expected


@pytest.mark.parametrize(("width", "height"), [(10_001, 10_000), (60_000, 60_000)])
def test_too_many_pixels_are_refused_by_the_header(width: int, height: int) -> None:
    assert width * height > MAX_PIXELS
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    data = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    data += struct.pack(">I", 8) + b"IDAT" + bytes(8) + struct.pack(">I", zlib.crc32(b"IDAT" + bytes(8)))
    assert reason(data) == "too_large"


def test_odd_metadata_raise_no_warning_in_any_thread() -> None:
    """Warnings are errors in this suite, so that each would reject the image."""
    exif = b"Exif\0\0II*\0\x08\0\0\0\x02\0\x12\x01\x03\0\x01\0\0\0\x01\0\0\0"  # promises two entries, has one
    data = encoded(Image.fromarray(photograph()), "JPEG", exif=exif)
    expected, found = decode(data).tobytes(), []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        threads = [threading.Thread(target=lambda: found.append(decode(data).tobytes())) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == [expected] * 8
