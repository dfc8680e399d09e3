"""One picture in many guises: whatever the file holds, the network sees the same."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from sklearn.datasets import load_sample_image

from pipeline.dataset.images import decode
from pipeline.features.backbone import Backbone, open_backbone
from pipeline.features.transforms import to_pixels
from pipeline.features.weights import resolve_weights

#: What undoes each EXIF orientation, undone.
TURNED = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


@pytest.fixture(scope="module")
def photo() -> Image.Image:
    """A real photograph, 200 × 150, with nothing symmetrical about it."""
    return Image.fromarray(load_sample_image("china.jpg")).crop((0, 27, 533, 427)).resize((200, 150))


@pytest.fixture(scope="module")
def backbone(oxford_file: Path) -> Backbone:
    weights = resolve_weights("oxford", Path())
    return open_backbone(weights, "float32", device="cpu", backend="torch")


def saved(image: Image.Image, kind: str, **how: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **how)
    return file.getvalue()


def cosine(backbone: Backbone, data: bytes, twin: Image.Image) -> float:
    """Cosine between the features of a file and those of its plain twin."""
    square = np.stack(
        [np.asarray(to_pixels(image, 72, 64)) for image in (decode(data), decode(saved(twin, "PNG")))]
    )
    a, b = backbone(square.transpose(0, 3, 1, 2)).astype(np.float64)
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def gray(image: Image.Image) -> npt.NDArray[np.uint8]:
    return np.asarray(image.convert("L"))


def with_orientation(photo: Image.Image, orientation: int) -> tuple[Image.Image, Image.Exif]:
    turn = TURNED[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    return (photo if turn is None else photo.transpose(turn)), exif


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", TURNED)
def test_orientation(backbone: Backbone, photo: Image.Image, orientation: int, kind: str) -> None:
    image, exif = with_orientation(photo, orientation)
    how = {} if kind in {"PNG", "TIFF"} else {"quality": 95}
    assert cosine(backbone, saved(image, kind, exif=exif, **how), photo) >= 0.99


def test_orientation_matters(backbone: Backbone, photo: Image.Image) -> None:
    for orientation in range(2, 9):
        turned, _ = with_orientation(photo, orientation)
        assert cosine(backbone, saved(turned, "PNG"), photo) < 0.9


@pytest.mark.parametrize(
    ("mode", "kind", "how"),
    [
        ("CMYK", "JPEG", {"quality": 95}),
        ("CMYK", "TIFF", {}),
        ("RGB", "JPEG", {"quality": 95, "progressive": True}),
        ("RGB", "JPEG", {"quality": 95, "subsampling": 0}),
        ("RGB", "BMP", {}),
        ("RGB", "WEBP", {"lossless": True}),
        ("YCbCr", "JPEG", {"quality": 95}),
        ("YCbCr", "TIFF", {}),
        ("RGBA", "PNG", {}),
        ("RGBX", "TIFF", {}),
    ],
)
def test_colour_modes(
    backbone: Backbone, photo: Image.Image, mode: str, kind: str, how: dict[str, Any]
) -> None:
    assert cosine(backbone, saved(photo.convert(mode), kind, **how), photo) >= 0.99


@pytest.mark.parametrize("kind", ["PNG", "GIF", "TIFF", "BMP"])
def test_palette(backbone: Backbone, photo: Image.Image, kind: str) -> None:
    palette = photo.quantize(256, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    assert palette.mode == "P"
    assert cosine(backbone, saved(palette, kind), palette.convert("RGB")) >= 0.99
    assert cosine(backbone, saved(palette, kind), photo) >= 0.95  # 256 colours are fewer than there were


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_grey_of_16_bits(backbone: Backbone, photo: Image.Image, kind: str) -> None:
    deep = Image.fromarray(gray(photo).astype(np.uint16) * 257)
    assert deep.mode == "I;16"
    assert cosine(backbone, saved(deep, kind), photo.convert("L")) >= 0.99


def test_grey_of_one_bit(backbone: Backbone, photo: Image.Image) -> None:
    bits = photo.convert("1")
    assert cosine(backbone, saved(bits, "PNG"), bits.convert("RGB")) >= 0.99


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
def test_transparency_shows_white(backbone: Backbone, photo: Image.Image, mode: str) -> None:
    alpha = np.zeros((photo.height, photo.width), np.uint8)
    alpha[20:130, 30:170] = 255
    base = photo if mode == "RGBA" else photo.convert("L")
    cut = base.convert("RGBA")
    cut.putalpha(Image.fromarray(alpha))
    if mode == "LA":
        cut = cut.convert("LA")
    data = saved(cut, "PNG") if mode != "PA" else saved(cut, "GIF")
    expected = np.where(alpha[..., None] == 255, np.asarray(base.convert("RGB")), 255).astype(np.uint8)
    assert cosine(backbone, data, Image.fromarray(expected)) >= 0.99


def test_first_frame_of_an_animation(backbone: Backbone, photo: Image.Image) -> None:
    frames = [photo.transpose(Image.Transpose.ROTATE_180), Image.new("RGB", photo.size, "red")]
    for kind, how in (("GIF", {}), ("WEBP", {"lossless": True}), ("PNG", {"default_image": False})):
        data = saved(photo, kind, save_all=True, append_images=frames, duration=100, **how)
        assert cosine(backbone, data, photo) >= (0.95 if kind == "GIF" else 0.99)
