"""Names of files: which may be images, and how the manifest spells them.

Owns both rules, in both directions. It never opens a file.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from pipeline.console import printable
from pipeline.errors import ManifestError

LABELS_CSV = "labels.csv"  # beside the images, it gives their labels
UNPACKED_MARKER = ".unpacked.json"  # in a folder unpacked from an archive, it says which

#: Files that describe a source; they are neither images nor worth counting as something else.
BOOKKEEPING = frozenset({LABELS_CSV, UNPACKED_MARKER})

_JPEG_SUFFIXES = {".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"}
_IMAGE_SUFFIXES = frozenset(
    _JPEG_SUFFIXES | {".png", ".bmp", ".dib", ".gif", ".tif", ".tiff", ".webp", ".heic", ".heif"}
)
# What file managers, annotation tools and authors leave among images.
_OTHER_SUFFIXES = frozenset({".csv", ".db", ".ini", ".json", ".md", ".xml", ".yaml", ".yml"})
_OTHER_NAMES = re.compile(r"(readme|licen[cs]e|notice)\b|icon\r$")
_OTHER_FOLDERS = frozenset({"__macosx", "@eadir"})

_ESCAPE = re.compile(rb"%([0-9A-F]{2})")
_UNDECODABLE = re.compile("[\udc80-\udcff]")


def has_image_suffix(name: str) -> bool:
    """Whether a file's name says that it is an image, of a format that can be decoded."""
    return _suffix(name) in _IMAGE_SUFFIXES and not name.startswith(".")


def may_be_image(name: str) -> bool:
    """Whether a file in a class folder is taken for an image.

    Everything is, so that no image is lost for its name: whatever turns out not to be one is
    quarantined, with a reason. The exceptions are hidden files (AppleDouble's ``._x`` too),
    read-me and licence texts, and tables and notes such as ``Thumbs.db`` and ``boxes.json``.
    """
    if name.startswith("."):
        return False
    suffix = _suffix(name)
    return suffix in _IMAGE_SUFFIXES or not (suffix in _OTHER_SUFFIXES or _OTHER_NAMES.match(name.lower()))


def may_hold_images(folder: str) -> bool:
    """Whether a folder of this name is looked into: neither hidden nor an archiver's or server's own."""
    return not folder.startswith(".") and folder.lower() not in _OTHER_FOLDERS


def manifest_path(relative: str) -> str:
    """Spell a file's path as the manifest does.

    Parameters
    ----------
    relative : str
        Path below the source's root, as the operating system gives it, ``/`` between parts.

    Returns
    -------
    str
        The same text if it is UTF-8. Otherwise each byte that is not becomes ``%`` and two
        upper-case hexadecimal digits, and so does a literal ``%``; and also where a name holds
        such a sequence by itself, so that two files never share a spelling.
    """
    raw = os.fsencode(relative)
    text = raw.decode("utf-8", "surrogateescape")
    if not _UNDECODABLE.search(text) and not _ESCAPE.search(raw):
        return text
    return _UNDECODABLE.sub(lambda byte: f"%{ord(byte[0]) - 0xDC00:02X}", text.replace("%", "%25"))


def image_file(row_path: str, root: Path) -> Path:
    """Find the file that a manifest's path names.

    Parameters
    ----------
    row_path : str
        As in the manifest. It is foreign text: a manifest can be edited, or come from elsewhere.
    root : Path
        The source's folder.

    Returns
    -------
    Path
        The real path, links resolved, inside the real `root`. Whether it exists is not checked.

    Raises
    ------
    ManifestError
        The path is absolute, holds ``..`` or another spelling that `manifest_path` never gives,
        or leads out of `root` through a link.
    """
    raw = _ESCAPE.sub(lambda escape: bytes.fromhex(escape[1].decode()), row_path.encode("utf-8", "replace"))
    relative = os.fsdecode(raw)
    if manifest_path(relative) != row_path or not _is_plain(relative):
        raise ManifestError(
            f"path '{printable(row_path)}' in the manifest: expected a relative path without '..', as "
            "`pipeline prepare` writes it. Run that to write the manifest anew."
        )
    file = os.path.realpath(root / relative)
    if not is_inside(file, os.path.realpath(root)):
        raise ManifestError(
            f"path '{printable(row_path)}' in the manifest leads out of {printable(str(root))} through a "
            "link. Run `pipeline prepare`, which quarantines such files."
        )
    return Path(file)


def is_inside(real_path: str, real_root: str) -> bool:
    """Whether a real path (links resolved) is `real_root` or lies below it."""
    return real_path == real_root or real_path.startswith(real_root.rstrip("/") + "/")


def _is_plain(relative: str) -> bool:
    return "\0" not in relative and all(part not in ("", ".", "..") for part in relative.split("/"))


def _suffix(name: str) -> str:
    stem, dot, suffix = name.rpartition(".")
    return f".{suffix.lower()}" if stem and dot else ""
