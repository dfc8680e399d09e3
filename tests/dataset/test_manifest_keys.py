"""A large manifest read by number is what it is read row by row."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from pipeline.dataset import manifest_keys
from pipeline.dataset.manifest import ImageRow, read_manifest, write_manifest
from pipeline.dataset.manifest_keys import Characters, ManifestKeys
from pipeline.digests import fold
from pipeline.errors import ManifestError


def write(path: Path, count: int, name: str = "{:05}.png") -> Path:
    """Write a manifest in which every fifth image cannot be used, and every seventh is a copy."""
    rows = []
    for number in range(count):
        sha256 = hashlib.sha256(str(number - (number % 7 == 6)).encode()).hexdigest()
        out = number % 5 == 4
        status, reason = ("quarantined", "truncated") if out else ("ok", "")
        split = "" if out else "train"
        row = ImageRow(name.format(number), "cat", split, "", sha256, number, 9, 9, status, reason)  # type: ignore[arg-type]
        rows.append(row)
    write_manifest(path, rows)
    return path


def read(path: Path) -> tuple[ManifestKeys, list[str]]:
    """Read a manifest by number, and the digests as they come."""
    told: list[str] = []

    def each(digests: Characters) -> None:
        told.extend(digest.tobytes().decode() for digest in digests)

    return ManifestKeys.read(path, each), told


@pytest.mark.parametrize("block", [200, 4096, 1 << 24])
@pytest.mark.parametrize("large", [0, 1 << 26])
@pytest.mark.parametrize("name", ["{:05}.png", "{:05},é.png", '{:05}",\n.png'])
def test_read__says_what_the_rows_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int, large: int, name: str
) -> None:
    monkeypatch.setattr(manifest_keys, "_LARGE", large)
    monkeypatch.setattr(manifest_keys, "_BLOCK", block)
    path = write(tmp_path / "manifest.csv", 100, name)
    usable = read_manifest(path).usable
    keys, told = read(path)
    assert told == [row.sha256 for row in usable]
    assert len(keys) == len(usable) == 80
    assert keys.different() == len({row.sha256 for row in usable}) < 80
    assert list(keys.rows([0, 79, 3])) == [usable[0], usable[79], usable[3]]


def test_read__a_large_one_makes_no_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest_keys, "_LARGE", 0)
    path = write(tmp_path / "manifest.csv", 20)
    monkeypatch.setattr(manifest_keys, "read_manifest", None)
    assert len(ManifestKeys.read(path)) == 16


@pytest.mark.parametrize("large", [0, 1 << 26])
def test_read__none_usable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, large: int) -> None:
    monkeypatch.setattr(manifest_keys, "_LARGE", large)
    path = write(tmp_path / "manifest.csv", 10)
    path.write_text("\n".join(line for line in path.read_text().splitlines() if ",ok," not in line) + "\n")
    keys, told = read(path)
    assert (len(keys), keys.different(), told) == (0, 0, [])


@pytest.mark.parametrize("large", [0, 1 << 26])
@pytest.mark.parametrize("harm", ["no such header\n", "a,b\n", "cut"])
def test_read__malformed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, large: int, harm: str) -> None:
    monkeypatch.setattr(manifest_keys, "_LARGE", large)
    path = write(tmp_path / "manifest.csv", 10)
    text = path.read_text()
    path.write_text({"a,b\n": text + harm, "cut": text[:-20]}.get(harm, harm + text))
    with pytest.raises(ManifestError, match="line 1"):
        ManifestKeys.read(path)


def test_fold__equals_the_formula_and_tells_other_texts_apart() -> None:
    texts = [hashlib.sha256(bytes([n])).hexdigest() for n in range(50)] + ["short", "", "X" * 64, "0" * 64]
    folded = fold(np.array([text.encode() for text in texts], "S64").view(np.uint8).reshape(-1, 64))
    assert len({row.tobytes() for row in folded}) == len(texts)
    for text, row in zip(texts[:50], folded, strict=False):
        digest = bytes.fromhex(text)
        assert row.tobytes() == bytes(a ^ b for a, b in zip(digest[:16], digest[16:], strict=True))
