from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from pipeline.networks import augmentation
from pipeline.networks.augmentation import answer, augmented


def ramp(width: int, height: int) -> Image.Image:
    """Red says where in its width a pixel was, green where in its height; blue is even."""
    pixels = np.full((height, width, 3), 128, np.uint8)
    pixels[..., 0] = np.linspace(0, 255, width).round()
    pixels[..., 1] = np.linspace(0, 255, height).round()[:, None]
    return Image.fromarray(pixels)


def looks(image: Image.Image, size: int, count: int) -> list[npt.NDArray[np.float64]]:
    return [np.asarray(augmented(image, size, [0, number])).astype(np.float64) for number in range(count)]


def test_augmented__the_same_numbers_give_the_same_pixels() -> None:
    image = ramp(60, 40)
    assert augmented(image, 32, [1, 2, 3]).tobytes() == augmented(image, 32, [1, 2, 3]).tobytes()
    assert augmented(image, 32, [1, 2, 3]).tobytes() != augmented(image, 32, [1, 3, 3]).tobytes()
    assert augmented(image, 32, [1, 2, 3]).size == (32, 32)
    assert augmented(image, 32, [1, 2, 3]).mode == "RGB"


def test_augmented__crops_and_mirrors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(augmentation, "_COLOUR", 0.0)
    mirrored, areas = 0, []
    for look in looks(ramp(400, 300), 64, 200):
        across, down = look[:, :, 0].mean(axis=0), look[:, :, 1].mean(axis=1)
        mirrored += across[0] > across[-1]
        assert down[0] < down[-1]  # never upside down
        width, height = np.ptp(across) / 255, np.ptp(down) / 255
        areas.append(width * height)
        assert 0.6 < (width * 400) / (height * 300) < 1.6  # 3/4 to 4/3, and what resizing takes off
    assert 70 < mirrored < 130
    assert 0.36 < min(areas) < 0.5
    assert 0.85 < max(areas) <= 1


def test_augmented__tints(monkeypatch: pytest.MonkeyPatch) -> None:
    gray = Image.new("RGB", (40, 40), (100, 100, 100))
    levels = [look.mean() for look in looks(gray, 32, 100)]
    assert 79 <= min(levels) < 88
    assert 112 < max(levels) <= 121
    monkeypatch.setattr(augmentation, "_COLOUR", 0.0)
    assert {look.mean() for look in looks(gray, 32, 5)} == {100.0}


@pytest.mark.parametrize("size", [(1, 3000), (3000, 1), (1, 1)])
def test_augmented__images_that_no_crop_fits(size: tuple[int, int]) -> None:
    assert augmented(Image.new("RGB", size, (9, 9, 9)), 32, [0]).size == (32, 32)


def test_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ramp(50, 50).save(tmp_path / "ramp.png")
    request = {"file": str(tmp_path / "ramp.png"), "resize": 32, "image_size": 32, "seed": [4, 5]}
    said, data = answer(request)
    assert said["reason"] == ""
    assert data == augmented(ramp(50, 50), 32, [4, 5]).tobytes()
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    said, data = answer({**request, "file": str(tmp_path / "broken.png")})
    assert (said["reason"] != "", data) == (True, b"")

    def no_memory(*arguments: object) -> None:
        raise MemoryError

    monkeypatch.setattr(augmentation, "augmented", no_memory)
    said, data = answer(request)
    assert (said["reason"], data) == ("out_of_memory", b"")
