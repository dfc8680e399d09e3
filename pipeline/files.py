"""Files that are written whole or not at all, and known by the hash of their bytes.

Owns atomic writes, content hashes, and the memory of hashes already taken. It never
looks inside a file.
"""

from __future__ import annotations

import contextlib
import csv
import glob
import hashlib
import io
import json
import os
import secrets
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from pipeline.console import printable
from pipeline.errors import PipelineError

# A file modified twice within one tick of the file system's clock looks unmodified; 2 s is the coarsest
# clock in use (FAT). Entries younger than that are hashed again.
_SETTLED_NS = 2_000_000_000


def sha256_of(path: Path) -> str:
    """Hash a file's bytes.

    Parameters
    ----------
    path : Path
        A regular file.

    Returns
    -------
    str
        64 lower-case hexadecimal digits.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Write a file under a temporary name and put it in place only when whole.

    Parameters
    ----------
    path : Path
        The final name. Its folder is made where it is missing.

    Yields
    ------
    Path
        A temporary name in the same folder, to be written by the caller. On a clean exit it
        is synced to disk and renamed to `path`; on an exception it is removed and `path`
        stays as it was.

    Raises
    ------
    OSError
        The disk is full, or the folder cannot be written; its `filename` is `path`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name[:50]}.{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
        sync(temporary)
        temporary.replace(path)
        sync(path.parent)
    except OSError as error:
        # a full disk names no file, and the temporary name says nothing to anybody
        if error.filename is None or Path(error.filename) == temporary:
            _name_in(error, path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def replacing_folder(folder: Path) -> Iterator[Path]:
    """Fill a folder under a temporary name and put it in place only when whole.

    Parameters
    ----------
    folder : Path
        The final name. A folder of that name is replaced; leftovers of a killed run are removed.

    Yields
    ------
    Path
        An empty folder beside it, to be filled by the caller. On a clean exit it is synced to
        disk and renamed to `folder`; on an exception it is removed and `folder` stays as it was.

    Raises
    ------
    OSError
        The disk is full, or the folder beside cannot be written; its `filename` is `folder`.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    for leftover in folder.parent.glob(f".{glob.escape(folder.name)}.*.tmp"):
        if leftover.name.endswith(".old.tmp") and not folder.exists():
            leftover.rename(folder)  # killed between the two renames below
        else:
            shutil.rmtree(leftover)
    token = secrets.token_hex(4)
    temporary = folder.with_name(f".{folder.name}.{token}.tmp")
    former = folder.with_name(f".{folder.name}.{token}.old.tmp")
    temporary.mkdir()
    try:
        yield temporary
        os.sync()  # one call for tens of thousands of small files
        if folder.exists():
            folder.rename(former)
        try:
            temporary.rename(folder)
        except OSError:
            if former.exists():
                former.rename(folder)
            raise
        sync(folder.parent)
        shutil.rmtree(former, ignore_errors=True)
    except OSError as error:
        # as in `replacing`; without a number it is no failure of the file system, but damaged gzip or so
        if error.errno and (error.filename is None or Path(error.filename).is_relative_to(temporary)):
            _name_in(error, folder)
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _name_in(error: OSError, path: Path) -> None:
    """Have an error name what its reader knows, and nothing else."""
    error.filename = str(path)
    del error.filename2  # were it None, the text would end in "-> None"


def write_atomically(path: Path, data: bytes | str) -> bool:
    """Replace a file's content in one step; a reader sees the old or the new, never a part.

    A file that already holds `data` is left alone, times included.

    Returns
    -------
    bool
        Whether the content changed.
    """
    content = data.encode() if isinstance(data, str) else data
    if path.is_file() and path.read_bytes() == content:
        return False
    with replacing(path) as temporary:
        temporary.write_bytes(content)
    return True


def write_json(path: Path, value: Any) -> bool:
    """Write `value` as JSON: keys in the order given, the same bytes for the same value."""
    return write_atomically(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> bool:
    """Write a table as CSV (UTF-8, line feeds at line ends, fields quoted where needed)."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return write_atomically(path, text.getvalue())


def table_text(path: Path, error: type[PipelineError]) -> str:
    """Read the text of a table that people keep, such as a spreadsheet saves it.

    Raises
    ------
    PipelineError
        Of the kind `error`: it cannot be read, or is not UTF-8.
    """
    try:
        return path.read_bytes().decode("utf-8-sig")  # spreadsheets put a byte order mark first
    except UnicodeDecodeError as wrong:
        raise error(
            f"{printable(str(path))}: not UTF-8 at byte {wrong.start}. Save it as 'CSV UTF-8'."
        ) from None
    except OSError as wrong:
        raise error(f"{printable(str(path))}: cannot be read ({wrong.strerror}).") from None


def sync(path: Path) -> None:
    """Force a file or folder to disk, so that a power cut after this line loses nothing of it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class StatCache:
    """What is known of files whose size, times and inode have not changed since.

    A derived, disposable file: deleting it costs time and nothing else. A damaged one is
    treated as absent.

    Parameters
    ----------
    path : Path
        Where it is kept (JSON).
    version : int, default 1
        Raise it when the meaning of the remembered values changes; older files are ignored.
    """

    def __init__(self, path: Path, version: int = 1) -> None:
        self._path = path
        self._version = version
        self._known: dict[str, tuple[list[int], Any]] = {}
        self._changed = False
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError, AttributeError):
            stored = json.loads(path.read_bytes())
            if stored["version"] == version:
                self._known = {name: (stamp, value) for name, (stamp, value) in stored["files"].items()}

    def recall(self, name: str, status: os.stat_result) -> Any:
        """Return what was remembered of the file, or None if it is unknown, changed or too young."""
        stamp, value = self._known.get(name, (None, None))
        return value if stamp == _stamp(status) else None

    def remember(self, name: str, status: os.stat_result, value: Any) -> None:
        """Keep `value` (anything JSON can hold) for the file as `status` describes it.

        `status` must have been taken before the file was read. A file touched in the last
        two seconds is not remembered: another change could go unseen.
        """
        if time.time_ns() - max(status.st_mtime_ns, status.st_ctime_ns) < _SETTLED_NS:
            self._changed |= self._known.pop(name, None) is not None
            return
        self._known[name] = (_stamp(status), value)
        self._changed = True

    def keep_only(self, names: Iterable[str]) -> None:
        """Forget every file that is not among `names`."""
        wanted = set(names)
        gone = self._known.keys() - wanted
        for name in gone:
            del self._known[name]
        self._changed |= bool(gone)

    def save(self) -> None:
        """Write what is known, if anything has changed."""
        if self._changed:
            files = {name: [stamp, value] for name, (stamp, value) in sorted(self._known.items())}
            write_atomically(
                self._path, json.dumps({"version": self._version, "files": files}, separators=(",", ":"))
            )
            self._changed = False


def _stamp(status: os.stat_result) -> list[int]:
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
