from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from pipeline.dataset.manifest import ImageRow
from pipeline.errors import ManifestError
from pipeline.features.transforms import to_pixels
from pipeline.results.audit.appearance import Look, blurred, dark, looks, measured, tiny
from pipeline.results.audit.findings import Oddity
from tests.results.audits import image


def photograph(seed: int, size: tuple[int, int] = (300, 260)) -> Image.Image:
    """Patches of many sizes with sharp edges."""
    random = np.random.default_rng(seed)
    picture = Image.new("RGB", size, (120, 140, 90))
    for _ in range(150):
        width, height = random.integers(4, 90, 2)
        left, top = random.integers(-20, size[0]), random.integers(-20, size[1])
        colour = tuple(random.integers(0, 255, 3).tolist())
        picture.paste(colour, (int(left), int(top), int(left + width), int(top + height)))
    return picture


def save(folder: Path, name: str, picture: Image.Image) -> ImageRow:
    picture.save(folder / name)
    sha256 = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    return replace(image(name, "cat", "train"), sha256=sha256, width=picture.width, height=picture.height)


def seen(picture: Image.Image) -> Look:
    return measured(to_pixels(picture, 256, 224))


@pytest.fixture
def album(tmp_path: Path) -> list[ImageRow]:
    """Twelve photographs, of which one is dark, one blurred and one small."""
    (tmp_path / "photos").mkdir()
    pictures = {f"{seed:02}.png": photograph(seed) for seed in range(12)}
    pictures["03.png"] = pictures["03.png"].point(lambda level: level // 8)
    pictures["05.png"] = pictures["05.png"].filter(ImageFilter.GaussianBlur(6))
    pictures["07.png"] = photograph(7, (50, 70))
    return [save(tmp_path / "photos", name, picture) for name, picture in pictures.items()]


def test_looks__find_what_is_dark_blurred_and_tiny(album: list[ImageRow], tmp_path: Path) -> None:
    found = looks(album, tmp_path / "photos", tmp_path / "looks.json")
    assert [oddity.path for oddity in dark(album, found)] == ["03.png"]
    assert {oddity.path for oddity in blurred(album, found)} == {"05.png", "07.png"}  # small is soft, too
    assert tiny(album) == (Oddity("07.png", "train", 50),)


def test_looks__measure_each_image_once(
    album: list[ImageRow], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    memory = tmp_path / "looks.json"
    first = looks(album[:8], tmp_path / "photos", memory)
    assert "looking: 8 images" in capsys.readouterr().err
    assert looks(album, tmp_path / "photos", memory)[:8] == first
    assert "looking: 4 images" in capsys.readouterr().err
    (tmp_path / "photos").rename(tmp_path / "gone")
    assert looks(album[:8], tmp_path / "photos", memory) == first  # by what is remembered
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("damage", ["", "[]", '{"version": 0}', "half"])
def test_looks__a_damaged_memory_is_made_again(album: list[ImageRow], tmp_path: Path, damage: str) -> None:
    memory = tmp_path / "looks.json"
    first = looks(album[:2], tmp_path / "photos", memory)
    whole = memory.read_text()
    memory.write_text(whole[: len(whole) // 2] if damage == "half" else damage)
    assert looks(album[:2], tmp_path / "photos", memory) == first
    assert memory.read_text() == whole


def test_looks__a_file_that_is_not_the_one_of_the_manifest(album: list[ImageRow], tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    (photos / "00.png").unlink()
    (photos / "01.png").write_bytes((photos / "02.png").read_bytes())
    (photos / "04.png").write_bytes(b"\x89PNG and no more")
    memory = tmp_path / "looks.json"
    found = looks(album, photos, memory)
    assert [row.path for row, look in zip(album, found, strict=True) if look is None] == [
        "00.png",
        "01.png",
        "04.png",
    ]
    assert len(json.loads(memory.read_text())["looks"]) == 9


def test_looks__a_path_that_leads_out_is_refused(album: list[ImageRow], tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"without '\.\.'"):
        looks([replace(album[0], path="../looks.json")], tmp_path / "photos", tmp_path / "looks.json")


def test_measured__values() -> None:
    grey = Image.new("RGB", (224, 224), (100, 100, 100))
    assert measured(grey) == Look(100, 0.0)
    grey.paste((200, 200, 200), (0, 0, 224, 12))  # 5.4 % of the pixels
    assert measured(grey).light == 200
    grey.paste((100, 100, 100), (0, 10, 224, 12))  # 4.5 %
    assert measured(grey).light == 100
    stripes = np.zeros((224, 224, 3), np.uint8)
    stripes[:, ::2] = 60
    # Laplacian: left + right + above + below - 4 * own = ±120; variances 120² and 30²
    assert measured(Image.fromarray(stripes)).sharpness == pytest.approx(16)


def test_measured__sharpness_does_not_depend_on_light() -> None:
    bright = seen(photograph(1))
    dim = seen(photograph(1).point(lambda level: level // 4))
    assert dim.sharpness == pytest.approx(bright.sharpness, rel=0.3)
    assert dim.light == pytest.approx(bright.light / 4, abs=2)


def test_odd_is_only_what_differs_from_the_rest() -> None:
    """Where all are small, dark and soft, such as in drawings of 8 × 8 pixels, none is odd."""
    rows = [replace(image(f"{n}.png", "1", "train"), width=8, height=8) for n in range(20)]
    all_alike: list[Look | None] = [Look(30, 0.001)] * 19
    assert tiny(rows) == dark(rows, [*all_alike, None]) == blurred(rows, [*all_alike, None]) == ()
    rows[3] = replace(rows[3], width=3)
    assert [oddity.path for oddity in tiny(rows)] == ["3.png"]
    assert [oddity.value for oddity in dark(rows, [*all_alike, Look(10, 0.001)])] == [10]
    assert [oddity.value for oddity in blurred(rows, [*all_alike, Look(30, 0.0001)])] == [0.0001]
    assert dark(rows, [None] * 20) == ()
