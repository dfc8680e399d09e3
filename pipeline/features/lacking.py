"""Images that lack features: which of their views, where their files are, and what became of those that fail.

Owns these lists, and how they are cut into parts. It computes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from pipeline.dataset.manifest import ImageRow
from pipeline.dataset.sources import image_file
from pipeline.errors import ManifestError


class Lacking(NamedTuple):
    """An image, and which of its views have no features yet."""

    image: ImageRow
    views: tuple[str, ...]


@dataclass(frozen=True)
class Failure:
    """An image that passed ``prepare`` and could not be read again."""

    path: str
    reason: str


@dataclass(frozen=True, eq=False)  # each is another one
class Located:
    """Images and their files, and those whose path leads nowhere."""

    wanted: list[Lacking]
    files: list[Path]
    failures: list[Failure]


def located(wanted: Sequence[Lacking], root: Path) -> Located:
    """Find the files of images; a path that leads out of the source is a failure."""
    located = Located([], [], [])
    for each in wanted:
        try:
            located.files.append(image_file(each.image.path, root))
            located.wanted.append(each)
        except ManifestError as error:
            located.failures.append(Failure(each.image.path, str(error)))
    return located


def parts_of(todo: Sequence[Lacking], rows: int) -> list[list[Lacking]]:
    """Cut images into parts of so many rows at most; the views of an image stay together."""
    parts: list[list[Lacking]] = []
    room = 0
    for each in todo:
        if room < len(each.views):
            parts.append([])
            room = rows
        parts[-1].append(each)
        room -= len(each.views)
    return parts
