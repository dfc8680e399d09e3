"""Which images train, which choose, and which are kept for the last word.

Owns the split, as pure functions of rows: stratified by class, the same whatever the order and
the names of the files, and stable while the source grows. Reads and writes nothing.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

from pipeline.dataset.manifest import ImageRow
from pipeline.params import SPLITS, Split, SplitParams


@dataclass(frozen=True)
class Unit:
    """Images that must stay in one split: linked by equal bytes or a group, directly or through others."""

    rows: tuple[ImageRow, ...]

    @property
    def splits(self) -> set[str]:
        """The splits that its images have."""
        return {row.split for row in self.rows} - {""}


def units(rows: Sequence[ImageRow]) -> list[Unit]:
    """Join rows that share their bytes or their group."""
    root = list(range(len(rows)))

    def find(index: int) -> int:
        while root[index] != index:
            root[index] = root[root[index]]
            index = root[index]
        return index

    first_of_bytes: dict[str, int] = {}
    first_of_group: dict[str, int] = {}
    for index, row in enumerate(rows):
        root[index] = find(first_of_bytes.setdefault(row.sha256, index))
        if row.group:
            root[find(index)] = find(first_of_group.setdefault(row.group, index))
    members: defaultdict[int, list[ImageRow]] = defaultdict(list)
    for index, row in enumerate(rows):
        members[find(index)].append(row)
    return [Unit(tuple(linked)) for linked in members.values()]


def assign(
    rows: Sequence[ImageRow], previous: Mapping[str, Split], params: SplitParams, seed: int
) -> dict[str, Split]:
    """Give every image a split.

    Images that have one from the source keep it. The others are taken in units (see `Unit`): a
    unit with an image that has a split, from the source or else from `previous`, gets that
    one; where several disagree, the first of train, val and test, so that nothing that was
    trained on becomes a test image. All other units fill what their classes lack, the largest
    first, in an order drawn from `seed` and the images' hashes.

    Where the source has images for training and none for validation, a share of the former
    becomes the latter; its test images stay what they are.

    Parameters
    ----------
    rows : sequence of ImageRow
        The usable images; `split` is the source's own, or empty.
    previous : mapping
        SHA-256 of an image to the split it had. Empty to start over.
    params : SplitParams
        Shares of each class. A class of three or more units has at least one in each split
        whose share is not 0.
    seed : int
        Of the order.

    Returns
    -------
    dict
        Path of each image to its split.
    """
    own = {row.split for row in rows}
    shares: dict[Split, float] = {split: getattr(params, split) for split in SPLITS}
    if "train" not in own or own & {"", "val"} or not params.val:
        return _assign(rows, previous, shares, seed)
    kept = {row.path: cast("Split", row.split) for row in rows if row.split != "train"}
    training = [replace(row, split="") for row in rows if row.split == "train"]
    before = {sha256: split for sha256, split in previous.items() if split != "test"}
    return kept | _assign(training, before, shares | {"test": 0.0}, seed)


def leaks(rows: Sequence[ImageRow]) -> list[Unit]:
    """Return the units that stand in more than one split, as only a source's own splits can have it."""
    return [unit for unit in units(rows) if len(unit.splits) > 1]


def misplaced(rows: Sequence[ImageRow], params: SplitParams) -> int:
    """Return how many images would have to move for every class to have the shares of `params`."""
    shares: dict[Split, float] = {split: getattr(params, split) for split in SPLITS}
    have = _count((row.label, row.split) for row in rows)
    return sum(
        max(0, have[label][split] - quota)
        for label, splits in have.items()
        for split, quota in _quotas(splits.total(), shares).items()
    )


def _assign(
    rows: Sequence[ImageRow], previous: Mapping[str, Split], shares: Mapping[Split, float], seed: int
) -> dict[str, Split]:
    settled: dict[str, Split] = {}
    waiting: list[Unit] = []
    for unit in units(rows):
        had = unit.splits or {previous[row.sha256] for row in unit.rows if row.sha256 in previous}
        known = next((split for split in SPLITS if split in had), None)
        if known is None:
            waiting.append(unit)
        else:
            for row in unit.rows:
                settled[row.path] = cast("Split", row.split or known)
    return _fill(waiting, rows, settled, shares, seed) if waiting else settled


def _fill(
    waiting: Iterable[Unit],
    rows: Sequence[ImageRow],
    settled: dict[str, Split],
    shares: Mapping[Split, float],
    seed: int,
) -> dict[str, Split]:
    """Put each waiting unit where its classes lack most."""
    open_splits = [split for split in SPLITS if shares[split] > 0]
    totals = Counter(row.label for row in rows)
    quotas = {label: _quotas(total, shares) for label, total in totals.items()}
    have = _count((row.label, settled[row.path]) for row in rows if row.path in settled)
    units_left = Counter(label for unit in waiting for label in {row.label for row in unit.rows})
    splits = dict(settled)
    for unit in sorted(waiting, key=lambda unit: (-len(unit.rows), _draw(unit, seed))):
        labels = Counter(row.label for row in unit.rows)

        def lacks(split: Split, labels: Counter[str] = labels) -> int:
            return sum(n * (quotas[label][split] - have[label][split]) for label, n in labels.items())

        choices = open_splits
        for label in labels:  # the last units of a small class go where there is none of it yet
            empty = [split for split in open_splits if quotas[label][split] and not have[label][split]]
            if 0 < units_left[label] <= len(empty):
                choices = empty
        split = max(choices, key=lacks)  # the first of equals: train, val, test
        splits |= {row.path: split for row in unit.rows}
        for label, n in labels.items():
            have[label][split] += n
            units_left[label] -= 1
    return splits


def _quotas(total: int, shares: Mapping[Split, float]) -> dict[Split, int]:
    """Share out `total` images: one to each split as far as they go, the rest by the largest lack."""
    open_splits = [split for split in SPLITS if shares[split] > 0]
    quotas = dict.fromkeys(SPLITS, 0) | dict.fromkeys(open_splits[:total], 1)
    scale = total / sum(shares.values())
    for _ in range(total - sum(quotas.values())):
        quotas[max(open_splits, key=lambda split: shares[split] * scale - quotas[split])] += 1
    return quotas


def _count(pairs: Iterable[tuple[str, str]]) -> defaultdict[str, Counter[str]]:
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for label, split in pairs:
        counts[label][split] += 1
    return counts


def _draw(unit: Unit, seed: int) -> str:
    """Return the unit's place in a random order that neither file names nor other images change."""
    return hashlib.sha256(f"{seed} {min(row.sha256 for row in unit.rows)}".encode()).hexdigest()
