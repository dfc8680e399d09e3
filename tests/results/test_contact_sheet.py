from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.dataset.manifest import ImageRow, read_manifest
from pipeline.errors import ManifestError, ModelError
from pipeline.heads.folds import FOLDS, fold_of_rows
from pipeline.heads.matrix import LabelledFeatures
from pipeline.heads.train import train
from pipeline.params import SPLITS
from pipeline.results import contact_sheet as room
from pipeline.results.contact_sheet import contact_sheet
from pipeline.results.tiles import Tile
from pipeline.workspace import Workspace

Change = Callable[[Callable[[ImageRow], ImageRow]], None]
#: Images that are given another label by `mislabel`.
WRONG = {"cat/03.jpg": "dog", "dog/05.jpg": "owl", "owl/13.jpg": "cat"}


@pytest.fixture
def sheets(monkeypatch: pytest.MonkeyPatch) -> list[list[Tile]]:
    """What is drawn from now on."""
    found: list[list[Tile]] = []

    def drawn(title: str, tiles: Sequence[Tile]) -> bytes:
        found.append(list(tiles))
        return b"drawn"

    monkeypatch.setattr(room, "drawn", drawn)
    return found


@pytest.fixture
def mislabelled(workspace: Workspace, change_rows: Change) -> Workspace:
    """Three images of train and val under wrong labels, and one of test."""
    labels = WRONG | {"cat/17.jpg": "owl"}
    change_rows(lambda row: replace(row, label=labels[row.path]) if row.path in labels else row)
    return workspace


def names(tiles: Sequence[Tile]) -> list[str]:
    return [tile.name for tile in tiles]


def test_contact_sheet__the_first_of_each_class_in_turn(
    workspace: Workspace, sheets: list[list[Tile]]
) -> None:
    sheet = contact_sheet(workspace, count=5)
    assert names(sheets[0]) == ["cat/00.jpg", "dog/00.jpg", "owl/00.jpg", "cat/01.jpg", "dog/01.jpg"]
    assert [tile.labels for tile in sheets[0]] == [("cat",), ("dog",), ("owl",), ("cat",), ("dog",)]
    assert sheet.title == "the first 5 of 48 images of train and val"
    assert sheet.path == workspace.root / "reports" / "contact-sheet.png"
    assert sheet.path.read_bytes() == b"drawn"


def test_contact_sheet__test_images_only_where_they_are_asked_for(
    workspace: Workspace, sheets: list[list[Tile]]
) -> None:
    splits = {row.path: row.split for row in read_manifest(workspace.manifest_file).usable}
    for split in (None, *SPLITS):
        contact_sheet(workspace, count=1000, split=split)
    shown = [{splits[name] for name in names(tiles)} for tiles in sheets]
    assert shown == [{"train", "val"}, {"train"}, {"val"}, {"test"}]
    assert [len(tiles) for tiles in sheets] == [48, 36, 12, 12]


def test_contact_sheet__of_some_classes(workspace: Workspace, sheets: list[list[Tile]]) -> None:
    sheet = contact_sheet(workspace, labels=["owl", "cat"], split="val")
    assert {tile.labels for tile in sheets[0]} == {("owl",), ("cat",)}
    assert sheet.title == "8 images of val, owl, cat"
    with pytest.raises(ManifestError, match=r"--label dug: .* has cat, dog, owl\. Did you mean 'dog'\?"):
        contact_sheet(workspace, labels=["dug"])


def test_contact_sheet__mistakes_are_those_of_heads_that_had_not_learned_from_the_image(
    mislabelled: Workspace, sheets: list[list[Tile]], asked: list[str]
) -> None:
    """The same by hand, fold by fold: three neighbours by angle have a vote each."""
    train(mislabelled, "knn")
    sheet = contact_sheet(mislabelled, errors="knn")

    of_test = {row.sha256 for row in read_manifest(mislabelled.manifest_file).of_split("test")}
    assert asked
    assert not of_test & set(asked)

    rows = LabelledFeatures.open(mislabelled).matrix("train", "val")
    fold_of = fold_of_rows(rows.y, rows.groups, FOLDS, 7)
    X = rows.X.astype(np.float64)
    X /= np.linalg.norm(X, axis=1, keepdims=True)
    similar = X @ X.T
    expected = {}
    for place, image in enumerate(rows.images):
        learned = np.flatnonzero(fold_of != fold_of[place])
        nearest = learned[np.argsort(-similar[place, learned])[:3]]
        votes = np.bincount(rows.y[nearest], minlength=3)
        if (given := int(votes.argmax())) != rows.y[place]:
            probability = f"{votes[given] / 3:.1%}"
            labels = (image.label, f"-> {rows.classes[given]}, {probability}")
            expected[f"{image.path} ({image.split})"] = labels
    assert {f"{path} ({'train' if path[-6:-4] < '12' else 'val'})" for path in WRONG} <= set(expected)
    assert {tile.name: tile.labels for tile in sheets[0]} == expected
    sure = [float(tile.labels[1].split()[-1].rstrip("%")) for tile in sheets[0]]
    assert sure == sorted(sure, reverse=True)
    assert sheet.title == f"knn, out of fold: {len(expected)} mistakes on 48 images of train and val"


def test_contact_sheet__some_of_the_mistakes(mislabelled: Workspace, sheets: list[list[Tile]]) -> None:
    train(mislabelled, "svm")
    contact_sheet(mislabelled, errors="svm")
    every = names(sheets[0])
    assert len(every) >= 3
    sheet = contact_sheet(mislabelled, errors="svm", count=2)
    assert names(sheets[1]) == every[:2]
    assert sheet.title == (
        f"svm, out of fold: the surest 2 of {len(every)} mistakes on 48 images of train and val"
    )
    contact_sheet(mislabelled, errors="svm", split="val", labels=["cat"])
    assert names(sheets[2]) == ["owl/13.jpg (val)"]
    assert all(", lead 0." in tile.labels[1] or ", lead 1." in tile.labels[1] for tile in sheets[0])


def test_contact_sheet__no_mistake_is_said(workspace: Workspace) -> None:
    train(workspace, "knn")
    sheet = contact_sheet(workspace, errors="knn")
    assert sheet.title == "knn, out of fold: no mistake on 48 images of train and val"
    assert sheet.path.read_bytes().startswith(b"\x89PNG")


def test_contact_sheet__never_mistakes_of_test(workspace: Workspace) -> None:
    with pytest.raises(ValueError, match="test images"):
        contact_sheet(workspace, errors="logreg", split="test")


def test_contact_sheet__errors(workspace: Workspace, change_rows: Change, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such model"):
        contact_sheet(workspace, errors="logreg")
    change_rows(lambda row: replace(row, split="train") if row.split == "val" else row)
    with pytest.raises(ManifestError, match="no image of val"):
        contact_sheet(workspace, split="val", output=tmp_path / "x.png")
    workspace.manifest_file.unlink()
    with pytest.raises(ManifestError, match="no manifest yet"):
        contact_sheet(workspace)
    assert not (tmp_path / "x.png").exists()


def test_contact_sheet__without_the_images_every_tile_says_so(workspace: Workspace) -> None:
    sheet = contact_sheet(workspace, count=6)
    first = sheet.path.read_bytes()
    assert first.startswith(b"\x89PNG")
    assert contact_sheet(workspace, count=6).path.read_bytes() == first
