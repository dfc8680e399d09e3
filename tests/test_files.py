from __future__ import annotations

import doctest
import errno
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline import files
from pipeline.files import replacing, sha256_of, write_atomically, write_csv, write_json


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_docstrings() -> None:
    assert doctest.testmod(files).failed == 0


@pytest.mark.parametrize("size", [0, 1, 3_000_000])
def test_sha256_of(tmp_path: Path, size: int) -> None:
    data = os.urandom(size)
    (tmp_path / "a").write_bytes(data)
    assert sha256_of(tmp_path / "a") == hashlib.sha256(data).hexdigest()


# Atomic writes


def test_write_atomically__makes_the_folder_and_says_whether_it_changed(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "er" / "a.txt"
    assert write_atomically(file, "x")
    assert not write_atomically(file, b"x")
    assert write_atomically(file, "é")
    assert file.read_bytes() == b"\xc3\xa9"
    assert names(file.parent) == ["a.txt"]


def test_write_atomically__unchanged_content_is_not_written_again(tmp_path: Path) -> None:
    file = tmp_path / "a"
    write_atomically(file, "x")
    before = file.stat()
    write_atomically(file, "x")
    assert file.stat() == before


def test_write_atomically__a_reader_of_the_old_file_keeps_it(tmp_path: Path) -> None:
    file = tmp_path / "a"
    write_atomically(file, "old")
    with file.open() as reader:
        write_atomically(file, "new")
        assert reader.read() == "old"


def test_write_atomically__replaces_a_link_and_never_writes_through_it(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    write_atomically(tmp_path / "link", "new")
    assert (tmp_path / "target").read_text() == "mine"
    assert (tmp_path / "link").read_text() == "new"


def test_write_atomically__obeys_the_umask(tmp_path: Path) -> None:
    write_atomically(tmp_path / "a", "x")
    (tmp_path / "b").write_text("x")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode


def test_write_atomically__longest_name(tmp_path: Path) -> None:
    file = tmp_path / ("é" * 127)  # 254 bytes of 255
    write_atomically(file, "x")
    assert names(tmp_path) == [file.name]


def _full(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _half(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data[:1])
    _full()


@pytest.mark.parametrize(
    ("target", "name", "fault"),
    [(Path, "write_bytes", _half), (os, "fsync", _full), (Path, "replace", _full)],
    ids=["write", "fsync", "rename"],
)
def test_write_atomically__full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: Any, name: str, fault: Callable[..., None]
) -> None:
    file = tmp_path / "a"
    file.write_text("old")
    with monkeypatch.context() as patch:
        patch.setattr(target, name, fault)
        with pytest.raises(OSError, match="No space left on device") as caught:
            write_atomically(file, "new")
    assert caught.value.filename == str(file)  # and not the temporary name
    assert str(caught.value).endswith(f"'{file}'")
    assert file.read_text() == "old"
    assert names(tmp_path) == ["a"]


def test_write_atomically__error_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(IsADirectoryError) as caught:
        write_atomically(tmp_path / "a", "x")
    assert str(tmp_path / "a") in str(caught.value)
    assert ".tmp" not in str(caught.value)
    assert names(tmp_path) == ["a"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_replacing__exception_in_the_body_leaves_the_old_file(
    tmp_path: Path, error: type[BaseException]
) -> None:
    (tmp_path / "a").write_text("old")

    def write() -> None:
        with replacing(tmp_path / "a") as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(error):
        write()
    assert names(tmp_path) == ["a"]
    assert (tmp_path / "a").read_text() == "old"


def test_replacing__error_about_another_file_keeps_its_name(tmp_path: Path) -> None:
    def write() -> None:
        with replacing(tmp_path / "a"):
            (tmp_path / "other").read_bytes()

    with pytest.raises(FileNotFoundError) as caught:
        write()
    assert str(caught.value.filename) == str(tmp_path / "other")
    assert str(caught.value).endswith(f"'{tmp_path / 'other'}'")


def test_replacing__is_synced_before_it_is_renamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    sync, replace = files.sync, Path.replace

    def recording_sync(path: Path) -> None:
        events.append("sync folder" if path.is_dir() else "sync file")
        sync(path)

    def recording_replace(path: Path, target: Path) -> Path:
        events.append("rename")
        return replace(path, target)

    monkeypatch.setattr(files, "sync", recording_sync)
    monkeypatch.setattr(Path, "replace", recording_replace)
    write_atomically(tmp_path / "a", "x")
    assert events == ["sync file", "rename", "sync folder"]


def test_write_json__bytes(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"b": 1, "a": ["é", None, 0.1]})
    assert (
        tmp_path / "a.json"
    ).read_text() == '{\n  "b": 1,\n  "a": [\n    "é",\n    null,\n    0.1\n  ]\n}\n'


def test_write_json__not_a_number_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"a": float("nan")})
    assert names(tmp_path) == []


def test_write_csv__bytes(tmp_path: Path) -> None:
    write_csv(tmp_path / "a.csv", ("x", "y"), [("a,b", 'q"'), ("line\nfeed", 1)])
    assert (tmp_path / "a.csv").read_bytes() == b'x,y\n"a,b","q"""\n"line\nfeed",1\n'
