"""Archives for tests."""

from __future__ import annotations

import io
import random
import tarfile
import zipfile
from pathlib import Path
from typing import Any

FILES = {
    "cat/1.jpg": b"a cat" * 1000,
    "cat/2.png": b"",
    "dog/größe.jpg": random.Random(0).randbytes(300_000),
    "labels.csv": b"path,label\n",
}


def make_zip(path: Path, files: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def make_tar(path: Path, files: dict[str, bytes], compression: str = "") -> Path:
    mode: Any = f"w:{compression}"
    with tarfile.open(path, mode) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def make(path: Path, files: dict[str, bytes]) -> Path:
    name = path.name.lower()
    if name.endswith(".zip"):
        return make_zip(path, files)
    return make_tar(path, files, {"z": "gz", "2": "bz2", "r": ""}.get(name[-1], "xz" if "xz" in name else ""))


def tar_of(path: Path, *members: tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w") as archive:
        for member in members:
            archive.addfile(member, io.BytesIO(bytes(member.size)))
    return path


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", size: int = 0) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, size
    return info


def assert_nothing_left(folder: Path) -> None:
    left = [path.name for path in folder.parent.iterdir()] if folder.parent.exists() else []
    assert [name for name in left if name != ".archives.json"] == []
