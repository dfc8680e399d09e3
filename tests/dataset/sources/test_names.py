from __future__ import annotations

import csv
import os
from pathlib import Path

import pytest

from pipeline.dataset.sources.names import has_image_suffix, image_file, manifest_path, may_be_image
from pipeline.errors import ManifestError

ODD_FILES = Path(__file__).parents[4] / "shared" / "bad-images" / "manifest.csv"


@pytest.mark.parametrize(
    "name", ["a.jpg", "A.JPEG", "a.b.PnG", "a.heic", "a.mpo", "readme.jpg", "license.png"]
)
def test_names__images(name: str) -> None:
    assert may_be_image(name)
    assert has_image_suffix(name)


@pytest.mark.parametrize("name", ["no-suffix", "a.psd", "a.txt", "license_plate", "trailing.", "a.jpg~"])
def test_names__undecided_by_name(name: str) -> None:
    assert may_be_image(name)
    assert not has_image_suffix(name)


@pytest.mark.parametrize(
    "name",
    [
        "._a.jpg",
        ".jpg",
        ".DS_Store",
        "Thumbs.db",
        "desktop.ini",
        "README",
        "readme[1].txt",
        "LICENSE",
        "a.xml",
    ],
)
def test_names__no_images(name: str) -> None:
    assert not may_be_image(name)
    assert not has_image_suffix(name)


def test_names__agree_with_the_odd_files() -> None:
    if not ODD_FILES.exists():
        pytest.skip("../shared/bad-images is not beside the project")
    with ODD_FILES.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        rows = list(csv.DictReader(file))
    wrong = [row["file"] for row in rows if may_be_image(row["file"]) == (row["expect"] == "ignore")]
    assert len(rows) > 1000
    assert wrong == []


@pytest.mark.parametrize(
    ("raw", "spelled"),
    [
        (b"cat/1.jpg", "cat/1.jpg"),
        ("größe/图片.jpg".encode(), "größe/图片.jpg"),
        (b"100%.jpg", "100%.jpg"),
        (b"100%2x.jpg", "100%2x.jpg"),
        (b"caf\xe9.jpg", "caf%E9.jpg"),
        (b"caf%E9.jpg", "caf%25E9.jpg"),
        (b"50%/caf\xe9.jpg", "50%25/caf%E9.jpg"),
        (b"50%25.jpg", "50%2525.jpg"),
        (b"\xed\xa0\x80.jpg", "%ED%A0%80.jpg"),  # a surrogate is not UTF-8
        (b'new\nline,"quote" and \' .jpg', 'new\nline,"quote" and \' .jpg'),
        (b"back\\slash.jpg", "back\\slash.jpg"),
    ],
)
def test_manifest_path__there_and_back(raw: bytes, spelled: str, tmp_path: Path) -> None:
    assert manifest_path(os.fsdecode(raw)) == spelled
    found = os.fsencode(image_file(spelled, tmp_path))
    assert found == os.path.realpath(os.fsencode(tmp_path)) + b"/" + raw


def test_manifest_path__no_two_files_share_a_spelling() -> None:
    pieces = [b"a", b"%", b"%E9", b"\xe9", b"%25", b"25", b"E9", "é".encode()]
    names = {a + b + c for a in pieces for b in pieces for c in pieces}
    assert len({manifest_path(os.fsdecode(name)) for name in names}) == len(names)


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/etc/passwd",
        "../x.jpg",
        "a/../../x.jpg",
        "a/..",
        "a//b.jpg",
        "./a.jpg",
        "a/",
        "nul\0.jpg",
        "%2E%2E/x.jpg",
        "%2Fetc%2Fpasswd",
        "a%00.jpg",
        "c%61t.jpg",  # the same file as cat.jpg
        "%C3%A9.jpg",  # UTF-8 needs no escapes
        "\udce9.jpg",
    ],
)
def test_image_file__refuses_what_prepare_never_writes(path: str, tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="pipeline prepare"):
        image_file(path, tmp_path)


def test_image_file__refuses_links_out_of_the_source(tmp_path: Path) -> None:
    root = tmp_path / "source"
    (root / "cat").mkdir(parents=True)
    (tmp_path / "source-2").mkdir()  # its name starts like the root's
    (tmp_path / "source-2" / "secret.jpg").touch()
    (root / "cat" / "1.jpg").symlink_to(tmp_path / "source-2" / "secret.jpg")
    (root / "out").symlink_to(tmp_path)
    (root / "inside.jpg").symlink_to(root / "cat" / "2.jpg")
    for path in ("cat/1.jpg", "out/source-2/secret.jpg"):
        with pytest.raises(ManifestError, match="leads out of"):
            image_file(path, root)
    assert image_file("inside.jpg", root) == Path(os.path.realpath(root)) / "cat" / "2.jpg"


def test_image_file__in_a_root_that_is_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    assert image_file("a.jpg", tmp_path / "link") == Path(os.path.realpath(tmp_path)) / "real" / "a.jpg"
