from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import random
import shutil
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import pytest

from pipeline.dataset.sources import archives, intake
from pipeline.dataset.sources.archives import folder_name, unpack
from pipeline.dataset.sources.intake import Intake
from pipeline.errors import SourceError, UnsafeArchive

FILES = {
    "cat/1.jpg": b"a cat" * 1000,
    "cat/2.png": b"",
    "dog/größe.jpg": random.Random(0).randbytes(300_000),
    "labels.csv": b"path,label\n",
}
LITTER = {"README.txt": b"x", "cat/Thumbs.db": b"x", "__MACOSX/cat/._1.jpg": b"x", "boxes.json": b"{}"}
KINDS = [".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".TAR.GZ"]


def make_zip(path: Path, files: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def make_tar(path: Path, files: dict[str, bytes], compression: str = "") -> Path:
    mode: Any = f"w:{compression}"
    with tarfile.open(path, mode) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def make(path: Path, files: dict[str, bytes]) -> Path:
    name = path.name.lower()
    if name.endswith(".zip"):
        return make_zip(path, files)
    return make_tar(path, files, {"z": "gz", "2": "bz2", "r": ""}.get(name[-1], "xz" if "xz" in name else ""))


def tar_of(path: Path, *members: tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w") as archive:
        for member in members:
            archive.addfile(member, io.BytesIO(bytes(member.size)))
    return path


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", size: int = 0) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, size
    return info


def found(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".unpacked.json"
    }


def age(path: Path) -> None:
    """Make a file too old for changes within the clock's resolution."""
    os.utime(path, ns=(10**18, 10**18))


def assert_nothing_left(folder: Path) -> None:
    left = [path.name for path in folder.parent.iterdir()] if folder.parent.exists() else []
    assert [name for name in left if name != ".archives.json"] == []


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


# What is refused


EVIL_NAMES = [
    "../evil.jpg",
    "cat/../../evil.jpg",
    "cat/..",
    "/evil.jpg",
    "//evil.jpg",
    "C:/evil.jpg",
    "c:evil.jpg",
    "..\\evil.jpg",
    "cat\\1.jpg",
    "../evil.txt",  # would not be written anyway
]


@pytest.mark.parametrize("name", EVIL_NAMES)
@pytest.mark.parametrize("kind", [".zip", ".tar"])
def test_unpack__names_that_lead_out(name: str, kind: str, tmp_path: Path) -> None:
    archive = make(tmp_path / f"a{kind}", {"cat/1.jpg": b"1", name: b"evil"})
    folder = tmp_path / "images" / "a"
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UnsafeArchive) as caught:
        unpack(archive, folder)
    assert name in str(caught.value)
    assert str(archive) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert_nothing_left(folder)
    assert list(tmp_path.rglob("*evil*")) == []
    assert set(before) <= set(tmp_path.rglob("*"))


@pytest.mark.parametrize("kind", [".zip", ".tar"])
@pytest.mark.parametrize(
    "names",
    [
        ["a.jpg", "a.jpg"],
        ["cat/a.jpg", "./cat//a.jpg"],
        ["cat.jpg", "cat.jpg/1.jpg"],
        ["cat.jpg/1.jpg", "cat.jpg"],
        ["cat.jpg/", "cat.jpg"],
        ["cat.jpg", "cat.jpg/"],
    ],
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_unpack__names_that_clash(kind: str, names: list[str], tmp_path: Path) -> None:
    archive = tmp_path / f"a{kind}"
    if kind == ".zip":
        with zipfile.ZipFile(archive, "w") as written:
            for name in names:
                written.writestr(name, b"")
    else:
        tar_of(archive, *(member(n, tarfile.DIRTYPE if n.endswith("/") else tarfile.REGTYPE) for n in names))
    with pytest.raises(UnsafeArchive, match=r"twice|both a file and a folder"):
        unpack(archive, tmp_path / "images" / "a")
    assert_nothing_left(tmp_path / "images" / "a")


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, b"?"]
)
def test_unpack__tar_links_and_devices(kind: bytes, tmp_path: Path) -> None:
    archive = tar_of(tmp_path / "a.tar", member("cat/1.jpg"), member("cat/2.jpg", kind, "1.jpg"))
    with pytest.raises(UnsafeArchive, match=r"cat/2\.jpg.*link or a special file"):
        unpack(archive, tmp_path / "images" / "a")
    assert_nothing_left(tmp_path / "images" / "a")


@pytest.mark.parametrize("mode", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR])
def test_unpack__zip_links_and_devices(mode: int, tmp_path: Path) -> None:
    info = zipfile.ZipInfo("cat/2.jpg")
    info.external_attr = (mode | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(info, "/etc/passwd")
    with pytest.raises(UnsafeArchive, match=r"cat/2\.jpg.*link or a special file"):
        unpack(tmp_path / "a.zip", tmp_path / "images" / "a")


def test_unpack__encrypted(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "a.zip", {"cat/1.jpg": b"x"})
    content = bytearray(archive.read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1  # general purpose flags in the central directory
    archive.write_bytes(content)
    with pytest.raises(UnsafeArchive, match=r"cat/1\.jpg.*encrypted"):
        unpack(archive, tmp_path / "images" / "a")


def test_unpack__overlapping_members(tmp_path: Path) -> None:
    """Two directory entries for the same bytes, as in the petabyte bombs."""
    archive = make_zip(
        tmp_path / "a.zip", {"cat/1.jpg": b"x" * 100, "cat/2.jpg": b"x" * 100}, zipfile.ZIP_STORED
    )
    content = bytearray(archive.read_bytes())
    first = content.index(b"PK\x01\x02")
    second = content.index(b"PK\x01\x02", first + 4)
    content[second + 42 : second + 46] = content[first + 42 : first + 46]  # the local header's offset
    archive.write_bytes(content)
    with pytest.raises(UnsafeArchive, match="shares bytes"):
        unpack(archive, tmp_path / "images" / "a")


@pytest.mark.parametrize("kind", [".zip", ".tar.gz"])
def test_unpack__bombs(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "RATIO_FLOOR", 100_000)
    monkeypatch.setattr(archives, "RATIO_FLOOR", 100_000)
    folder = tmp_path / "images" / "a"
    for name in ("cat/1.jpg", "notes.md"):  # what is skipped must be decompressed too
        archive = make(tmp_path / f"a{kind}", {name: bytes(5_000_000)})
        with pytest.raises(UnsafeArchive, match=f"{name}.*200 times its size"):
            unpack(archive, folder)
    assert_nothing_left(folder)
    unpack(make(tmp_path / f"b{kind}", {"cat/1.jpg": bytes(50_000)}), folder)  # too small to be one


def test_unpack__bomb_behind_the_end_of_a_tar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import gzip

    monkeypatch.setattr(intake, "RATIO_FLOOR", 100_000)
    plain = make_tar(tmp_path / "a.tar", {"cat/1.jpg": b"x"}).read_bytes()
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(plain + bytes(5_000_000)))
    with pytest.raises(UnsafeArchive, match="what follows its last member"):
        unpack(tmp_path / "a.tar.gz", tmp_path / "images" / "a")


@pytest.mark.parametrize("kind", [".zip", ".tar"])
def test_unpack__too_many_members(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "MAX_MEMBERS", 3)
    with pytest.raises(UnsafeArchive, match="more than 3 members"):
        unpack(make(tmp_path / f"a{kind}", FILES), tmp_path / "images" / "a")


@pytest.mark.parametrize("kind", [".zip", ".tar"])
def test_unpack__too_many_bytes(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = make(tmp_path / f"a{kind}", FILES)
    with monkeypatch.context() as patch:
        patch.setattr(intake, "MAX_BYTES", 200_000)
        with pytest.raises(UnsafeArchive, match=r"größe\.jpg.*unpacks to more than"):
            unpack(archive, tmp_path / "images" / "a")
    usage = shutil.disk_usage(tmp_path)._replace(free=intake.RESERVE + 200_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(UnsafeArchive, match=r"größe\.jpg.*disk has to spare"):
        unpack(archive, tmp_path / "images" / "a")
    assert_nothing_left(tmp_path / "images" / "a")


def test_unpack__full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    archive = make_zip(tmp_path / "a.zip", FILES)
    monkeypatch.setattr(Intake, "write", full)
    with pytest.raises(SourceError, match=r"a\.zip: the disk is full.*Make room"):
        unpack(archive, tmp_path / "images" / "a")
    assert_nothing_left(tmp_path / "images" / "a")


@pytest.mark.parametrize("negative", [True, False])
def test_unpack__tar_sizes_that_lie(negative: bool, tmp_path: Path) -> None:
    info = member("cat/1.jpg", size=4)
    info.pax_headers = {"size": "-1024" if negative else "99999999"}
    archive = tmp_path / "a.tar"
    with tarfile.open(archive, "w", format=tarfile.PAX_FORMAT) as written:
        written.addfile(info, io.BytesIO(b"1234"))
    with pytest.raises(SourceError, match=r"negative|damaged"):
        unpack(archive, tmp_path / "images" / "a")


def test_unpack__tar_with_sparse_file(tmp_path: Path) -> None:
    info = member("cat/1.jpg", tarfile.GNUTYPE_SPARSE)
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[386:410] = b"%011o\0%011o\0" % (0, 0)
    header[483:495] = b"%011o\0" % 10**9  # the size that it claims
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    (tmp_path / "a.tar").write_bytes(bytes(header) + bytes(1024))
    with pytest.raises(UnsafeArchive, match="special file"):
        unpack(tmp_path / "a.tar", tmp_path / "images" / "a")


def test_unpack__tar_with_chain_or_size_of_headers(tmp_path: Path) -> None:
    chain = member("x", tarfile.XHDTYPE).tobuf(tarfile.USTAR_FORMAT) * 3000
    (tmp_path / "a.tar").write_bytes(chain + bytes(1024))
    huge = member("x", tarfile.GNUTYPE_LONGNAME, size=2**30).tobuf(tarfile.GNU_FORMAT)
    (tmp_path / "b.tar").write_bytes(member("1.jpg").tobuf() + huge)
    for name in ("a.tar", "b.tar"):
        with pytest.raises(SourceError, match="damaged"):
            unpack(tmp_path / name, tmp_path / "images" / "a")


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
