"""Links, special files, and what is no source."""

from __future__ import annotations

import os
import socket
import zipfile
from pathlib import Path
from typing import Any

import pytest

from pipeline.dataset.sources import downloads, open_source, source_root
from pipeline.dataset.sources import source as source_module
from pipeline.errors import SourceError, SourceMissing
from pipeline.workspace import Workspace
from tests.dataset.sources.source_folders import fill, opened, pets, rows, workspace

__all__ = ["pets", "workspace"]  # fixtures

CATS_DOGS = Path(__file__).parents[4] / "shared" / "cats-dogs"


# Links, special files, folders that cannot be read


def test_links__of_files(pets: Path, tmp_path: Path, workspace: Workspace) -> None:
    fill(tmp_path, "secret.jpg")
    links = {
        "inside.jpg": "1.jpg",
        "outside.jpg": "../../secret.jpg",
        "absolute.jpg": str(tmp_path / "secret.jpg"),
        "broken.jpg": "gone.jpg",
        "itself.jpg": "itself.jpg",
        "Thumbs.db": "../../secret.jpg",
    }
    for name, target in links.items():
        (pets / "cat" / name).symlink_to(target)
    source = opened(pets, workspace)
    assert {item.path: item.reason for item in source.candidates if item.label == "cat"} == {
        "cat/1.jpg": "",
        "cat/absolute.jpg": "symlink_outside",
        "cat/broken.jpg": "symlink_broken",
        "cat/inside.jpg": "",
        "cat/itself.jpg": "symlink_broken",
        "cat/old/2.PNG": "",
        "cat/outside.jpg": "symlink_outside",
    }
    assert source.ignored == 1


def test_links__of_folders(
    pets: Path, tmp_path: Path, workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(tmp_path / "other", "9.jpg")
    fill(pets, ".store/3.jpg")
    (pets / "cat" / "loop").symlink_to("..")
    (pets / "bird").symlink_to(".store")  # a class that only a link leads to
    (pets / "animal").symlink_to("dog")  # sorts before dog, which has the older right to its images
    (pets / "away").symlink_to(tmp_path / "other")
    source = opened(pets, workspace)
    assert rows(source) == [
        ("bird/3.jpg", "bird"),
        ("cat/1.jpg", "cat"),
        ("cat/old/2.PNG", "cat"),
        ("dog/1.jpeg", "dog"),
    ]
    warnings = capsys.readouterr().err
    assert f"{pets / 'away'}: a link to a folder outside the source" in warnings
    assert f"{pets / 'animal'}: a link to a folder that is listed anyway" in warnings


def test_links__the_source_itself_may_be_one(pets: Path, tmp_path: Path, workspace: Workspace) -> None:
    (tmp_path / "link").symlink_to("pets")
    (pets / "cat" / "linked.jpg").symlink_to(pets / "dog" / "1.jpeg")
    source = opened(tmp_path / "link", workspace)
    assert [item.reason for item in source.candidates] == ["", "", "", ""]
    assert source.candidates[0].file == tmp_path / "link" / "cat" / "1.jpg"


def test_special_files__are_never_opened(pets: Path, workspace: Workspace) -> None:
    os.mkfifo(pets / "cat" / "pipe.jpg")
    (pets / "cat" / "piped.jpg").symlink_to("pipe.jpg")
    with socket.socket(socket.AF_UNIX) as listener:
        folder = os.open(pets / "dog", os.O_RDONLY)
        try:
            listener.bind(f"/proc/self/fd/{folder}/socket.jpg")  # a socket's path is at most 107 bytes
        except OSError:
            pytest.skip("no sockets can be bound here")
        finally:
            os.close(folder)
    reasons = {item.path: item.reason for item in opened(pets, workspace).candidates if item.reason}
    assert reasons == {
        "cat/pipe.jpg": "not_regular",
        "cat/piped.jpg": "not_regular",
        "dog/socket.jpg": "not_regular",
    }


def test_unreadable_folder(pets: Path, workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    scandir = os.scandir

    def refuse(folder: Any) -> Any:
        if Path(folder).name == "old":
            raise PermissionError(13, "Permission denied", str(folder))
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(SourceError, match=r"pets/cat/old: .*Permission denied.*chmod"):
        opened(pets, workspace)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every folder")
def test_unreadable_folder__for_real(pets: Path, workspace: Workspace) -> None:
    (pets / "cat").chmod(0)
    try:
        with pytest.raises(SourceError, match=r"pets/cat: .*chmod"):
            opened(pets, workspace)
    finally:
        (pets / "cat").chmod(0o755)


# What is not a source


@pytest.mark.parametrize("files", [(), ("a.jpg",), ("a.txt",), ("cat/README.md",), (".git/a.jpg",)])
def test_no_images(files: tuple[str, ...], tmp_path: Path, workspace: Workspace) -> None:
    root = tmp_path / "empty"
    root.mkdir()
    fill(root, *files)
    with pytest.raises(SourceError) as caught:
        opened(root, workspace)
    message = str(caught.value)
    assert type(caught.value) is SourceError
    assert message.startswith(f"{root}: no images")
    assert ("1 lie directly in it" in message) == (files == ("a.jpg",))
    for layout in ("cat/1.jpg", "train/cat/1.jpg", "labels.csv"):
        assert layout in message
    assert "\n" not in message


def test_missing(workspace: Workspace) -> None:
    for source in ("nowhere", "nowhere.zip", "params.yaml/x", "~no-such-user/x"):
        with pytest.raises(SourceMissing, match=source.partition(".")[0]):
            open_source(source, workspace)
    with pytest.raises(SourceMissing, match="Did you mean 'digits'"):
        open_source("digit", workspace)


def test_neither_folder_nor_archive(tmp_path: Path, workspace: Workspace) -> None:
    fill(tmp_path, "a.rar")
    os.mkfifo(tmp_path / "a.zip")
    for name in ("a.rar", "a.zip"):
        with pytest.raises(SourceError, match=r"neither a folder nor an archive.*\.zip, \.tar, \.tar\.gz"):
            opened(tmp_path / name, workspace)


# Where sources lie


def test_source_root(workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    fill(tmp_path / "folder.zip", "cat/1.jpg")
    images = workspace.images_folder
    assert source_root("digits", workspace) == images / "digits"
    assert source_root("./digits", workspace) == workspace.root / "digits"
    assert source_root("cats-dogs", workspace) == images / "cats-dogs"
    assert source_root("../pets", workspace) == workspace.root / "../pets"
    assert source_root("~/pets", workspace) == tmp_path / "home" / "pets"
    assert source_root("~/digits.ZIP", workspace) == images / "digits-zip"
    assert source_root("/mnt/a b.tar.gz", workspace) == images / "a_b-tar-gz"
    assert source_root("/mnt/....zip", workspace) == images / "___-zip"
    assert source_root(str(tmp_path / "folder.zip"), workspace) == tmp_path / "folder.zip"


def test_relative_sources_start_at_the_workspace(
    pets: Path, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(pets)
    assert len(open_source("../pets", workspace).candidates) == 3


def test_archive(pets: Path, workspace: Workspace) -> None:
    with zipfile.ZipFile(workspace.root / "pets.zip", "w") as archive:
        for file in pets.rglob("*.*"):
            archive.write(file, f"wrapper/{file.relative_to(pets)}")
        archive.writestr("wrapper/cat/Thumbs.db", b"")
    source = open_source("pets.zip", workspace)
    assert source.root == source_root("pets.zip", workspace)
    assert [row[:2] for row in rows(source)] == [
        ("wrapper/cat/1.jpg", "cat"),
        ("wrapper/cat/old/2.PNG", "cat"),
        ("wrapper/dog/1.jpeg", "dog"),
    ]
    assert [item.file.read_bytes() for item in source.candidates] == [
        (pets / row[0].removeprefix("wrapper/")).read_bytes() for row in rows(source)
    ]
    assert source.ignored == 0


def test_digits(workspace: Workspace) -> None:
    source = open_source("digits", workspace)
    assert len(source.candidates) == 1797
    assert {item.label for item in source.candidates} == set("0123456789")
    assert source.ignored == 0


def test_cats_dogs__layout(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    def put_archive(url: str, file: Path) -> None:
        assert url == source_module.CATS_DOGS_URL
        file.parent.mkdir(parents=True)
        with zipfile.ZipFile(file, "w") as archive:
            for name in ("Cat/0.jpg", "Cat/666.jpg", "Dog/11702.jpg", "Dog/Thumbs.db"):
                archive.writestr(f"PetImages/{name}", b"")
            archive.writestr("MSR-LA - 3467.docx", b"licence")
            archive.writestr("readme[1].txt", b"read me")

    monkeypatch.setattr(downloads, "fetch", put_archive)
    source = open_source("cats-dogs", workspace)
    assert source.root == workspace.images_folder / "cats-dogs"
    assert rows(source) == [
        ("PetImages/Cat/0.jpg", "Cat"),
        ("PetImages/Cat/666.jpg", "Cat"),
        ("PetImages/Dog/11702.jpg", "Dog"),
    ]


def test_real_photographs(workspace: Workspace) -> None:
    if not CATS_DOGS.exists():
        pytest.skip("../shared/cats-dogs is not beside the project")
    source = opened(CATS_DOGS, workspace)
    assert len(source.candidates) == 1000
    assert {item.label for item in source.candidates} == {"cat", "dog"}
    assert not any(item.reason for item in source.candidates)
