"""Unpacking archives of images: once, whole or not at all, and never outside their folder.

Owns the formats (zip; tar, plain or compressed) and the marker that says which archive a folder
was unpacked from. What may be unpacked is `intake`'s to say. It never changes an archive.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import lzma
import re
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, cast

from pipeline.console import printable
from pipeline.dataset.sources.intake import MAX_RATIO, RATIO_FLOOR, Intake
from pipeline.dataset.sources.names import UNPACKED_MARKER
from pipeline.dataset.sources.records import (
    progress_in_megabytes,
    read_json,
    remembered_sha256,
    write_failure,
)
from pipeline.errors import SourceError
from pipeline.files import replacing_folder, write_json

_TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
#: How the name of an archive ends, in any case.
SUFFIXES = (".zip", *_TAR_SUFFIXES)

# What the readers raise over damaged bytes: zipfile not only BadZipFile, and tarfile also what its
# decompressors raise, and RecursionError over a chain of extended headers.
_DAMAGE = (
    EOFError,
    NotImplementedError,
    OverflowError,
    RecursionError,
    ValueError,
    lzma.LZMAError,
    struct.error,
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
)

_ENCRYPTED = 0x1  # zip flag bits, APPNOTE.TXT 4.4.4
_UTF8_NAME = 0x800
_LOCAL_HEADER = 30  # bytes before the name in a zip member's own header, at least
_MAX_TAR_HEADER = 2**20  # of extended headers, which tarfile reads into memory whole


def is_archive_name(name: str) -> bool:
    """Whether a file's name ends like that of a supported archive."""
    return name.lower().endswith(SUFFIXES)


def folder_name(name: str) -> str:
    """Return the name of the folder for an archive's images: the same on every machine.

    Examples
    --------
    >>> folder_name("Pets (2019).tar.gz")
    'Pets__2019_-tar-gz'
    """
    suffix = next(suffix for suffix in SUFFIXES if name.lower().endswith(suffix))
    # The suffix stays in the name, so that an archive called digits.zip does not meet the digits.
    stem = re.sub(r"[^A-Za-z0-9_-]", "_", name[: -len(suffix)])
    return stem[:100] + suffix.replace(".", "-")


def is_unpacked(folder: Path) -> bool:
    """Whether some archive has been unpacked into `folder`, whole."""
    return read_json(folder / UNPACKED_MARKER) is not None


def unpack(archive: Path, folder: Path) -> None:
    """Unpack an archive's images and labels into `folder`, unless they are there.

    Parameters
    ----------
    archive : Path
        See `SUFFIXES`.
    folder : Path
        Put in place whole, with a marker of the archive's bytes in it. A folder unpacked from
        other bytes is replaced.

    Raises
    ------
    UnsafeArchive
        A member would leave the folder, is a link or device, or the archive unpacks to too much.
    SourceError
        The archive is damaged, encrypted, or cannot be read, or the disk is full.
    """
    with _problems_named(archive):
        sha256 = remembered_sha256(archive, folder.parent / ".archives.json")
        marker = read_json(folder / UNPACKED_MARKER)  # only a folder unpacked whole has one
        if marker and marker.get("sha256") == sha256:
            return
        with replacing_folder(folder) as temporary:
            intake = Intake(archive, temporary)
            if archive.name.lower().endswith(_TAR_SUFFIXES):
                _unpack_tar(archive, intake)
            else:
                _unpack_zip(archive, intake)
            marker = {"archive": archive.name, "bytes": archive.stat().st_size, "sha256": sha256}
            write_json(temporary / UNPACKED_MARKER, marker)


@contextlib.contextmanager
def _problems_named(archive: Path) -> Iterator[None]:
    try:
        yield
    except _DAMAGE as error:
        reason = printable(str(error)) or type(error).__name__
        raise SourceError(
            f"{printable(str(archive))}: damaged, or not the kind of archive that its name says ({reason}). "
            "Delete it and get it anew."
        ) from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise write_failure(archive, error) from error
        raise SourceError(
            f"{printable(str(archive))}: cannot be unpacked ({printable(error.strerror or str(error))})."
        ) from error


def _unpack_zip(archive: Path, intake: Intake) -> None:
    with zipfile.ZipFile(archive) as opened:
        members = opened.infolist()
        _refuse_overlaps(members, opened.start_dir, intake)
        wanted = []
        for member in members:
            name = _zip_name(member)
            _check_zip_member(member, name, intake)
            if name.endswith("/"):
                intake.admit_folder(name)
            elif target := intake.admit_file(name, member.file_size):
                wanted.append((member, target))
        total = sum(member.file_size for member, _ in wanted)
        with progress_in_megabytes(f"unpacking {printable(archive.name)}", total) as advance:
            for member, target in wanted:
                with opened.open(member) as content:
                    intake.write(content, target, member.file_size, advance)


def _check_zip_member(member: zipfile.ZipInfo, name: str, intake: Intake) -> None:
    if member.flag_bits & _ENCRYPTED:
        intake.refuse(name, "it is encrypted")
    kind = stat.S_IFMT(member.external_attr >> 16)  # 0 where the archive was not made on Unix
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        intake.refuse(name, "it is a link or a special file")
    if member.file_size > max(RATIO_FLOOR, MAX_RATIO * member.compress_size):
        intake.refuse(name, f"it unpacks to more than {MAX_RATIO} times its size")


def _refuse_overlaps(members: list[zipfile.ZipInfo], end: int, intake: Intake) -> None:
    """Refuse members that share bytes: a few of them can unpack to petabytes."""
    ordered = sorted(members, key=lambda member: member.header_offset)
    starts = [*(member.header_offset for member in ordered), end]
    for member, (start, following) in zip(ordered, itertools.pairwise(starts), strict=True):
        if start + _LOCAL_HEADER + member.compress_size > following:
            intake.refuse(_zip_name(member), "it shares bytes with another member")


def _zip_name(member: zipfile.ZipInfo) -> str:
    """Return a member's name; where its encoding is not declared, UTF-8 if it is that, else code page 437.

    `zipfile` takes 437 always, and so garbles the names that most Unix tools write.
    """
    if not member.flag_bits & _UTF8_NAME:
        with contextlib.suppress(UnicodeError):
            return member.filename.encode("cp437").decode("utf-8")
    return member.filename


def _unpack_tar(archive: Path, intake: Intake) -> None:
    with (
        archive.open("rb") as raw,
        progress_in_megabytes(f"unpacking {printable(archive.name)}", archive.stat().st_size) as advance,
        # tarfile's own extraction is not used: before Python 3.12 it follows '..' and links
        tarfile.open(fileobj=raw, mode="r:*", tarinfo=_TarMember) as opened,
    ):
        read = 0
        while (member := opened.next()) is not None:
            if member.isdir():
                intake.admit_folder(member.name)
            elif not member.isreg() or member.issparse():
                intake.refuse(member.name, "it is a link or a special file")
            elif target := intake.admit_file(member.name, member.size):
                with cast("IO[bytes]", opened.extractfile(member)) as content:
                    intake.write(content, target, member.size, lambda _: None)
            opened.members.clear()  # type: ignore[attr-defined]  # else it remembers millions
            advance(raw.tell() - read)
            read = raw.tell()
        # Up to the end, where gzip, bzip2 and xz keep their checksums.
        while rest := opened.fileobj.read(2**20):
            intake.count_rest(len(rest))
        advance(raw.tell() - read)


class _TarMember(tarfile.TarInfo):
    """A header that is either sound or an error; tarfile takes a damaged one for the end of the archive."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _TarMember:
        try:
            header = super().frombuf(buf, encoding, errors)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]  # a block of zeros: the proper end
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(str(error)) from None
        if header.type not in tarfile.REGULAR_TYPES and header.size > _MAX_TAR_HEADER:
            raise tarfile.ReadError("an extended header is too long")
        return header
