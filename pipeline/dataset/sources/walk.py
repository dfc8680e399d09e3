"""Listing the files below folders of a source, without ever leaving the source.

Owns the treatment of links, loops, special files and unreadable folders. It opens no file and
knows nothing of labels but to pass them on.
"""

from __future__ import annotations

import os
import stat
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pipeline import console
from pipeline.console import printable
from pipeline.dataset.sources.names import (
    BOOKKEEPING,
    is_inside,
    manifest_path,
    may_be_image,
    may_hold_images,
)
from pipeline.errors import SourceError


@dataclass(frozen=True, slots=True)
class Candidate:
    """One file that may be an image.

    Attributes
    ----------
    path : str
        As in the manifest: relative to the source's root, see `names.manifest_path`.
    file : Path
        Where it lies.
    label : str
        Its class.
    split : {"train", "val", "test", ""}
        Empty unless the source itself says.
    group : str
        Empty unless a labels CSV says.
    reason : str
        Empty, or why it is quarantined without being opened: ``not_regular`` (a pipe, socket or
        device), ``symlink_outside`` (a link that leaves the source), ``symlink_broken``, or
        ``missing`` (named in the labels CSV, and not there).
    """

    path: str
    file: Path
    label: str
    split: str = ""
    group: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class LabelledFolder:
    """A folder below the source's root, whose files share a label and a split."""

    relative: str
    label: str
    split: str = ""


@dataclass(frozen=True)
class Listing:
    """What was found: candidates in no particular order, and how many files are no images by name."""

    candidates: list[Candidate]
    ignored: int


def list_files(root: Path, folders: Iterable[LabelledFolder]) -> Listing:
    """List every file below `folders`, at any depth.

    Links to files and folders are followed where they stay inside `root`. A folder that can be
    reached in several ways is listed once, under its own name rather than a link's.

    Parameters
    ----------
    root : Path
        The source's folder.
    folders : iterable of LabelledFolder
        ``""`` as `relative` is the root itself.

    Raises
    ------
    SourceError
        A folder cannot be read.
    """
    listing = _Lister(root)
    for folder in folders:
        listing.admit(folder)
    return listing.run()


class _Lister:
    def __init__(self, root: Path) -> None:
        self._root = root
        self._real_root = os.path.realpath(root)
        self._folders: list[LabelledFolder] = []
        self._links: deque[LabelledFolder] = deque()  # after all else: a folder's own name goes first
        self._seen: set[tuple[int, int]] = set()  # device and inode of folders, against loops
        self._candidates: list[Candidate] = []
        self._ignored = 0

    def admit(self, folder: LabelledFolder) -> None:
        path = self._root / folder.relative
        if not path.is_symlink() or not folder.relative:
            self._folders.append(folder)
        elif is_inside(os.path.realpath(path), self._real_root):
            self._links.append(folder)
        else:
            console.warn(f"{printable(str(path))}: a link to a folder outside the source, not followed")

    def run(self) -> Listing:
        while self._folders or self._links:
            folder = self._folders.pop() if self._folders else self._links.popleft()
            path = self._root / folder.relative
            try:
                status = path.stat()
            except OSError as error:
                raise _unreadable(path, error) from None
            if (status.st_dev, status.st_ino) in self._seen:
                console.warn(
                    f"{printable(str(path))}: a link to a folder that is listed anyway, not followed"
                )
                continue
            self._seen.add((status.st_dev, status.st_ino))
            self._list(folder, path)
        return Listing(self._candidates, self._ignored)

    def _list(self, folder: LabelledFolder, path: Path) -> None:
        prefix = f"{folder.relative}/" if folder.relative else ""
        for entry in entries(path):
            if is_folder(entry):
                if may_hold_images(entry.name):
                    self.admit(LabelledFolder(prefix + entry.name, folder.label, folder.split))
            elif may_be_image(entry.name):
                reason = ""
                if not entry.is_file(follow_symlinks=False):
                    reason = file_reason(entry.path, self._real_root)
                relative = prefix + entry.name
                self._candidates.append(
                    Candidate(
                        manifest_path(relative), path / entry.name, folder.label, folder.split, reason=reason
                    )
                )
            elif entry.name not in BOOKKEEPING:
                self._ignored += 1


def entries(folder: Path) -> list[os.DirEntry[str]]:
    """List one folder, sorted by name.

    Raises
    ------
    SourceError
        It cannot be read.
    """
    try:
        with os.scandir(folder) as found:
            return sorted(found, key=lambda entry: entry.name)
    except OSError as error:
        raise _unreadable(folder, error) from None


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a folder, or a link to one."""
    if not entry.is_symlink():
        return entry.is_dir(follow_symlinks=False)
    mode = mode_of(entry.path)
    return mode is not None and stat.S_ISDIR(mode)


def file_reason(path: str, real_root: str) -> str:
    """Return ``""`` for a regular file inside `real_root`, or the reason code that says what it is."""
    if not is_inside(os.path.realpath(path), real_root):
        return "symlink_outside"
    mode = mode_of(path)
    if mode is not None:
        return "" if stat.S_ISREG(mode) else "not_regular"
    return "symlink_broken" if Path(path).is_symlink() else "missing"


def _unreadable(folder: Path, error: OSError) -> SourceError:
    return SourceError(
        f"{printable(str(folder))}: this folder cannot be read ({error.strerror}). "
        "Make it readable (`chmod u+rx`), or move it out of the source."
    )


def mode_of(path: str) -> int | None:
    """Return the type and permissions of what a path leads to, or None where it leads to nothing."""
    try:
        return Path(path).stat().st_mode
    except OSError:  # nothing there, a link to nothing or to itself, or an unreadable folder on the way
        return None
