"""What an archive may put into a folder: checked names, limited numbers, nothing but files.

Owns the rules that make unpacking a stranger's archive safe. It knows of no archive format.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import IO, NoReturn

from pipeline.console import printable
from pipeline.dataset.sources.names import LABELS_CSV, may_be_image, may_hold_images
from pipeline.errors import UnsafeArchive

MAX_MEMBERS = 5_000_000
MAX_BYTES = 100 * 2**30
#: Left free on the disk.
RESERVE = 2**30
#: What counts as a bomb: more than so many bytes out, and so many times what went in. Deflate cannot exceed
#: 1032:1, and photographs stay below 2:1; blank bitmaps reach some hundreds, and are small.
MAX_RATIO = 200
RATIO_FLOOR = 100 * 2**20

_DRIVE = re.compile(r"[A-Za-z]:")
_CHUNK = 2**20


class Intake:
    """Admits members of one archive, and writes them below one folder.

    Parameters
    ----------
    archive : Path
        Named in messages; its size bounds what may come out of it.
    folder : Path
        Empty, and nobody else's.
    """

    def __init__(self, archive: Path, folder: Path) -> None:
        self._archive = archive
        self._folder = folder
        self._free = shutil.disk_usage(folder).free - RESERVE
        self._expected = max(RATIO_FLOOR, MAX_RATIO * archive.stat().st_size)
        self._bytes = self._members = 0
        self._files: set[str] = set()
        self._folders: set[str] = set()

    def admit_folder(self, name: str) -> None:
        """Check a member that is a folder; it is made when a file needs it.

        Raises
        ------
        UnsafeArchive
            See `admit_file`.
        """
        self._count(name, 0)
        parts = self._parts(name)
        if parts:
            self._claim_folder("/".join(parts), name)

    def admit_file(self, name: str, size: int) -> Path | None:
        """Check a member that is a file.

        Parameters
        ----------
        name : str
            As in the archive, ``/`` between parts.
        size : int
            Bytes, unpacked.

        Returns
        -------
        Path or None
            Where to write it; None if it is no image by name, and not wanted.

        Raises
        ------
        UnsafeArchive
            Its name would leave the folder or is taken, or with it the archive holds too much.
        """
        self._count(name, size)
        parts = self._parts(name)
        path = "/".join(parts)
        if not parts or path in self._files or path in self._folders:
            self.refuse(name, "its name stands in the archive twice" if parts else "it has no name")
        self._files.add(path)
        if len(parts) > 1:
            self._claim_folder("/".join(parts[:-1]), name)
        *folders, file = parts
        wanted = file == LABELS_CSV or (may_be_image(file) and all(map(may_hold_images, folders)))
        return self._folder.joinpath(*parts) if wanted else None

    def write(self, content: IO[bytes], target: Path, size: int, advance: Callable[[int], None]) -> None:
        """Write one member; `advance` is called with each number of bytes written.

        Raises
        ------
        EOFError
            The archive holds fewer bytes than it declared.
        """
        target.parent.mkdir(parents=True, exist_ok=True)
        left = size  # never write more than was admitted
        with target.open("xb") as file:
            while left:
                chunk = content.read(min(left, _CHUNK))
                if not chunk:
                    raise EOFError(f"'{printable(target.name)}' is shorter than declared")
                file.write(chunk)
                left -= len(chunk)
                advance(len(chunk))
        if content.read(1):  # also makes zip files check the last bytes' checksum
            raise EOFError(f"'{printable(target.name)}' is longer than declared")

    def count_rest(self, size: int) -> None:
        """Count bytes that belong to no member, against the same limits."""
        self._bytes += size
        self._check_bytes("what follows its last member")

    def refuse(self, name: str, reason: str) -> NoReturn:
        """Refuse the archive for one of its members."""
        raise UnsafeArchive(
            f"{printable(str(self._archive))}: refused for '{printable(name)}': {reason}. "
            "Nothing was unpacked. If you trust it, unpack it yourself and name the folder."
        )

    def _count(self, name: str, size: int) -> None:
        self._members += 1
        if size < 0:
            self.refuse(name, "its size is negative")
        if self._members > MAX_MEMBERS:
            self.refuse(name, f"more than {MAX_MEMBERS:,} members")
        self._bytes += size
        self._check_bytes(name)

    def _check_bytes(self, name: str) -> None:
        if self._bytes > MAX_BYTES:
            self.refuse(name, f"with it the archive unpacks to more than {MAX_BYTES / 2**30:.0f} GiB")
        if self._bytes > self._free:
            self.refuse(
                name,
                f"with it the archive needs more than the disk has to spare ({self._free / 2**30:.1f} GiB)",
            )
        if self._bytes > self._expected:
            self.refuse(name, f"with it the archive unpacks to more than {MAX_RATIO} times its size")

    def _parts(self, name: str) -> list[str]:
        if name.startswith("/") or _DRIVE.match(name) or "\\" in name:
            self.refuse(name, "expected a relative path with '/' between its parts")
        parts = [part for part in name.split("/") if part not in ("", ".")]
        if ".." in parts:
            self.refuse(name, "'..' would lead out of the folder")
        return parts

    def _claim_folder(self, path: str, name: str) -> None:
        while path and path not in self._folders:
            if path in self._files:
                self.refuse(name, f"'{printable(path)}' is both a file and a folder")
            self._folders.add(path)
            path = path.rpartition("/")[0]
