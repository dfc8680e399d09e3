"""``labels.csv``: labels, groups and splits that a table gives, instead of folders.

Owns the format, and the check that no line reaches outside the table's folder. It opens no image.
"""

from __future__ import annotations

import csv
import io
import os
from dataclasses import dataclass
from pathlib import Path

from pipeline import console
from pipeline.console import printable
from pipeline.dataset.sources.names import LABELS_CSV, has_image_suffix, manifest_path
from pipeline.dataset.sources.walk import Candidate, LabelledFolder, Listing, file_reason, list_files
from pipeline.errors import SourceError
from pipeline.files import table_text

#: What people call the splits, in lower case.
SPLIT_NAMES = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}

_REQUIRED = ("path", "label")
_COLUMNS = (*_REQUIRED, "group", "split")
_FORMAT = "path,label[,group][,split]"


@dataclass(frozen=True)
class _Line:
    number: int
    path: str
    label: str
    group: str
    split: str


def list_labelled(root: Path, base: str) -> Listing:
    """List the files that a ``labels.csv`` names.

    Parameters
    ----------
    root : Path
        The source's folder.
    base : str
        Where below it the table lies; the table's paths are relative to that. White space
        around labels, groups and splits does not count.

    Raises
    ------
    SourceError
        The table is malformed, names a file twice, or leaves its folder; the message names the
        line.
    """
    table = root / base / LABELS_CSV
    real_root = os.path.realpath(root)
    if reason := file_reason(os.fspath(table), real_root):
        raise SourceError(f"{printable(str(table))}: expected a regular file in the source, found {reason}.")
    present = list_files(root, [LabelledFolder(base, "")])
    unnamed = {candidate.path: candidate for candidate in present.candidates}
    candidates = []
    for line in _read(table):
        relative = f"{base}/{line.path}" if base else line.path
        path = manifest_path(relative)
        file = root / relative
        known = unnamed.pop(path, None)
        # Not among those listed: missing, hidden, named like a text, or behind a link.
        reason = known.reason if known else file_reason(os.fspath(file), real_root)
        candidates.append(Candidate(path, file, line.label, line.split, line.group, reason))
    images = sorted(path for path in unnamed if has_image_suffix(path.rpartition("/")[2]))
    if images:
        console.warn(
            f"{len(images)} image files are not named in {printable(str(table))} and not used: "
            f"{printable(', '.join(images[:3]))}{', …' if len(images) > 3 else ''}"
        )
    return Listing(candidates, present.ignored)


def _read(table: Path) -> list[_Line]:
    found: dict[str, _Line] = {}
    lines = csv.reader(io.StringIO(table_text(table, SourceError), newline=""), strict=True)
    try:
        header = [name.strip() for name in next(lines, [])]
        _check_header(header)
        for fields in lines:
            if not fields:  # a blank line
                continue
            line = _parsed(lines.line_num, header, fields)
            if line.path in found:
                raise ValueError(f"'{printable(line.path)}' stands in line {found[line.path].number} already")
            found[line.path] = line
    except (ValueError, csv.Error) as error:
        raise SourceError(f"{printable(str(table))}, line {max(lines.line_num, 1)}: {error}.") from None
    if not found:
        raise SourceError(f"{printable(str(table))}: names no images. Expected lines of {_FORMAT}.")
    return list(found.values())


def _check_header(header: list[str]) -> None:
    unknown = [name for name in header if name not in _COLUMNS]
    missing = [name for name in _REQUIRED if name not in header]
    if unknown or missing:
        problem = f"unknown column '{unknown[0]}'" if unknown else f"no column '{missing[0]}'"
        raise ValueError(f"{printable(problem)}; expected the header {_FORMAT}, in any order")
    if len(set(header)) < len(header):
        raise ValueError(f"a column stands twice in the header {','.join(header)}")


def _parsed(number: int, header: list[str], fields: list[str]) -> _Line:
    if len(fields) != len(header):
        raise ValueError(f"expected {len(header)} fields, found {len(fields)}")
    values = dict(zip(header, fields, strict=True))
    label, group, split = (values.get(name, "").strip() for name in ("label", "group", "split"))
    if not label:
        raise ValueError("the label is empty")
    if split and split.lower() not in SPLIT_NAMES:
        raise ValueError(f"split '{printable(split)}': expected train, val, test or nothing")
    return _Line(number, _plain(values["path"]), label, group, SPLIT_NAMES.get(split.lower(), ""))


def _plain(path: str) -> str:
    """Drop what does not matter in a relative path (``./``), and refuse whatever is not one."""
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if not parts or path.startswith("/") or ".." in parts or "\0" in path:
        raise ValueError(
            f"path '{printable(path)}': expected a path below the table's folder, relative and without '..'"
        )
    return "/".join(parts)
