"""How a folder of images says which class each belongs to.

Owns the recognition of the three layouts: a labels CSV, split folders, class folders; in that
order. It opens no image.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pipeline import console
from pipeline.console import printable
from pipeline.dataset.sources.labels_csv import SPLIT_NAMES, list_labelled
from pipeline.dataset.sources.names import (
    BOOKKEEPING,
    LABELS_CSV,
    has_image_suffix,
    manifest_path,
    may_hold_images,
)
from pipeline.dataset.sources.walk import Candidate, LabelledFolder, Listing, entries, is_folder, list_files
from pipeline.errors import SourceError


@dataclass(frozen=True)
class _Level:
    """What lies directly in one folder; links to folders count as folders."""

    base: str  # below the source's root
    folders: list[str]
    images: list[str]  # by name
    others: int
    has_labels: bool

    def below(self, name: str) -> str:
        return f"{self.base}/{name}" if self.base else name


def list_images(root: Path) -> Listing:
    """List the files of a folder of images that may be images, with label and split.

    Parameters
    ----------
    root : Path
        The source's folder. A single folder around everything, as archives have, is gone into.

    Returns
    -------
    Listing
        Candidates sorted by path.

    Raises
    ------
    SourceError
        None of the layouts fits, or a folder cannot be read.
    """
    level = _unwrapped(root)
    if level.has_labels:
        listing = list_labelled(root, level.base)
    elif splits := _split_folders(root, level):
        classes = []
        for name, split in splits.items():
            inner = _look(root, level.below(name))
            _warn_of_strays(root, inner)
            classes += [LabelledFolder(inner.below(label), _label(label), split) for label in inner.folders]
        listing = _list_classes(root, level, classes)
    else:
        classes = [LabelledFolder(level.below(name), _label(name)) for name in level.folders]
        listing = _list_classes(root, level, classes)
    candidates: list[Candidate] = sorted(listing.candidates, key=lambda candidate: candidate.path)
    return Listing(candidates, listing.ignored)


def _list_classes(root: Path, level: _Level, classes: list[LabelledFolder]) -> Listing:
    listing = list_files(root, classes)
    if not listing.candidates:
        lying = f" {len(level.images)} lie directly in it." if level.images else ""
        raise SourceError(
            f"{printable(str(root))}: no images found in class folders.{lying} Expected a folder for each "
            "class (cat/1.jpg), or train/ with val/ or test/ that hold such folders (train/cat/1.jpg), or a "
            f"{LABELS_CSV} with the columns path,label[,group][,split]."
        )
    _warn_of_strays(root, level)
    found = {(candidate.label, candidate.split) for candidate in listing.candidates}
    empty = [folder.relative for folder in classes if (folder.label, folder.split) not in found]
    if empty:
        console.warn(f"class folders without images: {printable(', '.join(empty))}")
    return Listing(listing.candidates, listing.ignored + level.others)


def _unwrapped(root: Path) -> _Level:
    level = _look(root, "")
    while len(level.folders) == 1 and not level.images and not level.has_labels:
        [name] = level.folders
        inner = _look(root, level.below(name))
        # A lone folder that holds images is a class, not a wrapper. A link is not gone into: it may lead
        # back up.
        holds_more = inner.folders or inner.has_labels
        if inner.images or not holds_more or (root / inner.base).is_symlink():
            break
        level = inner
    return level


def _split_folders(root: Path, level: _Level) -> dict[str, str]:
    """Return split by folder name, or nothing where the folders are not splits."""
    splits = {name: SPLIT_NAMES[name.lower()] for name in level.folders if name.lower() in SPLIT_NAMES}
    if "train" not in splits.values() or len(set(splits.values())) < 2:
        return {}
    others = [name for name in level.folders if name not in splits]
    if others or len(set(splits.values())) < len(splits):
        where = printable(str(root / level.base))
        raise SourceError(
            f"{where}: the folders {', '.join(splits)} look like splits, but "
            + (
                f"'{printable(others[0])}' stands beside them"
                if others
                else "two of them mean the same split"
            )
            + ". Move away what is not meant, or give the labels in a labels.csv."
        )
    return splits


def _look(root: Path, base: str) -> _Level:
    folders, images, others, has_labels = [], [], 0, False
    for entry in entries(root / base):
        if is_folder(entry):
            if may_hold_images(entry.name):
                folders.append(entry.name)
        elif has_image_suffix(entry.name):
            images.append(entry.name)
        elif entry.name == LABELS_CSV:
            has_labels = True
        elif entry.name not in BOOKKEEPING:
            others += 1
    return _Level(base, folders, images, others, has_labels)


def _label(folder: str) -> str:
    return manifest_path(folder)  # UTF-8, whatever the folder's name is


def _warn_of_strays(root: Path, level: _Level) -> None:
    if level.images:
        console.warn(
            f"{len(level.images)} image files lie directly in {printable(str(root / level.base))}, beside "
            f"the class folders, and are not used: {printable(', '.join(level.images[:3]))}"
            f"{', …' if len(level.images) > 3 else ''}"
        )
