from __future__ import annotations

import hashlib
import io
import json
import os
import random
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO

import pytest

from pipeline.dataset.sources.archives import folder_name, unpack
from pipeline.dataset.sources.intake import Intake
from pipeline.errors import SourceError
from tests.dataset.sources.archive_files import (
    FILES,
    assert_nothing_left,
    make,
    make_tar,
    make_zip,
    member,
    tar_of,
)

LITTER = {"README.txt": b"x", "cat/Thumbs.db": b"x", "__MACOSX/cat/._1.jpg": b"x", "boxes.json": b"{}"}
KINDS = [".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".TAR.GZ"]


def found(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".unpacked.json"
    }


def age(path: Path) -> None:
    """Make a file too old for changes within the clock's resolution."""
    os.utime(path, ns=(10**18, 10**18))


# What is unpacked


@pytest.mark.parametrize("kind", KINDS)
def test_unpack__every_kind(kind: str, tmp_path: Path) -> None:
    archive = make(tmp_path / f"pets{kind}", {**FILES, **LITTER})
    content = archive.read_bytes()
    folder = tmp_path / "images" / "pets"
    unpack(archive, folder)
    assert found(folder) == FILES
    assert archive.read_bytes() == content
    assert json.loads((folder / ".unpacked.json").read_text()) == {
        "archive": archive.name,
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
    }


def test_unpack__folders_and_dotted_names(tmp_path: Path) -> None:
    members = [
        member(".", tarfile.DIRTYPE),
        member("./cat", tarfile.DIRTYPE),
        member("./cat", tarfile.DIRTYPE),
        member("./cat//1.jpg", size=3),
        member("empty/", tarfile.DIRTYPE),
    ]
    unpack(tar_of(tmp_path / "a.tar", *members), tmp_path / "images" / "a")
    assert found(tmp_path / "images" / "a") == {"cat/1.jpg": bytes(3)}


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_unpack__zip_compressions(compression: int, tmp_path: Path) -> None:
    unpack(make_zip(tmp_path / "a.zip", FILES, compression), tmp_path / "images" / "a")
    assert found(tmp_path / "images" / "a") == FILES


def test_unpack__zip_names_without_declared_encoding(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "a.zip", {"cat/grXXe.jpg": b"1", "cat/stra_e.jpg": b"2"})
    content = archive.read_bytes().replace(b"grXXe", "grße".encode()).replace(b"stra_e", b"stra\xe1e")
    archive.write_bytes(content)
    unpack(archive, tmp_path / "images" / "a")
    assert found(tmp_path / "images" / "a") == {
        "cat/grße.jpg": b"1",
        "cat/straße.jpg": b"2",
    }  # 437: 0xE1 is ß


def test_unpack__once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = make_zip(tmp_path / "a.zip", FILES)
    folder = tmp_path / "images" / "a"
    unpack(archive, folder)
    inode = folder.stat().st_ino
    unpack(archive, folder)
    shutil.copy2(archive, tmp_path / "b.zip")  # the same bytes elsewhere
    unpack(tmp_path / "b.zip", folder)
    assert folder.stat().st_ino == inode


def test_unpack__changed_archive_replaces_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "images" / "a"
    archive = make_zip(tmp_path / "a.zip", {"cat/1.jpg": b"old", "cat/2.jpg": b"same"}, zipfile.ZIP_STORED)
    age(archive)
    unpack(archive, folder)
    make_zip(archive, {"cat/1.jpg": b"new", "cat/3.jpg": b"same"}, zipfile.ZIP_STORED)
    age(archive)  # the same size and time of modification
    unpack(archive, folder)
    assert found(folder) == {"cat/1.jpg": b"new", "cat/3.jpg": b"same"}
    assert sorted(path.name for path in folder.parent.iterdir()) in (["a"], [".archives.json", "a"])


def test_unpack__interrupted_is_not_taken_for_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = make_zip(tmp_path / "a.zip", FILES)
    folder = tmp_path / "images" / "a"
    killed = folder.with_name(".a.0123abcd.tmp")  # what SIGKILL leaves
    (killed / "cat").mkdir(parents=True)
    (folder / "cat").mkdir(parents=True)  # and a folder that nothing vouches for
    (folder / "cat" / "half.jpg").touch()
    bystander = folder.with_name(".ab.0123abcd.tmp")
    bystander.mkdir()
    write = Intake.write

    def interrupt(
        self: Intake, content: IO[bytes], target: Path, size: int, advance: Callable[[int], None]
    ) -> None:
        if target.name == "größe.jpg":
            raise KeyboardInterrupt
        write(self, content, target, size, advance)

    with monkeypatch.context() as patch:
        patch.setattr(Intake, "write", interrupt)
        with pytest.raises(KeyboardInterrupt):
            unpack(archive, folder)
    assert found(folder) == {"cat/half.jpg": b""}
    assert not killed.exists()
    unpack(archive, folder)
    assert found(folder) == FILES
    assert sorted(path.name for path in folder.parent.glob("*a*")) == [".ab.0123abcd.tmp", "a"]


def test_folder_name__safe_and_the_same_everywhere() -> None:
    assert folder_name("PetImages.zip") == "PetImages-zip"
    assert folder_name("digits.zip") != "digits"
    assert folder_name("../../x.tar") == "______x-tar"
    assert folder_name(".zip") == "-zip"
    assert folder_name("ü\0\n.tar.xz") == "___-tar-xz"
    assert len(folder_name("x" * 250 + ".zip")) < 120


# Damage


@pytest.mark.parametrize("kind", KINDS)
def test_unpack__truncated(kind: str, tmp_path: Path) -> None:
    content = make(tmp_path / f"whole{kind}", FILES).read_bytes()
    archive = tmp_path / f"a{kind}"
    # A plain tar ends in blocks of zeros: 10,240 bytes at a time, of which the first 512 matter.
    end = content.rstrip(b"\0").__len__() if kind == ".tar" else len(content)
    for size in (0, 1, 100, 512, end // 2, end // 512 * 512 - 512, end - 1):
        archive.write_bytes(content[:size])
        with pytest.raises(SourceError) as caught:
            unpack(archive, tmp_path / "images" / "a")
        assert str(archive) in str(caught.value)
        assert "\n" not in str(caught.value)
    assert_nothing_left(tmp_path / "images" / "a")


def test_unpack__tar_cut_between_two_members(tmp_path: Path) -> None:
    """tarfile takes both for a proper end."""
    content = make_tar(tmp_path / "whole.tar", {"1.jpg": b"1", "2.jpg": b"2", "3.jpg": b"3"}).read_bytes()
    cut = content[: 2 * 1024]
    broken = bytearray(content)
    broken[1024 + 150] ^= 0xFF  # the second header's checksum
    for damaged in (cut, bytes(broken)):
        (tmp_path / "a.tar").write_bytes(damaged)
        with pytest.raises(SourceError, match="damaged"):
            unpack(tmp_path / "a.tar", tmp_path / "images" / "a")
    assert_nothing_left(tmp_path / "images" / "a")


def test_unpack__checksums_are_checked(tmp_path: Path) -> None:
    stored = make_zip(tmp_path / "a.zip", {"1.jpg": b"0123456789"}, zipfile.ZIP_STORED)
    stored.write_bytes(stored.read_bytes().replace(b"0123456789", b"0123456780"))
    with pytest.raises(SourceError, match="CRC"):
        unpack(stored, tmp_path / "images" / "a")
    gzipped = make_tar(tmp_path / "a.tar.gz", {"1.jpg": b"1"}, "gz")
    content = bytearray(gzipped.read_bytes())
    content[-8] ^= 1  # the CRC of the whole, behind the last member
    gzipped.write_bytes(content)
    with pytest.raises(SourceError, match="CRC"):
        unpack(gzipped, tmp_path / "images" / "a")


@pytest.mark.parametrize("kind", [".zip", ".tar", ".tar.gz"])
def test_unpack__flipped_bytes_never_surprise(kind: str, tmp_path: Path) -> None:
    """Every outcome is a SourceError or a folder; no other exception, no file outside."""
    files = {"cat/1.jpg": b"a cat", "dog/2.jpg": b"a dog" * 50, "labels.csv": b"path,label\n"}
    content = make(tmp_path / f"whole{kind}", files).read_bytes().rstrip(b"\0") + bytes(1024)
    (tmp_path / f"whole{kind}").unlink()
    archive, folder = tmp_path / f"a{kind}", tmp_path / "images" / "a"
    chance = random.Random(1)
    refused = 0
    for _ in range(100):
        damaged = bytearray(content)
        for _ in range(chance.choice((1, 1, 4))):
            damaged[chance.randrange(len(content) - 1000)] = chance.choice((0, 0xFF, chance.randrange(256)))
        archive.write_bytes(damaged)
        try:
            unpack(archive, folder)
        except SourceError:
            refused += 1
        assert {path.name for path in tmp_path.iterdir()} <= {archive.name, "images"}
    assert refused > 0


def test_unpack__archive_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "a.zip").mkdir()
    with pytest.raises(SourceError, match=r"a\.zip: cannot be unpacked \(Is a directory\)"):
        unpack(tmp_path / "a.zip", tmp_path / "images" / "a")


def test_intake__content_that_is_not_as_long_as_declared(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "a.zip", FILES)
    (tmp_path / "out").mkdir()
    admitted = Intake(archive, tmp_path / "out")
    for size, word in ((3, "longer"), (5, "shorter")):
        target = admitted.admit_file(f"{size}.jpg", size)
        assert target is not None
        with pytest.raises(EOFError, match=word):
            admitted.write(io.BytesIO(b"1234"), target, size, lambda _: None)
        assert target.stat().st_size <= size
