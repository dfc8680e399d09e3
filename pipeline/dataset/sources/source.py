"""Where images come from: a folder, an archive, ``digits`` or ``cats-dogs``.

Owns the meaning of ``dataset.source`` in ``params.yaml``. It downloads and unpacks where needed,
and lists. It opens no image, and never writes into a source.
"""

from __future__ import annotations

import stat
from dataclasses import dataclass
from pathlib import Path

from pipeline.console import printable
from pipeline.dataset.sources import archives, digits, downloads
from pipeline.dataset.sources.layouts import list_images
from pipeline.dataset.sources.walk import Candidate, mode_of
from pipeline.errors import SourceError, SourceMissing
from pipeline.params import NAMED_SOURCES, missing_source
from pipeline.workspace import Workspace

#: The Kaggle Cats and Dogs data set: 25,000 photographs, 787 MB, at Microsoft's download site.
CATS_DOGS_URL = (
    "https://download.microsoft.com/download/3/e/1/3e1c3f21-ecdb-4869-8368-6deba77b919f/"
    "kagglecatsanddogs_5340.zip"
)


@dataclass(frozen=True)
class Source:
    """The files of a source that may be images.

    Attributes
    ----------
    root : Path
        The folder that candidates' paths are relative to.
    candidates : tuple of Candidate
        Sorted by path, which is unique.
    ignored : int
        How many files are no images by name (hidden ones, ``Thumbs.db``, read-me texts).
    """

    root: Path
    candidates: tuple[Candidate, ...]
    ignored: int


def open_source(source: str, workspace: Workspace) -> Source:
    """Make a source's files available, and list them.

    Parameters
    ----------
    source : str
        ``digits``, ``cats-dogs``, or the path of a folder or archive; a relative one starts at
        the workspace, and ``~`` is the home folder.
    workspace : Workspace
        Archives and named sources are unpacked below its `images_folder`.

    Raises
    ------
    SourceMissing
        There is nothing of that name.
    SourceError
        It is neither a folder nor an archive, holds no images in a known layout, cannot be read
        or fetched, or is an archive that is damaged or unsafe.
    """
    root = source_root(source, workspace)
    if source == "digits":
        digits.write_digits(root)
    elif source == "cats-dogs" and not archives.is_unpacked(root):  # the archive may then be deleted
        archive = workspace.download_folder / CATS_DOGS_URL.rpartition("/")[2]
        downloads.fetch(CATS_DOGS_URL, archive)
        archives.unpack(archive, root)
    elif source not in NAMED_SOURCES and _is_archive(source, workspace):
        archives.unpack(_path(source, workspace), root)
    listing = list_images(root)
    return Source(root, tuple(listing.candidates), listing.ignored)


def source_root(source: str, workspace: Workspace) -> Path:
    """Return where a source's files lie once it is prepared: a folder itself, or the unpacked copy.

    Nothing is listed, fetched or checked; the folder may not exist.
    """
    if source in NAMED_SOURCES:
        return workspace.images_folder / source
    path = _path(source, workspace)
    if archives.is_archive_name(path.name) and not stat.S_ISDIR(mode_of(str(path)) or 0):
        return workspace.images_folder / archives.folder_name(path.name)
    return path


def _is_archive(source: str, workspace: Workspace) -> bool:
    """Tell an archive (True) from a folder (False); anything else is an error."""
    path = _path(source, workspace)
    shown = printable(str(path))
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise missing_source(source, str(path), "pipeline prepare") from None
    except OSError as error:
        raise SourceError(f"{shown}: cannot be reached ({error.strerror}).") from None
    if stat.S_ISDIR(mode):
        return False
    if stat.S_ISREG(mode) and archives.is_archive_name(path.name):
        return True
    raise SourceError(
        f"{shown}: neither a folder nor an archive. Expected a folder of images, or a file that ends in "
        f"{', '.join(archives.SUFFIXES)}."
    )


def _path(source: str, workspace: Workspace) -> Path:
    try:
        return workspace.root / Path(source).expanduser()
    except RuntimeError:
        raise SourceMissing(f"{printable(source)}: no such user. Write the path in full.") from None
