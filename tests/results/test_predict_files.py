"""Which files `predict` is meant to look at, and those that are no images."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from pipeline.errors import (
    SourceError,
    SourceMissing,
)
from pipeline.results.predict import predict
from pipeline.workspace import Workspace
from tests.commands.conftest import finished, finished_folder
from tests.results.predictions import forwarded, known, new, photos, workspace

__all__ = ["finished", "finished_folder", "forwarded", "known", "new", "photos", "workspace"]  # fixtures


def test_files_folders_and_patterns__in_the_order_given(
    workspace: Workspace, photos: Path, new: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(photos.parent)
    given = [new[1], "photos/dog", "photos/*/*-00[01].png", new[0], new[1], "photos/cat/../cat/cat-002.png"]
    assert [prediction.path for prediction in predict(workspace, "logreg", given)] == [
        new[1],
        *(f"photos/dog/dog-{number:03}.png" for number in range(20)),
        *(f"photos/{label}/{label}-{number:03}.png" for label in ("cat", "dog") for number in (0, 1)),
        new[0],
        new[1],
        "photos/cat/../cat/cat-002.png",
    ]  # fmt: skip


def test_folder__any_depth_and_images_only(workspace: Workspace, photos: Path) -> None:
    folder = photos.parent / "mixed"
    (folder / "a" / "b").mkdir(parents=True)
    (folder / ".hidden").mkdir()
    image = photos / "cat" / "cat-000.png"
    for name in ("z.png", "a/y.PNG", "a/b/x.jpg", ".hidden/w.png", "._v.png", "notes.txt", "u.png.part"):
        shutil.copyfile(image, folder / name)
    (folder / "a" / "loop").symlink_to(folder)
    found = [Path(prediction.path) for prediction in predict(workspace, "logreg", [str(folder)])]
    assert [str(path.relative_to(folder)) for path in found] == ["a/b/x.jpg", "a/y.PNG", "z.png"]


def test_name_that_looks_like_a_pattern(workspace: Workspace, photos: Path) -> None:
    odd = photos.parent / "what [1]*?.png"
    shutil.copyfile(photos / "cat" / "cat-000.png", odd)
    assert [prediction.path for prediction in predict(workspace, "logreg", [str(odd)])] == [str(odd)]


def test_same_image_twice(workspace: Workspace, known: list[str]) -> None:
    first, second = predict(workspace, "logreg", [known[0], known[0]])
    assert first == second


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("nowhere.jpg", "nowhere.jpg: there is no such file or folder"),
        ("no*.jpg", r"no*.jpg: there is no such file or folder, and no file matches it"),
        ("", "an image's name is empty"),
        ("~nobody-of-this-name/a.jpg", "no such user"),
        ("a\nb.jpg", r"a\nb.jpg: there is no such file"),
    ],
)
def test_missing(workspace: Workspace, new: list[str], forwarded: list[int], given: str, words: str) -> None:
    with pytest.raises(SourceMissing) as error:
        predict(workspace, "logreg", [new[0], given])
    assert words in str(error.value)
    assert forwarded == []  # found out before any work


def test_folder_without_images(workspace: Workspace, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match="empty: this folder holds no images"):
        predict(workspace, "logreg", [str(tmp_path / "empty")])


def test_files_that_are_no_images__listed_with_the_reason(
    workspace: Workspace, photos: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "odd"
    folder.mkdir()
    image = (photos / "cat" / "cat-000.png").read_bytes()
    (folder / "cut.png").write_bytes(image[: len(image) // 2])
    (folder / "empty.jpg").touch()
    (folder / "good.png").write_bytes(image)
    (folder / "gone.png").symlink_to(folder / "nothing")
    os.mkfifo(folder / "pipe.jpg")  # opening it would wait for a writer
    (folder / "text.jpg").write_text("no image")
    expected = {
        "cut.png": "truncated",
        "empty.jpg": "empty_file",
        "gone.png": "vanished",
        "good.png": None,
        "pipe.jpg": "not_regular",
        "text.jpg": "unsupported_format",
    }
    in_folder = predict(workspace, "logreg", [str(folder)])
    assert {Path(found.path).name: found.error for found in in_folder} == expected
    assert predict(workspace, "logreg", [str(folder / name) for name in expected]) == in_folder
    assert predict(workspace, "logreg", [str(folder / "*")]) == in_folder
    assert [found.label for found in in_folder if found.error] == [None] * 5
