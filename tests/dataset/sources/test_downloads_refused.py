"""Downloads that cannot be, and what is made of what is there already."""

from __future__ import annotations

import hashlib
import os
import random
import re
import shutil
import socket
import zipfile
from pathlib import Path

import pytest

from pipeline.dataset.sources import open_source, transfer
from pipeline.dataset.sources import source as source_module
from pipeline.dataset.sources.downloads import fetch
from pipeline.errors import SourceError
from pipeline.workspace import Workspace
from tests.dataset.sources.site import CONTENT, Site, file, names, record, site

__all__ = ["file", "site"]  # fixtures


def test_fetch__broken_off_for_good(site: Site, file: Path) -> None:
    site.break_after = [300_000, 200_000, 0, 0, 0]
    with pytest.raises(SourceError) as caught:
        fetch(site.url, file)
    message = str(caught.value)
    assert len(site.asked) == 5 - 1  # two that brought something, and two pauses
    for word in (site.url, "500,000 of 1,500,000", "500,000 bytes are kept", ".part", "same command again"):
        assert word in message
    assert "\n" not in message


def test_fetch__busy_server_is_asked_again(site: Site, file: Path) -> None:
    site.statuses = [503, 429]
    fetch(site.url, file)
    assert file.read_bytes() == CONTENT
    site.statuses = [503, 503, 503]
    with pytest.raises(SourceError, match=r"503 Service Unavailable.*by hand"):
        fetch(site.url, file.with_name("other.zip"))


@pytest.mark.parametrize("status", [403, 404, 410])
def test_fetch__refused(status: int, site: Site, file: Path) -> None:
    site.statuses = [status] * 3
    with pytest.raises(SourceError, match=rf"{re.escape(site.url)}: .*{status}.*by hand.*pets\.zip"):
        fetch(site.url, file)
    assert len(site.asked) == 1
    assert names(file) == set()


def test_fetch__no_network(site: Site, file: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/pets.zip"
        with pytest.raises(SourceError) as caught:
            fetch(url, file)
    assert str(caught.value).startswith(f"{url}: cannot be fetched (")
    assert "refused" in str(caught.value)
    assert f"put it at {file}, and run the same command again" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_fetch__silent_server(site: Site, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "_TIMEOUT", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/pets.zip"
        with pytest.raises(SourceError, match="timed out"):
            fetch(url, file)


def test_fetch__put_in_place_by_hand(site: Site, file: Path) -> None:
    file.parent.mkdir()
    file.write_bytes(CONTENT)
    fetch(site.url, file)
    assert site.asked == []
    assert record(file)["sha256"] == hashlib.sha256(CONTENT).hexdigest()


def test_fetch__changed_after_the_download(site: Site, file: Path) -> None:
    fetch(site.url, file)
    file.write_bytes(CONTENT[:-1] + bytes([CONTENT[-1] ^ 1]))
    with pytest.raises(SourceError, match=r"pets\.zip: not what was downloaded.*Delete it"):
        fetch(site.url, file)
    file.unlink()  # the remedy
    site.content = CONTENT[::-1]
    fetch(site.url, file)
    assert file.read_bytes() == CONTENT[::-1]
    assert record(file)["sha256"] == hashlib.sha256(CONTENT[::-1]).hexdigest()


def test_fetch__redirections(site: Site, file: Path) -> None:
    site.redirect = "/moved"
    fetch(site.url, file)
    assert file.read_bytes() == CONTENT
    for elsewhere in ("ftp://127.0.0.1/x", "file:///etc/passwd"):
        site.redirect = elsewhere
        with pytest.raises(SourceError, match="cannot be fetched"):
            fetch(site.url, file.with_name("other.zip"))
        assert not file.with_name("other.zip").exists()


@pytest.mark.parametrize("url", ["ftp://127.0.0.1/a.zip", "file:///etc/passwd", "/etc/passwd"])
def test_fetch__only_http(url: str, file: Path) -> None:
    with pytest.raises(SourceError, match="http:// or https://"):
        fetch(url, file)


def test_fetch__full_disk(site: Site, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(file.parent.parent)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(SourceError, match=r"pets\.zip: the disk is full.*no room.*Make room"):
        fetch(site.url, file)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")  # noqa: PTH110
def test_fetch__disk_that_fills_up(site: Site, file: Path) -> None:
    file.parent.mkdir()
    file.with_name("pets.zip.part").symlink_to("/dev/full")
    with pytest.raises(SourceError, match=r"No space left on device.*Make room"):
        fetch(site.url, file)


def test_cats_dogs__fetched_then_unpacked(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with zipfile.ZipFile(tmp_path / "made.zip", "w") as archive:
        for name in ("Cat/0.jpg", "Cat/666.jpg", "Dog/1.jpg"):
            archive.writestr(
                f"PetImages/{name}", b"" if "666" in name else random.Random(1).randbytes(100_000)
            )
    site.content = (tmp_path / "made.zip").read_bytes()
    site.break_after = [150_000]
    monkeypatch.setattr(
        source_module, "CATS_DOGS_URL", site.url.replace("pets.zip", "kagglecatsanddogs_5340.zip")
    )
    (tmp_path / "params.yaml").touch()
    workspace = Workspace(tmp_path)
    for _ in range(2):
        source = open_source("cats-dogs", workspace)
        assert [(item.path, item.label, item.file.stat().st_size) for item in source.candidates] == [
            ("PetImages/Cat/0.jpg", "Cat", 100_000),
            ("PetImages/Cat/666.jpg", "Cat", 0),
            ("PetImages/Dog/1.jpg", "Dog", 100_000),
        ]
    assert site.asked == ["", "bytes=150000-"]
    assert site.sent == len(site.content)
    assert (workspace.download_folder / "kagglecatsanddogs_5340.zip.json").is_file()


def test_cats_dogs__address_is_that_of_the_original() -> None:
    assert source_module.CATS_DOGS_URL == (
        "https://download.microsoft.com/download/3/e/1/3e1c3f21-ecdb-4869-8368-6deba77b919f/"
        "kagglecatsanddogs_5340.zip"
    )
