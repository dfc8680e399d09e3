from __future__ import annotations

import os
import socket
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from pipeline.dataset.sources import Source, downloads, image_file, open_source, source_root
from pipeline.dataset.sources import source as source_module
from pipeline.errors import SourceError, SourceMissing
from pipeline.workspace import Workspace

CATS_DOGS = Path(__file__).parents[4] / "shared" / "cats-dogs"


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    root = tmp_path / "workspace"
    root.mkdir()
    (root / "params.yaml").touch()
    return Workspace(root)


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    return fill(tmp_path / "pets", "cat/1.jpg", "cat/old/2.PNG", "dog/1.jpeg")


def fill(folder: Path, *files: str) -> Path:
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text(file)
    return folder


def opened(folder: Path, workspace: Workspace) -> Source:
    return open_source(str(folder), workspace)


def rows(source: Source) -> list[tuple[str, ...]]:
    """Path, label and whatever else is not empty."""
    return [
        (item.path, item.label, *filter(None, (item.split, item.group, item.reason)))
        for item in source.candidates
    ]


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


# A labels CSV


def test_labels_csv(tmp_path: Path, workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    root = fill(tmp_path / "a", "1.jpg", "deep/2.jpg", "deep/3.jpg", "deep/.4.jpg", "new.jpg", "notes.md")
    (root / "labels.csv").write_bytes(
        b"\xef\xbb\xbfsplit,label,group,path\r\n"
        b"train, cat ,tom,1.jpg\r\n"
        b'Validation,"dog, small",,"./deep/2.jpg"\r\n'
        b"\r\n"
        b",dog,,deep/.4.jpg\r\n"
        b",cat,,gone/5.jpg\r\n"
    )
    source = opened(root, workspace)
    assert rows(source) == [
        ("1.jpg", "cat", "train", "tom"),
        ("deep/.4.jpg", "dog"),
        ("deep/2.jpg", "dog, small", "val"),
        ("gone/5.jpg", "cat", "missing"),
    ]
    warning = capsys.readouterr().err
    assert "2 image files are not named in" in warning
    assert "deep/3.jpg, new.jpg" in warning


def test_labels_csv__beats_folders_and_is_found_in_a_wrapper(tmp_path: Path, workspace: Workspace) -> None:
    root = fill(tmp_path / "a", "pets/cat/1.jpg", "pets/dog/2.jpg")
    (root / "pets" / "labels.csv").write_text("path,label\ncat/1.jpg,tabby\ndog/2.jpg,terrier\n")
    source = opened(root, workspace)
    assert rows(source) == [("pets/cat/1.jpg", "tabby"), ("pets/dog/2.jpg", "terrier")]
    assert source.ignored == 0


def test_labels_csv__links_and_folders(tmp_path: Path, workspace: Workspace) -> None:
    root = fill(tmp_path / "a", "1.jpg", "folder/2.jpg")
    fill(tmp_path / "elsewhere", "3.jpg")
    (root / "out.jpg").symlink_to(tmp_path / "elsewhere" / "3.jpg")
    (root / "away").symlink_to(tmp_path / "elsewhere")
    (root / "again").symlink_to("folder")
    (root / "broken.jpg").symlink_to("nothing")
    named = ["1.jpg", "again/2.jpg", "away/3.jpg", "broken.jpg", "folder", "out.jpg"]
    (root / "labels.csv").write_text("path,label\n" + "".join(f"{name},x\n" for name in named))
    assert rows(opened(root, workspace)) == [
        ("1.jpg", "x"),
        ("again/2.jpg", "x"),
        ("away/3.jpg", "x", "symlink_outside"),
        ("broken.jpg", "x", "symlink_broken"),
        ("folder", "x", "not_regular"),
        ("out.jpg", "x", "symlink_outside"),
    ]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (b"", "line 1: no column 'path'"),
        (b"1.jpg,cat\n", "line 1: unknown column '1.jpg'"),
        (b"path,label,wieght\n1.jpg,cat,3\n", "line 1: unknown column 'wieght'"),
        (b"path;label\n1.jpg;cat\n", "line 1: unknown column 'path;label'"),
        (b"path,group\n1.jpg,a\n", "line 1: no column 'label'"),
        (b"path,label,label\n1.jpg,a,b\n", "line 1: a column stands twice"),
        (b"path,label\n", "names no images"),
        (b"path,label\n1.jpg,cat\n\n./1.jpg,dog\n", "line 4: '1.jpg' stands in line 2 already"),
        (b"path,label\n1.jpg,cat,x\n", "line 2: expected 2 fields, found 3"),
        (b"path,label\n1.jpg, \n", "line 2: the label is empty"),
        (b"path,label\n,cat\n", "line 2: path ''"),
        (b"path,label\n../1.jpg,cat\n", "line 2: path '../1.jpg'"),
        (b"path,label\na/../../1.jpg,cat\n", "line 2: path"),
        (b"path,label\n/etc/passwd,cat\n", "line 2: path '/etc/passwd'"),
        (b"path,label,split\n1.jpg,cat,tset\n", "line 2: split 'tset'"),
        (b'path,label\n"1.jpg"x,cat\n', "line 2: "),
        (b"path,label\n1.jpg,L\xf6we\n", "not UTF-8 at byte 18"),
    ],
)
def test_labels_csv__malformed(table: bytes, message: str, tmp_path: Path, workspace: Workspace) -> None:
    root = fill(tmp_path / "a", "1.jpg")
    (root / "labels.csv").write_bytes(table)
    with pytest.raises(SourceError) as caught:
        opened(root, workspace)
    assert message in str(caught.value)
    assert str(root / "labels.csv") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_labels_csv__that_is_a_link_out_of_the_source(tmp_path: Path, workspace: Workspace) -> None:
    root = fill(tmp_path / "a", "1.jpg")
    (tmp_path / "other.csv").write_text("path,label\n1.jpg,cat\n")
    (root / "labels.csv").symlink_to(tmp_path / "other.csv")
    with pytest.raises(SourceError, match="symlink_outside"):
        opened(root, workspace)


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
