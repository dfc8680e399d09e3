"""From a table of fixes to ``data/corrections.csv``, where ``prepare`` takes them from.

Owns the format of the table, and every check of it. Nothing is written unless all lines are sound.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast, get_args

from pipeline.console import printable
from pipeline.dataset.corrections import Correction, read_corrections, write_corrections
from pipeline.dataset.manifest import ImageRow, read_manifest
from pipeline.errors import ParamsError
from pipeline.files import table_text
from pipeline.params import did_you_mean
from pipeline.workspace import Workspace

#: Of a table that an audit writes. Needed are the path, and a label or an action.
HEADER = ("path", "label", "action", "was", "why")

Action = Literal["relabel", "exclude", "keep", "restore"]

# Spreadsheets run a cell that starts so (OWASP, "CSV Injection"); an apostrophe makes it text, and so
# it must stand before another apostrophe too.
_GUARDED = ("=", "+", "-", "@", "＝", "＋", "－", "＠", "\t", "\r", "'")


@dataclass(frozen=True)
class AppliedFixes:
    """What a table of fixes asked for.

    Attributes
    ----------
    relabelled, excluded, kept, restored : int
        Lines with that action.
    undecided : int
        Lines without an action.
    corrections : int
        Images that are corrected now, by this table and by earlier ones.
    changed : bool
        Whether ``data/corrections.csv`` changed.
    """

    relabelled: int
    excluded: int
    kept: int
    restored: int
    undecided: int
    corrections: int
    changed: bool


@dataclass(frozen=True, slots=True)
class _Fix:
    line: int
    path: str
    sha256: str
    action: Action | Literal[""]
    label: str


@dataclass(frozen=True)
class _Known:
    """What a table may name.

    Attributes
    ----------
    images : mapping of str to ImageRow
        By path.
    corrected : mapping of str to str
        Path to hash of images that have a correction, absent ones too.
    labels : collection of str
    """

    images: Mapping[str, ImageRow]
    corrected: Mapping[str, str]
    labels: Collection[str]


def apply_fixes(workspace: Workspace, file: Path, new_labels: Collection[str] = ()) -> AppliedFixes:
    """Take a table of fixes into the corrections of a workspace.

    Parameters
    ----------
    workspace : Workspace
        With a manifest.
    file : Path
        Columns ``path`` and ``label``, or ``action`` with or without ``label``; others of `HEADER` are for
        people. Actions: ``relabel``; ``exclude``; ``keep`` says that the label is right, so that it is not
        doubted again; ``restore`` forgets an earlier correction. A line whose action is empty is passed over;
        where there is no such column, each line relabels.
    new_labels : collection of str
        Labels that may be given though no image has them yet.

    Raises
    ------
    ParamsError
        The table is malformed, or names an unknown image or label.
    ManifestError
        There is no manifest, or it or the corrections are malformed.
    """
    before = read_corrections(workspace.corrections_file)
    rows = read_manifest(workspace.manifest_file).rows
    known = _Known(
        {row.path: row for row in rows},
        {correction.path: sha256 for sha256, correction in before.by_sha256.items()},
        {row.label for row in rows} | set(new_labels),
    )
    fixes = _read(file, known)
    corrections = before.merged(
        [
            Correction(fix.path, fix.sha256, "exclude" if fix.action == "exclude" else "relabel", fix.label)
            for fix in fixes
            if fix.action in ("relabel", "exclude", "keep")
        ],
        [fix.sha256 for fix in fixes if fix.action == "restore"],
    )
    changed = corrections != before and write_corrections(workspace.corrections_file, corrections)
    asked = [fix.action for fix in fixes]
    return AppliedFixes(
        relabelled=asked.count("relabel"),
        excluded=asked.count("exclude"),
        kept=asked.count("keep"),
        restored=asked.count("restore"),
        undecided=asked.count(""),
        corrections=len(corrections.by_sha256),
        changed=changed,
    )


def spelled(text: str) -> str:
    """Spell a cell so that no spreadsheet takes it for a formula; it is read back as it was."""
    return f"'{text}" if text.startswith(_GUARDED) else text


def _read(file: Path, known: _Known) -> list[_Fix]:
    lines = csv.reader(io.StringIO(table_text(file, ParamsError), newline=""), strict=True)
    fixes: list[_Fix] = []
    of_image: dict[str, _Fix] = {}
    try:
        header = [name.strip() for name in next(lines, [])]
        _check_header(header)
        for fields in lines:
            if not fields:  # a blank line
                continue
            fix = _parsed(lines.line_num, header, fields, known)
            fixes.append(fix)
            if not fix.action:
                continue
            other = of_image.setdefault(fix.sha256, fix)
            if (other.action, other.label) != (fix.action, fix.label):
                raise ValueError(
                    f"the image '{printable(fix.path)}' is dealt with otherwise in line {other.line}, "
                    f"there as '{printable(other.path)}'"
                )
    except (ValueError, csv.Error) as error:
        said = str(error) if str(error).endswith((".", "?")) else f"{error}."
        raise ParamsError(f"{printable(str(file))}, line {max(lines.line_num, 1)}: {said}") from None
    return fixes


def _check_header(header: list[str]) -> None:
    unknown = next((name for name in header if name not in HEADER), None)
    if unknown is not None:
        problem = f"unknown column '{printable(unknown)}'"
    elif "path" not in header:
        problem = "no column 'path'"
    elif not {"label", "action"} & set(header):
        problem = "neither a column 'label' nor a column 'action'"
    elif len(set(header)) < len(header):
        problem = "a column stands there twice"
    else:
        return
    raise ValueError(f"{problem}; expected a header such as path,label or path,action or {','.join(HEADER)}")


def _parsed(number: int, header: list[str], fields: list[str], known: _Known) -> _Fix:
    if len(fields) != len(header):
        raise ValueError(f"expected {len(header)} fields, found {len(fields)}")
    values = dict(zip(header, fields, strict=True))
    action = values.get("action", "relabel").strip()
    if action not in ("", *get_args(Action)):
        raise ValueError(
            f"action '{printable(action)}': expected {', '.join(get_args(Action))}, or nothing to pass "
            f"it over"
        )
    path = _meant(values["path"], known.images)
    if path is None and action == "restore":
        path = _meant(values["path"], known.corrected)
    if path is None:
        given = printable(values["path"])
        raise ValueError(f"no image '{given}' in data/manifest.csv.{did_you_mean(given, known.images)}")
    image = known.images.get(path)
    sha256 = known.corrected[path] if image is None else image.sha256
    label = ""
    if action == "relabel":
        label = _label(values.get("label", ""), known.labels)
    elif action == "keep" and image is not None:
        label = image.label
    if action and not sha256:
        raise ValueError(f"'{printable(path)}' could not be read, so that there is nothing to correct")
    return _Fix(number, path, sha256, cast("Action | Literal['']", action), label)


def _label(given: str, labels: Collection[str]) -> str:
    label = _meant(given, labels) or _meant(given.strip(), labels)
    if label is not None:
        return label
    if not given.strip():
        raise ValueError("no label. Write one, or the action exclude or keep")
    raise ValueError(
        f"no image has the label '{printable(given)}'. If it is a new class, name it with `--new-label`, too."
        f"{did_you_mean(given, labels)}"
    )


def _meant(given: str, known: Collection[str]) -> str | None:
    """Find what a cell names, spelled as it is or as `spelled` does."""
    return next((text for text in (given, given.removeprefix("'")) if text in known), None)
