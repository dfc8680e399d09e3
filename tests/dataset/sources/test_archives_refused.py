"""Archives that are refused: nothing of them is unpacked."""

from __future__ import annotations

import errno
import io
import shutil
import stat
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

from pipeline.dataset.sources import archives, intake
from pipeline.dataset.sources.archives import unpack
from pipeline.dataset.sources.intake import Intake
from pipeline.errors import SourceError, UnsafeArchive
from tests.dataset.sources.archive_files import (
    FILES,
    assert_nothing_left,
    make,
    make_tar,
    make_zip,
    member,
    tar_of,
)

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
