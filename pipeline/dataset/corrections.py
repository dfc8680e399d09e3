"""``data/corrections.csv``: what people know better about images than the source does.

Owns the format, and what a correction means. A correction goes with the bytes of an image, so that it
follows a file that is moved, holds for all its copies, and never meets another image under its name.
The source itself is not touched.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from operator import attrgetter
from pathlib import Path
from typing import Literal, cast, get_args

from pipeline import console
from pipeline.console import counted, printable
from pipeline.dataset.sources.walk import Candidate
from pipeline.errors import ManifestError
from pipeline.files import write_csv

Action = Literal["relabel", "exclude"]

#: Why a row of the manifest has the status ``excluded``.
EXCLUDED_REASON = "corrections"


@dataclass(frozen=True, slots=True)
class Correction:
    """What is to become of one image.

    Attributes
    ----------
    path : str
        Where it was when it was corrected, as the manifest names it. It says nothing to `prepare`.
    sha256 : str
        Of its bytes.
    action : {"relabel", "exclude"}
        Give it `label`, whatever the source says, or leave it out.
    label : str
        Empty for ``exclude``.
    """

    path: str
    sha256: str
    action: Action
    label: str


_HEADER = tuple(item.name for item in fields(Correction))
_REMEDY = "Restore it from git, or delete it and apply the corrections again."


@dataclass(frozen=True)
class Corrections:
    """All corrections of a workspace.

    Attributes
    ----------
    by_sha256 : mapping of str to Correction
        At most one for the same bytes.
    """

    by_sha256: Mapping[str, Correction] = field(default_factory=dict)

    def label(self, sha256: str) -> str | None:
        """Return the label that an image is to have, or None if nothing is said of it."""
        correction = self.by_sha256.get(sha256)
        return correction.label if correction and correction.action == "relabel" else None

    def excludes(self, sha256: str) -> bool:
        """Say whether an image is to be left out."""
        correction = self.by_sha256.get(sha256)
        return correction is not None and correction.action == "exclude"

    def relabelled(self, candidates: Iterable[Candidate], sha256: Mapping[str, str]) -> list[Candidate]:
        """Give candidates the labels that they are to have.

        Parameters
        ----------
        candidates : iterable of Candidate
        sha256 : mapping of str to str
            Hash of each, by path; empty where there is none.
        """
        return [
            candidate if label is None else replace(candidate, label=label)
            for candidate in candidates
            for label in [self.label(sha256[candidate.path])]
        ]

    def tell(self, candidates: Sequence[Candidate], sha256: Mapping[str, str], path: Path) -> None:
        """Say how many candidates are corrected, and warn of corrections to images that are not among them.

        Parameters
        ----------
        candidates, sha256
            See `relabelled`.
        path : Path
            Where the corrections stand.
        """
        relabelled = sum(self.label(sha256[each.path]) not in (None, each.label) for each in candidates)
        excluded = sum(self.excludes(sha256[each.path]) for each in candidates)
        if relabelled or excluded:
            console.note(f"corrections: {counted(relabelled, 'image')} relabelled, {excluded} excluded")
        absent = [self.by_sha256[image] for image in self.by_sha256.keys() - set(sha256.values())]
        if absent:
            first = min(correction.path for correction in absent)
            console.warn(
                f"{printable(str(path))}: {counted(len(absent), 'correction')} of images that the source "
                f"does not hold, or holds with other bytes, such as {printable(first)}. Remove the "
                f"{'line' if len(absent) == 1 else 'lines'} if they are gone for good."
            )

    def merged(self, changes: Iterable[Correction], restored: Iterable[str] = ()) -> Corrections:
        """Return these corrections with others in the place of those of the same images.

        Parameters
        ----------
        changes : iterable of Correction
        restored : iterable of str
            Hashes of images that are as the source has them again.
        """
        kept = dict(self.by_sha256)
        for sha256 in restored:
            kept.pop(sha256, None)
        return Corrections(kept | {change.sha256: change for change in changes})


def read_corrections(path: Path) -> Corrections:
    """Read the corrections; none where there is no file.

    Raises
    ------
    ManifestError
        It is malformed; the message names the line and the remedy.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        return Corrections()
    except UnicodeDecodeError as error:
        raise ManifestError(f"{path}: not UTF-8 ({error}). {_REMEDY}") from None
    lines = csv.reader(io.StringIO(text, newline=""), strict=True)
    found: dict[str, Correction] = {}
    try:
        if next(lines, None) != list(_HEADER):
            raise ValueError(f"expected the header {','.join(_HEADER)}")
        for line in lines:
            correction = _parsed(line)
            if correction.sha256 in found:
                raise ValueError(f"the image '{printable(correction.path)}' is corrected twice")
            found[correction.sha256] = correction
    except (ValueError, csv.Error) as error:
        raise ManifestError(f"{path}, line {max(lines.line_num, 1)}: {error}. {_REMEDY}") from None
    return Corrections(found)


def write_corrections(path: Path, corrections: Corrections) -> bool:
    """Write corrections, sorted by path; return whether the file changed."""
    ordered = sorted(corrections.by_sha256.values(), key=attrgetter("path", "sha256"))
    return write_csv(path, _HEADER, map(attrgetter(*_HEADER), ordered))


def _parsed(line: Sequence[str]) -> Correction:
    if len(line) != len(_HEADER):
        raise ValueError(f"expected {len(_HEADER)} fields, found {len(line)}")
    path, sha256, action, label = line
    if len(sha256) != 64 or not set(sha256) <= set("0123456789abcdef"):
        raise ValueError(f"sha256 {printable(sha256)!r}: expected 64 hexadecimal digits")
    if action not in get_args(Action):
        raise ValueError(f"action {printable(action)!r} is not one of {', '.join(get_args(Action))}")
    if (action == "relabel") != bool(label):
        raise ValueError(f"label {printable(label)!r} does not fit the action {action}")
    return Correction(path, sha256, cast("Action", action), label)
