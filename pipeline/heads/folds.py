"""Which rows are held out together, in cross-validation.

Owns the assignment, as a pure function: stratified by class, groups kept whole, and no class ever
missing from the rows that are learned from.
"""

from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np
import numpy.typing as npt

from pipeline.errors import HeadError

#: Folds, where nothing else is asked for.
FOLDS = 5
#: Rows with this number are never held out.
ALWAYS_TRAINING = -1
#: Stands for the answer about a row that no fold holds out.
NOT_HELD_OUT = -1


def fold_of_rows(
    y: npt.NDArray[np.int64], groups: npt.NDArray[np.int64], folds: int, seed: int
) -> npt.NDArray[np.int64]:
    """Assign rows to folds.

    Parameters
    ----------
    y : ndarray of int64, shape (n,)
        Class of each row.
    groups : ndarray of int64, shape (n,)
        Rows of one group go to one fold (`FeatureMatrix.groups`).
    folds : int
        At least 2.
    seed : int
        Of the order in which equals are dealt out.

    Returns
    -------
    ndarray of int64, shape (n,)
        0 … folds − 1, each at least once; `ALWAYS_TRAINING` for rows of a group without which some class
        could not be learned in that fold, such as the only one of its class.

    Raises
    ------
    HeadError
        There are fewer groups that can be held out than folds.
    """
    labels: defaultdict[int, Counter[int]] = defaultdict(Counter)  # of each group
    for group, label in zip(groups.tolist(), y.tolist(), strict=True):
        labels[group][label] += 1
    groups_of_label = Counter(label for counts in labels.values() for label in counts)
    dealt = [group for group, counts in labels.items() if all(groups_of_label[label] > 1 for label in counts)]
    if len(dealt) < folds:
        raise _too_few(folds, len(dealt), len(y))
    order = np.random.default_rng(seed).permutation(len(dealt))
    sizes = np.array([labels[group].total() for group in dealt])[order]
    have: list[Counter[int]] = [Counter() for _ in range(folds)]
    rows = [0] * folds
    fold_of: dict[int, int] = {}
    for place in order[np.argsort(-sizes, kind="stable")]:  # the largest first, the rest fill the gaps
        counts = labels[dealt[place]]
        label = counts.most_common(1)[0][0]
        _, _, fold = min((have[fold][label], rows[fold], fold) for fold in range(folds))
        fold_of[dealt[place]] = fold
        have[fold] += counts
        rows[fold] += counts.total()
    totals = Counter(y.tolist())
    for group, fold in fold_of.items():
        # groups of several classes can meet so that a fold holds all there is of one
        if any(have[fold][label] == totals[label] for label in labels[group]):
            fold_of[group] = ALWAYS_TRAINING
            have[fold] -= labels[group]
    held_out = [group for group, fold in fold_of.items() if fold != ALWAYS_TRAINING]
    if len({fold_of[group] for group in held_out}) < folds:
        raise _too_few(folds, len(held_out), len(y))
    return np.array([fold_of.get(group, ALWAYS_TRAINING) for group in groups.tolist()], np.int64)


def _too_few(folds: int, dealt: int, rows: int) -> HeadError:
    return HeadError(
        f"{folds} folds need at least as many training images, or groups of images, that can be held out, "
        f"found {dealt} among {rows} images: the only one of a class always stays in training. Add images."
    )
