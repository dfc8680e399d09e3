from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import pytest

from pipeline.dataset.sources import image_file
from pipeline.errors import SourceError
from pipeline.workspace import Workspace
from tests.dataset.sources.source_folders import fill, opened, pets, rows, workspace

__all__ = ["pets", "workspace"]  # fixtures


def snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    return {
        str(path.relative_to(folder)): (path.lstat().st_mtime_ns, path.lstat().st_size)
        for path in folder.rglob("*")
    }


# Class folders


def test_class_folders(pets: Path, workspace: Workspace) -> None:
    fill(pets, "cat/Thumbs.db", "cat/._1.jpg", "README.md", "dog/.hidden/3.jpg", "__MACOSX/cat/1.jpg")
    before = snapshot(pets)
    source = opened(pets, workspace)
    assert rows(source) == [("cat/1.jpg", "cat"), ("cat/old/2.PNG", "cat"), ("dog/1.jpeg", "dog")]
    assert source.root == pets
    assert source.ignored == 3  # Thumbs.db, ._1.jpg, README.md
    assert [image_file(item.path, source.root) for item in source.candidates] == [
        Path(os.path.realpath(item.file)) for item in source.candidates
    ]
    assert snapshot(pets) == before


def test_class_folders__every_other_name_is_a_candidate(tmp_path: Path, workspace: Workspace) -> None:
    fill(tmp_path / "pets", "cat/0a1b", "cat/movie.mp4", "dog/1.jpg")
    source = opened(tmp_path / "pets", workspace)
    assert [row[0] for row in rows(source)] == ["cat/0a1b", "cat/movie.mp4", "dog/1.jpg"]


def test_class_folders__wrappers_are_gone_into(tmp_path: Path, workspace: Workspace) -> None:
    root = fill(
        tmp_path / "a",
        "outer/PetImages/Cat/1.jpg",
        "outer/PetImages/Dog/1.jpg",
        "outer/readme.txt",
        "__MACOSX/x",
    )
    assert rows(opened(root, workspace)) == [
        ("outer/PetImages/Cat/1.jpg", "Cat"),
        ("outer/PetImages/Dog/1.jpg", "Dog"),
    ]


def test_class_folders__a_lone_class_is_no_wrapper(tmp_path: Path, workspace: Workspace) -> None:
    flat = fill(tmp_path / "flat", "cat/1.jpg")
    deep = fill(tmp_path / "deep", "cat/1.jpg", "cat/old/2.jpg")
    assert rows(opened(flat, workspace)) == [("cat/1.jpg", "cat")]
    assert rows(opened(deep, workspace)) == [("cat/1.jpg", "cat"), ("cat/old/2.jpg", "cat")]


def test_class_folders__strays_and_empty_classes_are_told(
    pets: Path, workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(pets, "stray\x1b[31m.jpg")
    (pets / "bird").mkdir()
    source = opened(pets, workspace)
    warnings = capsys.readouterr().err
    assert len(source.candidates) == 3
    assert "1 image files lie directly in" in warnings
    assert r"stray\x1b[31m.jpg" in warnings
    assert "class folders without images: bird" in warnings


def test_class_folders__names_that_are_not_utf8(tmp_path: Path, workspace: Workspace) -> None:
    folder = os.fsencode(tmp_path / "pets") + b"/Stra\xdfe"
    os.makedirs(folder)  # noqa: PTH103
    with open(folder + b"/caf\xe9 100%.jpg", "wb"):  # noqa: PTH123
        pass
    source = opened(tmp_path / "pets", workspace)
    assert rows(source) == [("Stra%DFe/caf%E9 100%25.jpg", "Stra%DFe")]
    assert source.candidates[0].file.is_file()
    assert image_file(source.candidates[0].path, source.root).is_file()


def test_class_folders__order_does_not_depend_on_the_disk(
    pets: Path, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(pets, *(f"dog-{number}/{number}.jpg" for number in range(20)), "dog.jpg/1.jpg", "dog/ä.jpg")
    first = opened(pets, workspace)
    scandir = os.scandir

    class Backwards:
        def __init__(self, folder: Path) -> None:
            with scandir(folder) as found:
                self.entries = list(found)[::-1]

        def __enter__(self) -> Iterable[os.DirEntry[str]]:
            return self.entries

        def __exit__(self, *error: object) -> None:
            pass

    monkeypatch.setattr(os, "scandir", Backwards)
    paths = [item.path for item in first.candidates]
    assert opened(pets, workspace) == first
    assert paths == sorted(set(paths))


# Split folders


def test_split_folders(tmp_path: Path, workspace: Workspace) -> None:
    root = fill(
        tmp_path / "a",
        "Train/cat/1.jpg",
        "Train/dog/1.jpg",
        "Validation/cat/a/2.jpg",
        "test/dog/3.jpg",
        "x.txt",
    )
    assert rows(opened(root, workspace)) == [
        ("Train/cat/1.jpg", "cat", "train"),
        ("Train/dog/1.jpg", "dog", "train"),
        ("Validation/cat/a/2.jpg", "cat", "val"),
        ("test/dog/3.jpg", "dog", "test"),
    ]


def test_split_folders__in_a_wrapper(tmp_path: Path, workspace: Workspace) -> None:
    root = fill(tmp_path / "a", "pets/train/cat/1.jpg", "pets/test/cat/2.jpg")
    assert [row[1:] for row in rows(opened(root, workspace))] == [("cat", "test"), ("cat", "train")]


def test_split_folders__train_alone_is_a_wrapper(tmp_path: Path, workspace: Workspace) -> None:
    root = fill(tmp_path / "a", "train/cat/1.jpg", "train/dog/2.jpg")
    assert rows(opened(root, workspace)) == [("train/cat/1.jpg", "cat"), ("train/dog/2.jpg", "dog")]


def test_split_folders__train_among_classes_is_a_class(tmp_path: Path, workspace: Workspace) -> None:
    root = fill(tmp_path / "a", "train/1.jpg", "bus/2.jpg")
    assert rows(opened(root, workspace)) == [("bus/2.jpg", "bus"), ("train/1.jpg", "train")]


@pytest.mark.parametrize(
    ("more", "message"), [("valid/cat/1.jpg", "the same split"), ("bird/1.jpg", "'bird' stands beside")]
)
def test_split_folders__in_doubt_refused(
    more: str, message: str, tmp_path: Path, workspace: Workspace
) -> None:
    root = fill(tmp_path / "a", "train/cat/1.jpg", "val/cat/1.jpg", more)
    with pytest.raises(SourceError, match=message):
        opened(root, workspace)
