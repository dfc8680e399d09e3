from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pipeline.results.audit.duplicates import exact_copies, first_of_copies, near_duplicates, near_pairs
from pipeline.results.audit.findings import ExactCopies
from pipeline.results.audit.neighbours import of_length_one
from pipeline.results.audit.outliers import outliers
from pipeline.results.audit.predictions import POOLED
from tests.heads.conftest import features_like_vgg
from tests.results.audits import compressed, image, mirrored, pets

ROWS, FEATURES = pets()


def test_exact_copies__leaks_first() -> None:
    a, b = image("a.jpg", "cat", "train"), image("b.jpg", "cat", "train")
    rows = [
        a,
        b,
        replace(a, path="c.jpg"),
        replace(b, path="d.jpg", split="test"),
        image("e.jpg", "cat", "val"),
    ]
    assert exact_copies(rows) == (
        ExactCopies(("b.jpg", "d.jpg"), ("train", "test")),
        ExactCopies(("a.jpg", "c.jpg"), ("train", "train")),
    )
    assert [copies.leak for copies in exact_copies(rows)] == [True, False]
    assert first_of_copies(rows).tolist() == [0, 1, 4]


def test_near_duplicates__finds_compressed_and_mirrored_images_and_no_others() -> None:
    originals = np.arange(0, 150, 3)
    X = np.concatenate([FEATURES, compressed(FEATURES[originals]), mirrored(FEATURES[originals])])
    found = near_duplicates(POOLED.rows(X))
    pairs = {tuple(pair) for pair in found.pairs.tolist()}
    compressed_at, mirrored_at = 150 + np.arange(50), 200 + np.arange(50)
    true = {
        pair
        for a, b in ((originals, compressed_at), (originals, mirrored_at), (compressed_at, mirrored_at))
        for pair in zip(a.tolist(), b.tolist(), strict=True)
    }
    assert pairs == true
    assert len(found.cosines) == len(pairs)
    assert (found.cosines > 0.65).all()


def test_near_duplicates__a_crowd_of_like_images_is_none() -> None:
    """Images that are all alike are no copies of each other, unless one is far nearer than the rest."""
    base = features_like_vgg(np.zeros(1, np.int64), seed=3)
    varied = [
        np.where(np.random.default_rng(seed).random(base.shape) < 0.55, base, FEATURES[100 + seed]).astype(
            np.float16
        )
        for seed in range(40)
    ]
    crowd = POOLED.rows(np.concatenate([FEATURES[:60], *varied]))
    assert near_duplicates(crowd).pairs.size == 0
    with_copy = np.concatenate([crowd, crowd[70:71]])
    assert near_duplicates(with_copy).pairs.tolist() == [[70, 100]]


def test_near_duplicates__finds_many_copies_of_one_image() -> None:
    """Also where the tenth neighbour is a copy, too."""
    burst = [compressed(FEATURES[:1], seed, loss=0.03) for seed in range(40)]
    found = near_duplicates(POOLED.rows(np.concatenate([FEATURES[1:61], *burst])))
    assert set(found.pairs.ravel().tolist()) == set(range(60, 100))


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_near_duplicates__of_few_rows(rows: int) -> None:
    found = near_duplicates(POOLED.rows(FEATURES[:rows]))
    assert found.pairs.shape == (0, 2)


def test_near_pairs__leaks_first_then_the_most_alike() -> None:
    rows = [
        *ROWS,
        image("x.jpg", "dog", "train"),
        image("y.jpg", "dog", "train"),
        image("z.jpg", "cat", "test"),
    ]
    X = np.concatenate([FEATURES, compressed(FEATURES[:1]), FEATURES[1:2], compressed(FEATURES[2:3])])
    pairs = near_pairs(rows, near_duplicates(POOLED.rows(X)))
    assert [(pair.paths, pair.splits, pair.leak) for pair in pairs] == [
        (("cat/02.jpg", "z.jpg"), ("train", "test"), True),
        (("cat/01.jpg", "y.jpg"), ("train", "train"), False),
        (("cat/00.jpg", "x.jpg"), ("train", "train"), False),
    ]
    assert pairs[1].similarity == 1


def strange(count: int) -> np.ndarray:
    """Features of images of other kinds, each with channels of its own."""
    random = np.random.default_rng(5)
    X = np.zeros((count, 25088))
    for row, place in enumerate(range(5000, 5000 + 1500 * count, 1500)):
        X[row, place : place + 1500] = random.exponential(20, 1500)
    return X.astype(np.float16)


def test_outliers__images_of_another_kind() -> None:
    rows = [*ROWS, *(image(f"strange/{number}.jpg", "cat", "val") for number in range(3))]
    X = POOLED.rows(np.concatenate([FEATURES, strange(3)]))
    found = outliers(rows, X, near_duplicates(X))
    assert {oddity.path for oddity in found} == {f"strange/{number}.jpg" for number in range(3)}
    assert [oddity.value for oddity in found] == sorted((oddity.value for oddity in found), reverse=True)
    assert found[-1].value > 5


def test_outliers__copies_make_an_image_no_less_strange() -> None:
    rows = [*ROWS, *(image(f"strange/{number}.jpg", "cat", "val") for number in range(9))]
    X = POOLED.rows(np.concatenate([FEATURES, *(compressed(strange(1), seed) for seed in range(9))]))
    copies = near_duplicates(X)
    assert len(outliers(rows, X, copies)) == 9
    none = replace(copies, pairs=copies.pairs[:0], cosines=copies.cosines[:0])
    assert len(outliers(rows, X, none)) < 9 or max(oddity.value for oddity in outliers(rows, X, none)) < max(
        oddity.value for oddity in outliers(rows, X, copies)
    )


def test_outliers__none_where_all_are_alike_or_few() -> None:
    X = POOLED.rows(FEATURES)
    assert outliers(ROWS, X, near_duplicates(X)) == ()
    few = POOLED.rows(np.concatenate([FEATURES[:18], strange(1)]))
    assert outliers([*ROWS[:18], ROWS[20]], few, near_duplicates(few)) == ()
    same = of_length_one(np.ones((30, 512), np.float32))
    assert outliers(ROWS[:30], same, near_duplicates(same)) == ()
