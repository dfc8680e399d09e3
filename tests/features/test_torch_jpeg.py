"""JPEGs decoded by torchvision in the place of Pillow: the same images, in the same order, none let through.

On a CPU torchvision decodes by libjpeg, as Pillow does, so that all but nvJPEG itself is tried here.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.errors import DeviceError
from pipeline.features import torch_jpeg
from pipeline.features.decoder import Decoded, decoded
from pipeline.features.jpeg_reader import answer
from pipeline.features.torch_jpeg import JpegDecoder
from pipeline.params import ExtractParams
from pipeline.views import VIEWS

PARAMS = ExtractParams(resize=40, image_size=32)
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
#: Levels by which pixels differ in the mean. Pillow rounds between its two passes; nvJPEG makes the colours
#: of small images coarser.
MEANS = {"cpu": 0.6, "cuda": 4.0}


def picture(width: int, height: int, mode: str = "RGB") -> Image.Image:
    y, x = np.mgrid[0:height, 0:width]
    channels = [x * 255 / width, y * 255 / height, 255 - (x + y) * 255 / (width + height)]
    return Image.fromarray(np.stack(channels, axis=-1).astype(np.uint8)).convert(mode)


def jpeg(image: Image.Image, orientation: int = 1, **options: Any) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    image.save(file, "JPEG", quality=95, exif=exif, **options)
    return file.getvalue()


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


#: By the name of the file; what the GPU is not given is marked.
FILES = {
    **{f"upright-{n}.jpg": jpeg(picture(70, 50), n) for n in range(1, 9)},
    "grey.jpg": jpeg(picture(50, 64, "L")),
    "progressive.jpg": jpeg(picture(90, 45), progressive=True),
    "cmyk.jpg": jpeg(picture(50, 64, "CMYK")),
    "line.jpg": jpeg(picture(40, 900)),
    "drawing.png": png(picture(60, 41)),
    "empty.jpg": b"",
    "text.jpg": b"\xff\xd8\xff no more than that",
    "cut.jpg": jpeg(picture(70, 50))[:-400],
}
BROKEN = ("empty.jpg", "text.jpg", "cut.jpg")
FOR_PILLOW = ("cmyk.jpg", "line.jpg", "drawing.png", "empty.jpg", "text.jpg")


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    for name, content in FILES.items():
        (tmp_path / name).write_bytes(content)
    return [*(tmp_path / name for name in FILES), tmp_path / "absent.jpg"]


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def decoder(device: str, monkeypatch: pytest.MonkeyPatch) -> JpegDecoder:
    if device == "cpu":
        monkeypatch.setattr(torch_jpeg, "_nvidia_gpu", lambda name: torch.device("cpu"))
    return JpegDecoder(PARAMS, "auto")


def by_pillow(files: Sequence[Path], **views: Any) -> list[Decoded]:
    return list(decoded(files, PARAMS, workers=1, ahead=4, **views))


def assert_same(found: Sequence[Decoded], expected: Sequence[Decoded], mean: float) -> None:
    for one, other in zip(found, expected, strict=True):
        assert one.verdict == other.verdict
        if other.views is None:
            assert one.views is None
            continue
        assert one.views is not None
        assert one.views.shape == other.views.shape
        assert one.views.dtype == np.uint8
        assert np.abs(one.views.astype(int) - other.views).mean() <= mean


def test_decoded__as_by_pillow(device: str, decoder: JpegDecoder, files: list[Path]) -> None:
    found = list(decoder.decoded(files, workers=2, ahead=8))
    assert [bool(each.verdict.reason) for each in found] == [
        each.name in (*BROKEN, "absent.jpg") for each in files
    ]
    assert_same(found, by_pillow(files), MEANS[device])


def test_decoded__views(device: str, decoder: JpegDecoder, files: list[Path]) -> None:
    wanted = [{"views": VIEWS[: 1 + n % len(VIEWS)]} for n in range(len(files))]
    found = list(decoder.decoded(files, workers=2, ahead=8, views=wanted))
    assert_same(found, by_pillow(files, views=wanted), MEANS[device])


def test_decoded__what_the_gpu_refuses_goes_to_pillow(
    device: str, decoder: JpegDecoder, files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    real, refused = torch_jpeg._decode, FILES["progressive.jpg"]

    def fastidious(jpegs: Sequence[bytes], device: torch.device) -> list[torch.Tensor]:
        if refused in [bytes(each) for each in jpegs]:
            raise RuntimeError("nvjpegDecode failed: 8")
        return real(jpegs, device)

    monkeypatch.setattr(torch_jpeg, "_decode", fastidious)
    place = [file.name for file in files].index("progressive.jpg")
    found, expected = list(decoder.decoded(files, workers=1, ahead=8)), by_pillow(files)
    assert_same(found, expected, MEANS[device])
    np.testing.assert_array_equal(found[place].views, expected[place].views)


def test_decoded__too_large_for_the_gpu(
    device: str, decoder: JpegDecoder, files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    real, asked = torch_jpeg._decode, []

    def two_at_most(jpegs: Sequence[bytes], device: torch.device) -> list[torch.Tensor]:
        asked.append(len(jpegs))
        if len(jpegs) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(jpegs, device)

    monkeypatch.setattr(torch_jpeg, "_decode", two_at_most)
    assert_same(list(decoder.decoded(files, workers=1, ahead=8)), by_pillow(files), MEANS[device])
    assert max(asked) > 2

    def none(jpegs: Sequence[bytes], device: torch.device) -> list[torch.Tensor]:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch_jpeg, "_decode", none)
    with pytest.raises(DeviceError, match="ran out of memory with a single image"):
        list(decoder.decoded(files, workers=1, ahead=8))


@pytest.mark.parametrize("name", FILES)
def test_reader__hands_on_plain_jpegs(files: list[Path], name: str) -> None:
    file = files[0].parent / name
    request = {"file": str(file), "resize": 40, "image_size": 32}
    values, data = answer(request)
    handed_on = name not in (*FOR_PILLOW, *BROKEN)
    assert ("orientation" in values) == handed_on
    assert (data == FILES[name]) == (handed_on or not FILES[name])
    assert bool(values["reason"]) == (name in BROKEN)


def test_reader__what_was_decoded_before_is_not_decoded_again(files: list[Path]) -> None:
    cut = files[0].parent / "cut.jpg"
    request = {"file": str(cut), "resize": 40, "image_size": 32}
    assert answer(request)[0]["reason"] == "truncated"
    known = answer(request | {"known": hashlib.sha256(FILES["cut.jpg"]).hexdigest()})
    assert known[0]["reason"] == ""
    assert known[1] == FILES["cut.jpg"]
    assert answer(request | {"known": "ab" * 32})[0]["reason"] == "truncated"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_decoder__no_gpu() -> None:
    with pytest.raises(DeviceError, match="decoder is nvjpeg, and there is no NVIDIA GPU here"):
        JpegDecoder(PARAMS, "auto")


def test_decoder__torchvision_without_nvjpeg(monkeypatch: pytest.MonkeyPatch) -> None:
    def not_built(jpegs: Sequence[bytes], device: torch.device) -> Iterator[torch.Tensor]:
        raise RuntimeError("decode_jpegs_cuda: torchvision not compiled with nvJPEG support")

    monkeypatch.setattr(torch_jpeg, "choose_device", lambda name: torch.device("cuda"))
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch_jpeg, "_decode", not_built)
    with pytest.raises(DeviceError, match="cannot use: decode_jpegs_cuda: torchvision not compiled"):
        JpegDecoder(PARAMS, "auto")
