"""Whether a set of images can be learned from.

Owns what is refused, and what is only warned of, with the remedy for each. It changes nothing.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from pipeline import console
from pipeline.dataset.manifest import ImageRow
from pipeline.dataset.splits import leaks, misplaced
from pipeline.errors import ParamsError, SourceError
from pipeline.params import SPLITS, SplitParams

_LAYOUTS = "Expected one folder a class, a labels.csv, or train/, val/ and test/ with one folder a class."
_NAMED = 5  # how many classes or files a message names


def check_limit(limit: int, classes: int) -> None:
    """Refuse a sample too small for its classes.

    Raises
    ------
    ParamsError
        It holds less than two images a class.
    """
    if limit < 2 * classes:
        raise ParamsError(
            f"dataset.limit: {limit} images are too few for {classes} classes. "
            f"Expected at least {2 * classes}, or null for all."
        )


def check_images(rows: Sequence[ImageRow], source: str) -> None:
    """Refuse images of which no classifier can be made.

    Raises
    ------
    SourceError
        There are no images, none can be used, they are all of one class, or a class has a
        single usable image.
    """
    source = console.printable(source)
    if not rows:
        raise SourceError(f"{source}: no images found. {_LAYOUTS}")
    usable = [row for row in rows if row.status == "ok"]
    if not usable:
        counts = Counter(row.reason for row in rows)
        found = ", ".join(f"{count} {reason}" for reason, count in counts.most_common())
        raise SourceError(f"{source}: none of {len(rows)} images can be used ({found}). {_LAYOUTS}")
    for label in sorted({row.label for row in rows} - {row.label for row in usable}):
        counts = Counter(row.reason for row in rows if row.label == label)
        found = ", ".join(f"{count} {reason}" for reason, count in counts.most_common())
        console.warn(f"class {_names([label])} is left out: none of its images can be used ({found}).")
    different: defaultdict[str, set[str]] = defaultdict(set)
    for row in usable:
        different[row.label].add(row.sha256)
    if len(different) == 1:
        raise SourceError(
            f"{source}: one class only, {_names(different)}; at least two are needed. {_LAYOUTS}"
        )
    single = sorted(label for label, hashes in different.items() if len(hashes) == 1)
    if single:
        raise SourceError(
            f"{source}: a single usable image (copies counted once) in class {_names(single)}; at least two "
            f"are needed. Add images, or remove the class."
        )


def check_splits(rows: Sequence[ImageRow], params: SplitParams, source: str, of_source: bool) -> None:
    """Refuse classes that cannot be learned, and warn of those that cannot be scored.

    Parameters
    ----------
    rows : sequence of ImageRow
        The usable ones, with their splits.
    params : SplitParams
        The shares that were asked for.
    source : str
        Named in messages.
    of_source : bool
        Whether the source brings splits of its own, which nothing here can change.

    Raises
    ------
    SourceError
        A class has no image in the training split.
    """
    classes = {row.label for row in rows}
    for split in SPLITS:
        absent = sorted(classes - {row.label for row in rows if row.split == split})
        if not absent:
            continue
        if split == "train":
            remedy = (
                "Add images of it to the source's training images, or remove the class."
                if of_source
                else "Add images of it, or split anew with `pipeline prepare --resplit`."
            )
            raise SourceError(
                f"{console.printable(source)}: no training image of class {_names(absent)}. {remedy}"
            )
        if len(absent) == len(classes):
            if getattr(params, split) > 0:
                console.warn(
                    f"no image is in {split}: nothing can be scored on it. Add images to that split of the "
                    f"source; one without splits of its own is split here, given enough images or groups."
                )
        else:
            console.warn(
                f"{split} has no image of class {_names(absent)}: its scores leave that out. "
                f"Add images (three different ones fill all splits) and run `pipeline prepare` again."
            )


def warn_of_leaks(rows: Sequence[ImageRow]) -> None:
    """Warn of images that the source itself put on both sides of a split."""
    units = leaks(rows)
    if units:
        first = {row.split: row.path for row in units[0].rows}
        example = " and ".join(console.printable(path) for path in first.values())
        console.warn(
            f"{sum(len(unit.rows) for unit in units)} images are copies, or of one group, and stand in "
            f"several splits of the source, such as {example}: scores will look better than they are. "
            f"Remove them from all splits but one."
        )


def warn_of_old_shares(rows: Sequence[ImageRow], params: SplitParams) -> None:
    """Warn if `params` asks for another split than the one that the previous manifest fixed."""
    if misplaced(rows, params) > 0.05 * len(rows):
        found = Counter(row.split for row in rows)
        shares = ", ".join(f"{split} {found[split] / len(rows):.2f}" for split in SPLITS)
        console.warn(
            f"images keep the split they had ({shares}), which is not that of dataset.split in params.yaml. "
            f"`pipeline prepare --resplit` starts over."
        )


def _names(labels: Iterable[str]) -> str:
    ordered = sorted(labels)
    shown = ", ".join(f"'{console.printable(label)}'" for label in ordered[:_NAMED])
    return shown if len(ordered) <= _NAMED else f"{shown} and {len(ordered) - _NAMED} more"
