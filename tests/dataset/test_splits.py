"""The split: shares, stability, and what must stay together."""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Sequence

import pytest

from pipeline.dataset.manifest import ImageRow
from pipeline.dataset.splits import assign, leaks, misplaced, units
from pipeline.params import SPLITS, Split, SplitParams


def row(name: str, label: str = "a", *, split: str = "", group: str = "", content: str = "") -> ImageRow:
    sha256 = hashlib.sha256((content or name).encode()).hexdigest()
    return ImageRow(name, label, split, group, sha256, 1, 1, 1, "ok", "")


def rows(label: str, count: int, start: int = 0) -> list[ImageRow]:
    return [row(f"{label}{index}", label) for index in range(start, start + count)]


def sizes(images: Sequence[ImageRow], splits: dict[str, Split], label: str) -> tuple[int, int, int]:
    counts = Counter(splits[image.path] for image in images if image.label == label)
    return counts["train"], counts["val"], counts["test"]


def before(images: Sequence[ImageRow], splits: dict[str, Split]) -> dict[str, Split]:
    return {image.sha256: splits[image.path] for image in images}


SHARES = SplitParams()


def test_each_class_is_split_by_the_shares() -> None:
    images = rows("a", 60) + rows("b", 200) + rows("c", 10)
    splits = assign(images, {}, SHARES, 0)
    assert splits.keys() == {image.path for image in images}
    assert sizes(images, splits, "a") == (42, 9, 9)
    assert sizes(images, splits, "b") == (140, 30, 30)
    assert sizes(images, splits, "c") == (7, 2, 1)


@pytest.mark.parametrize(
    ("count", "expected"), [(1, (1, 0, 0)), (2, (1, 1, 0)), (3, (1, 1, 1)), (4, (2, 1, 1)), (7, (5, 1, 1))]
)
def test_small_classes(count: int, expected: tuple[int, int, int]) -> None:
    images = rows("a", count) + rows("b", 50)
    assert sizes(images, assign(images, {}, SHARES, 0), "a") == expected


def test_a_share_of_nothing_gets_nothing() -> None:
    images = rows("a", 3) + rows("b", 40)
    splits = assign(images, {}, SplitParams(0.8, 0.2, 0.0), 0)
    assert sizes(images, splits, "a") == (2, 1, 0)
    assert sizes(images, splits, "b") == (32, 8, 0)


def test_order_and_names_of_the_files_do_not_matter() -> None:
    images = rows("a", 40) + rows("b", 30) + [row("a-copy", "a", content="a0"), row("g", "b", group="g")]
    splits = assign(images, {}, SHARES, 3)
    shuffled = random.Random(1).sample(images, len(images))
    assert assign(shuffled, {}, SHARES, 3) == splits
    renamed = [
        row(f"new/{image.path}", image.label, group=image.group, content=image.path) for image in images
    ]
    renamed[-2] = row("new/a-copy", "a", content="a0")
    assert assign(renamed, {}, SHARES, 3) == {f"new/{path}": split for path, split in splits.items()}


def test_the_seed_draws_another_split() -> None:
    images = rows("a", 40)
    assert assign(images, {}, SHARES, 0) != assign(images, {}, SHARES, 1)


def test_the_draw_is_random() -> None:
    """Over many seeds each image is in the test split as often as its share says."""
    images = rows("a", 20)
    counts = Counter(path for seed in range(400) for path, split in assign(images, {}, SHARES, seed).items()
                     if split == "test")  # fmt: skip
    # 400 draws of 3 in 20: mean 60, standard deviation 7.1; the bound is beyond five of these
    assert all(abs(counts[image.path] - 60) < 37 for image in images)


def test_later_images_fill_up_without_moving_earlier_ones() -> None:
    images = rows("a", 20)
    splits = assign(images, {}, SHARES, 0)
    for count in (21, 25, 40, 100):
        grown = rows("a", count)
        later = assign(grown, before(images, splits), SHARES, 0)
        assert all(later[image.path] == splits[image.path] for image in images)
        assert sizes(grown, later, "a") == sizes(grown, assign(grown, {}, SHARES, 0), "a")
        images, splits = grown, later


def test_renamed_and_relabelled_images_keep_their_split() -> None:
    images = rows("a", 20) + rows("b", 20)
    splits = assign(images, {}, SHARES, 0)
    moved = [row("elsewhere", "b", content="a7"), *(image for image in images if image.path != "a7")]
    later = assign(moved, before(images, splits), SHARES, 0)
    assert later.pop("elsewhere") == splits.pop("a7")
    assert later == splits


def test_an_unbalanced_past_is_mended_by_what_comes() -> None:
    old = rows("a", 10)
    grown = rows("a", 20)
    later = assign(grown, {image.sha256: "train" for image in old}, SHARES, 0)
    assert sizes(grown, later, "a") == (14, 3, 3)


def test_copies_and_groups_stay_together() -> None:
    images = rows("a", 30) + rows("b", 30)
    images += [row(f"copy{index}", "a", content="a0") for index in range(5)]
    images += [row(f"one{index}", "b", group="one") for index in range(4)]
    # a chain: group "two" and group "three" share an image by its bytes
    images += [row("x", "a", group="two", content="x"), row("y", "a", group="three", content="x")]
    images += [row("z", "b", group="three"), row("w", "a", group="two")]
    for seed in range(10):
        splits = assign(images, {}, SHARES, seed)
        assert len({splits["a0"], *(splits[f"copy{index}"] for index in range(5))}) == 1
        assert len({splits[f"one{index}"] for index in range(4)}) == 1
        assert len({splits[name] for name in "xyzw"}) == 1


def test_empty_group_joins_nothing() -> None:
    assert len(units(rows("a", 5))) == 5


def test_three_groups_of_a_class_go_to_three_splits() -> None:
    images = [row(f"{group}{index}", "a", group=group) for group, n in [("p", 8), ("q", 1), ("r", 1)]
              for index in range(n)] + rows("b", 20)  # fmt: skip
    splits = assign(images, {}, SHARES, 0)
    assert {splits["p0"], splits["q0"], splits["r0"]} == set(SPLITS)
    assert splits["p0"] == "train"


def test_merged_units_go_where_nothing_trained_on_is_tested() -> None:
    images = [row("a", group="g"), row("b", group="g"), row("c", group="g"), *rows("d", 10)]
    known: dict[str, Split] = {images[0].sha256: "test", images[1].sha256: "train"}
    splits = assign(images, known, SHARES, 0)
    assert splits["a"] == splits["b"] == splits["c"] == "train"


def test_own_splits_are_kept() -> None:
    images = [row(f"{split}{index}", "a", split=split) for split in SPLITS for index in range(4)]
    known: dict[str, Split] = {image.sha256: "train" for image in images}
    assert assign(images, known, SHARES, 0) == {image.path: image.split for image in images}


def test_validation_is_carved_out_of_training() -> None:
    images = [row(f"train{index}", "a", split="train") for index in range(34)]
    images += [row(f"test{index}", "a", split="test") for index in range(10)]
    images += [row("train-copy-of-test", "a", split="train", content="test0")]
    splits = assign(images, {}, SHARES, 0)
    assert {path for path, split in splits.items() if split == "test"} == {f"test{i}" for i in range(10)}
    assert sizes(images, splits, "a") == (29, 6, 10)  # 35 * 0.15 / 0.85 = 6.2
    grown = [*images, *(row(f"train{index}", "a", split="train") for index in range(34, 50))]
    later = assign(grown, before(images, splits), SHARES, 0)
    assert all(
        later[image.path] == splits[image.path] for image in images if image.path != "train-copy-of-test"
    )


def test_no_validation_is_carved_if_its_share_is_nothing() -> None:
    images = [row(f"train{index}", split="train") for index in range(9)] + [row("t", split="test")]
    assert set(assign(images, {}, SplitParams(0.9, 0, 0.1), 0).values()) == {"train", "test"}


def test_images_without_a_split_among_others_follow_their_copies_and_the_shares() -> None:
    images = [row("fixed", split="test"), row("copy", content="fixed"), *rows("b", 20)]
    splits = assign(images, {}, SHARES, 0)
    assert splits["copy"] == "test"
    assert sizes(images, splits, "b") == (14, 3, 3)


def test_leaks_are_units_in_several_splits() -> None:
    images = [
        row("x", split="train", content="1"),
        row("y", split="test", content="1"),
        row("z", split="val"),
    ]
    assert [[image.path for image in unit.rows] for unit in leaks(images)] == [["x", "y"]]
    assert leaks(images[1:]) == []


def test_misplaced_counts_what_other_shares_would_move() -> None:
    images = rows("a", 100)
    splits = assign(images, {}, SHARES, 0)
    placed = [row(image.path, split=splits[image.path]) for image in images]
    assert misplaced(placed, SHARES) == 0
    assert misplaced(placed, SplitParams(0.8, 0.1, 0.1)) == 10
