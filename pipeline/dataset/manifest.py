"""``data/manifest.csv``: one row an image file, the meeting point of labels and features.

Owns the format. Sorted by path, free of times, the same bytes for the same images.
"""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from operator import attrgetter
from pathlib import Path
from typing import Literal, cast, get_args

from pipeline.errors import ManifestError
from pipeline.files import write_csv
from pipeline.params import SPLITS, Split

Status = Literal["ok", "quarantined", "conflict", "excluded"]


@dataclass(frozen=True, slots=True)
class ImageRow:
    """One image file.

    Attributes
    ----------
    path : str
        Relative to the source's folder, ``/`` between parts; bytes that are not UTF-8 are
        percent-encoded (and then a literal ``%`` too).
    label : str
        Its class.
    split : {"train", "val", "test", ""}
        Empty where `status` is not ``ok``.
    group : str
        Images of one group stay in one split; empty for an image on its own.
    sha256 : str
        Of the file's bytes, 64 hexadecimal digits; empty for a file that could not be read.
    bytes, width, height : int
        Size of the file, and of the image in pixels, upright; 0 where unknown.
    status : {"ok", "quarantined", "conflict", "excluded"}
        Only ``ok`` rows are used. ``conflict``: the same bytes stand under two labels. ``excluded``: left out
        by a correction.
    reason : str
        Why it is not used: a reason code; empty for ``ok``.
    """

    path: str
    label: str
    split: str
    group: str
    sha256: str
    bytes: int
    width: int
    height: int
    status: Status
    reason: str


_RESTORE = "The split is kept in it: restore it, or start over with `pipeline prepare --resplit`."

HEADER: tuple[str, ...] = tuple(field.name for field in fields(ImageRow))


@dataclass(frozen=True)
class Manifest:
    """The rows of ``data/manifest.csv``, sorted by path."""

    rows: tuple[ImageRow, ...]

    @property
    def usable(self) -> tuple[ImageRow, ...]:
        """Rows whose status is ``ok``, in manifest order."""
        return tuple(row for row in self.rows if row.status == "ok")

    @property
    def classes(self) -> tuple[str, ...]:
        """Labels of the usable rows, sorted."""
        return tuple(sorted({row.label for row in self.usable}))

    def of_split(self, split: Split) -> tuple[ImageRow, ...]:
        """Usable rows of one split, in manifest order."""
        return tuple(row for row in self.usable if row.split == split)


def write_manifest(path: Path, rows: Iterable[ImageRow]) -> bool:
    """Write the manifest, sorted by path; an unchanged one is not touched.

    Returns
    -------
    bool
        Whether the file changed.
    """
    ordered = sorted(rows, key=lambda row: row.path)
    return write_csv(path, HEADER, map(attrgetter(*HEADER), ordered))


def read_manifest(path: Path) -> Manifest:
    """Read and check the manifest.

    Raises
    ------
    ManifestError
        It is missing or malformed; the message names the line and the remedy.
    """
    try:
        text = path.read_bytes().decode("utf-8")
    except FileNotFoundError:
        raise ManifestError(f"{path}: no manifest yet. Run `pipeline prepare` first.") from None
    except UnicodeDecodeError as error:
        raise ManifestError(f"{path}: not UTF-8 ({error}). {_RESTORE}") from None
    lines = csv.reader(io.StringIO(text, newline=""), strict=True)
    rows: list[ImageRow] = []
    try:
        if next(lines, None) != list(HEADER):
            raise ValueError(f"expected the header {','.join(HEADER)}")
        rows.extend(parsed_row(line) for line in lines)
        if any(a.path >= b.path for a, b in itertools.pairwise(rows)):
            raise ValueError("paths are not sorted or not unique")
    except (ValueError, csv.Error) as error:
        raise ManifestError(f"{path}, line {lines.line_num}: {error}. {_RESTORE}") from None
    return Manifest(tuple(rows))


def parsed_row(line: Sequence[str]) -> ImageRow:
    """Return the row that a line's fields describe.

    Raises
    ------
    ValueError
        They describe none.
    """
    if len(line) != len(HEADER):
        raise ValueError(f"expected {len(HEADER)} fields, found {len(line)}")
    path, label, split, group, sha256, size, width, height, status, reason = line
    if status not in get_args(Status):
        raise ValueError(f"status {status!r} is not one of {', '.join(get_args(Status))}")
    if (split not in SPLITS) if status == "ok" else (split != ""):
        raise ValueError(f"split {split!r} does not fit status {status!r}")
    return ImageRow(
        path, label, split, group, sha256, int(size), int(width), int(height), cast("Status", status), reason
    )
