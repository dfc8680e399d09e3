from __future__ import annotations

import hashlib
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from pipeline.dataset.sources.digits import uncompressed_png, write_digits
from pipeline.errors import SourceError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images") / "digits"
    write_digits(folder)
    return folder


def test_digits__bytes_are_pinned(folder: Path) -> None:
    everything = hashlib.sha256()
    files = sorted(folder.rglob("*.png"))
    for file in files:
        everything.update(file.read_bytes())
    assert len(files) == 1797
    assert (
        hashlib.sha256((folder / "0" / "0000.png").read_bytes()).hexdigest()
        == "db8eb7474a3095a68798c92f311a63da9d1ab77ed9ec2ae7a1c0342bc6fd68b0"
    )
    assert (
        hashlib.sha256((folder / "8" / "1796.png").read_bytes()).hexdigest()
        == "05ae03679e281af332dead405115489343426ebc8e9dd071b68fe8c91a9b3f0f"
    )
    assert everything.hexdigest() == "380c1b4a184aa18b1815b9f873ad565413e60d0133f798adfafc08b608afe7bb"


def test_digits__pillow_reads_what_scikit_learn_gives(folder: Path) -> None:
    digits = load_digits()
    for number in range(len(digits.target)):
        with Image.open(folder / str(digits.target[number]) / f"{number:04d}.png") as image:
            image.load()
            assert image.mode == "L"
            expected = [[round(value * 255 / 16) for value in row] for row in digits.images[number].tolist()]
            np.testing.assert_array_equal(np.asarray(image), expected)


def test_digits__classes_are_the_ten_digits(folder: Path) -> None:
    counts = {path.name: len(list(path.iterdir())) for path in folder.iterdir()}
    expected = np.bincount(load_digits().target)
    assert counts == {str(digit): count for digit, count in enumerate(expected.tolist())}


def test_digits__written_once(folder: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    write_digits(folder)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_digits__nothing_is_left_of_a_failed_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = 0
    write_bytes = Path.write_bytes

    def fail_at_the_hundredth(path: Path, data: bytes) -> int:
        nonlocal written
        written += 1
        if written == 100:
            raise OSError(28, "No space left on device")
        return write_bytes(path, data)

    monkeypatch.setattr(Path, "write_bytes", fail_at_the_hundredth)
    with pytest.raises(SourceError, match=r"digits: the disk is full.*Make room"):
        write_digits(tmp_path / "digits")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("shape", [(1, 1), (8, 8), (3, 5), (255, 256)])
def test_uncompressed_png__any_small_image(shape: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    with Image.open(io.BytesIO(uncompressed_png(pixels))) as image:
        np.testing.assert_array_equal(np.asarray(image), pixels)
