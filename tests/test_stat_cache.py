"""The memory of files that have not changed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline import files
from pipeline.files import StatCache


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_SETTLED_NS", -1)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "file").write_text("abc")
    return tmp_path / "file"


def remembered(file: Path, value: object = "value") -> Path:
    cache = StatCache(file.parent / "cache.json")
    cache.remember("file", file.stat(), value)
    cache.save()
    return file.parent / "cache.json"


def recalled(file: Path, name: str = "file") -> object:
    return StatCache(file.parent / "cache.json").recall(name, file.stat())


@pytest.mark.usefixtures("settled")
def test_stat_cache__remembers_over_processes(file: Path) -> None:
    remembered(file, {"a": [1, "x"]})
    assert recalled(file) == {"a": [1, "x"]}
    assert recalled(file, "another") is None


def test_stat_cache__young_file_is_not_remembered(file: Path) -> None:
    assert not remembered(file).exists()


def test_stat_cache__young_file_replaces_what_was_remembered(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(files, "_SETTLED_NS", -1)
        remembered(file)
    remembered(file, "newer")
    assert recalled(file) is None


def test_stat_cache__old_modification_and_fresh_ctime_is_young(file: Path) -> None:
    os.utime(file, (1, 1))  # an archive's time; the bytes came this moment
    assert not remembered(file).exists()


def test_stat_cache__settled_file_is_remembered(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    status = file.stat()
    later = max(status.st_mtime_ns, status.st_ctime_ns) + 2_000_000_000
    monkeypatch.setattr("time.time_ns", lambda: later - 1)
    assert not remembered(file).exists()
    monkeypatch.setattr("time.time_ns", lambda: later)
    assert remembered(file).exists()


def _size(file: Path) -> None:
    status = file.stat()
    file.write_text("abcd")
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))


def _mtime(file: Path) -> None:
    os.utime(file, ns=(1, file.stat().st_mtime_ns + 1))


def _ctime(file: Path) -> None:
    status = file.stat()
    while file.stat().st_ctime_ns == status.st_ctime_ns:  # the clock of the file system is coarse
        file.write_text("xyz")
        os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))


def _inode(file: Path) -> None:
    status = file.stat()
    file.with_name("new").write_text("xyz")
    os.utime(file.with_name("new"), ns=(status.st_atime_ns, status.st_mtime_ns))
    file.with_name("new").replace(file)


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("change", [_size, _mtime, _ctime, _inode])
def test_stat_cache__change_is_seen(file: Path, change: Callable[[Path], None]) -> None:
    remembered(file)
    change(file)
    assert recalled(file) is None


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize(
    "text",
    [
        "", "{", "[]", "null", "7", '"x"', "{}", '{"version": 1}', '{"version": 1, "files": []}',
        '{"version": 1, "files": {"file": 3}}', '{"version": 1, "files": {"file": [1, 2, 3]}}',
        '{"version": 2, "files": {}}', "\xff",
    ],
)  # fmt: skip
def test_stat_cache__damaged_is_absent_and_mended(file: Path, text: str) -> None:
    path = remembered(file)
    path.write_text(text, "latin-1")
    assert recalled(file) is None
    remembered(file, "again")
    assert recalled(file) == "again"


@pytest.mark.usefixtures("settled")
def test_stat_cache__other_version_is_ignored(file: Path) -> None:
    path = remembered(file)
    assert StatCache(path, version=2).recall("file", file.stat()) is None


@pytest.mark.usefixtures("settled")
def test_stat_cache__keep_only(file: Path) -> None:
    path = remembered(file)
    cache = StatCache(path)
    cache.remember("gone", file.stat(), 1)
    cache.keep_only(["file", "never seen"])
    cache.save()
    assert list(json.loads(path.read_text())["files"]) == ["file"]


@pytest.mark.usefixtures("settled")
def test_stat_cache__nothing_new_is_not_written(file: Path) -> None:
    path = remembered(file)
    path.unlink()
    StatCache(path).save()
    assert not path.exists()
