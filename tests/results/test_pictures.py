from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.dataset.manifest import ImageRow
from pipeline.errors import ManifestError
from pipeline.params import ExtractParams
from pipeline.results.pictures import pictures

PARAMS = ExtractParams(weights="random", resize=64, image_size=56)


def a_row(root: Path, path: str, size: tuple[int, int] = (90, 70)) -> ImageRow:
    """Write an image of its own colours, and return its row."""
    random = np.random.default_rng(len(path))
    pixels = random.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(root / path)
    data = (root / path).read_bytes()
    return ImageRow(path, "cat", "train", "", hashlib.sha256(data).hexdigest(), len(data), *size, "ok", "")


def test_pictures__what_the_network_sees_at_another_size(tmp_path: Path) -> None:
    row = a_row(tmp_path, "a.png")
    picture = pictures([row], tmp_path, PARAMS, 42)[row.sha256]
    # by hand: the shorter side as long against the square as in the parameters, 42 · 64 / 56, then the centre
    whole = Image.open(tmp_path / "a.png").resize((48 * 90 // 70, 48), Image.Resampling.BILINEAR)
    left = round((whole.width - 42) / 2)
    assert picture.fault == ""
    np.testing.assert_array_equal(picture.pixels, np.asarray(whole.crop((left, 3, left + 42, 45))))


def test_pictures__faults_are_named(tmp_path: Path) -> None:
    rows = {name: a_row(tmp_path, name) for name in ("gone.png", "changed-.png", "cut.png")}
    (tmp_path / "gone.png").unlink()
    a_row(tmp_path, "changed-.png", (40, 41))
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:500])
    found = pictures(list(rows.values()), tmp_path, PARAMS, 42)
    assert {name: found[row.sha256].fault for name, row in rows.items()} == {
        "gone.png": "vanished",
        "changed-.png": "changed",
        "cut.png": "truncated",
    }
    assert {picture.pixels for picture in found.values()} == {None}


def test_pictures__copies_are_read_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = a_row(tmp_path, "a.png")
    assert len(pictures([row, replace(row, path="b.png")], tmp_path, PARAMS, 42)) == 1
    assert "thumbnails: 1 image in" in capsys.readouterr().err


def test_pictures__no_path_leads_out_of_the_source(tmp_path: Path) -> None:
    row = a_row(tmp_path, "a.png")
    with pytest.raises(ManifestError, match=r"expected a relative path without '\.\.'"):
        pictures([replace(row, path="../a.png")], tmp_path / "sub", PARAMS, 42)


def test_pictures__of_a_network_that_sees_the_middle_of_large_images(tmp_path: Path) -> None:
    row = a_row(tmp_path, "a.png")
    extreme = ExtractParams(weights="random", resize=4096, image_size=32)
    picture = pictures([row], tmp_path, extreme, 176)[row.sha256]
    assert picture.pixels is not None
    assert picture.pixels.shape == (176, 176, 3)
