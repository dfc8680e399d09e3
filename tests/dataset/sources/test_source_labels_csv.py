"""Sources that bring a table of labels."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import SourceError
from pipeline.workspace import Workspace
from tests.dataset.sources.source_folders import fill, opened, rows, workspace

__all__ = ["workspace"]  # fixtures


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
