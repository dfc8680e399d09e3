from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from pipeline.errors import HeadError
from pipeline.heads.folds import ALWAYS_TRAINING, fold_of_rows

RANDOM = np.random.default_rng(0)


@pytest.mark.parametrize("seed", range(5))
def test_folds__stratified_as_evenly_as_can_be(seed: int) -> None:
    y = RANDOM.permutation(np.repeat([0, 1, 2], [100, 52, 9]))
    folds = fold_of_rows(y, np.arange(len(y)), 5, seed)
    for label, count in enumerate([100, 52, 9]):
        in_folds = Counter(folds[y == label].tolist())
        assert set(in_folds) == set(range(5))
        assert set(in_folds.values()) <= {count // 5, -(-count // 5)}
    assert max(Counter(folds.tolist()).values()) - min(Counter(folds.tolist()).values()) <= 2


def test_folds__differ_by_seed_alone() -> None:
    y = np.arange(60) % 3
    first = fold_of_rows(y, np.arange(60), 5, 1)
    np.testing.assert_array_equal(fold_of_rows(y, np.arange(60), 5, 1), first)
    assert (fold_of_rows(y, np.arange(60), 5, 2) != first).any()


@pytest.mark.parametrize("seed", range(10))
def test_folds__groups_whole_and_classes_never_missing(seed: int) -> None:
    random = np.random.default_rng(seed)
    groups = random.integers(0, 25, 120)
    y = (groups % 4) * (random.random(120) < 0.9)  # most groups of one class, some of two
    folds = fold_of_rows(y, groups, 4, seed)
    for group in np.unique(groups):
        assert len(set(folds[groups == group])) == 1
    for fold in range(4):
        assert (folds == fold).any()
        assert set(y[folds != fold]) == set(y)


def test_folds__only_group_of_a_class_stays_in_training() -> None:
    y = np.array([0] * 10 + [1] * 10 + [2] * 3 + [3])
    groups = np.array([*range(20), 20, 20, 20, 21])
    folds = fold_of_rows(y, groups, 5, 0)
    assert (folds[y >= 2] == ALWAYS_TRAINING).all()
    assert sorted(Counter(folds[y < 2].tolist())) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("y", "groups", "found"),
    [
        ([0, 1, 2, 3, 4, 5], range(6), 0),  # one row a class
        ([0, 0, 1, 1], range(4), 4),  # more folds than rows
        ([0, 1] * 10, [0] * 20, 0),  # a single group
        ([0, 1] * 10, [0, 1, 2, 3] * 5, 4),
    ],
)
def test_folds__too_few(y: list[int], groups: list[int], found: int) -> None:
    with pytest.raises(HeadError, match=rf"5 folds need .* found {found} among {len(y)} images.*Add images"):
        fold_of_rows(np.array(y), np.array(groups), 5, 0)


def test_folds__many_rows_at_once() -> None:
    y = np.arange(20_000) % 10
    assert Counter(fold_of_rows(y, np.arange(20_000), 5, 0).tolist()) == dict.fromkeys(range(5), 4000)
