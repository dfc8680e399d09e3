from __future__ import annotations

import hashlib
import json
import os
import random
import re
import shutil
import socket
import struct
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from pipeline.dataset.sources import open_source, transfer
from pipeline.dataset.sources import source as source_module
from pipeline.dataset.sources.downloads import fetch
from pipeline.errors import SourceError
from pipeline.workspace import Workspace

CONTENT = random.Random(0).randbytes(1_500_000)


@dataclass
class Site:
    """A server's one file and its manners; and what was asked of it."""

    content: bytes = CONTENT
    etag: str = '"v1"'
    last_modified: str = ""
    ranges: bool = True
    says_length: bool = True
    break_after: list[int] = field(default_factory=list)  # for one request each: bytes before it breaks off
    reset: bool = False  # break off with a reset instead of an end
    statuses: list[int] = field(default_factory=list)  # for one request each, instead of an answer
    redirect: str = ""
    asked: list[str] = field(default_factory=list)  # the Range headers, "" for none
    sent: int = 0
    url: str = ""

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        asked = handler.headers.get("Range", "")
        self.asked.append(asked)
        if self.statuses:
            return self.say(handler, self.statuses.pop(0), {"Content-Length": "0"})
        if self.redirect and handler.path != "/moved":
            return self.say(handler, 302, {"Location": self.redirect, "Content-Length": "0"})
        start, status = 0, 200
        headers = {"ETag": self.etag, "Last-Modified": self.last_modified}
        validator = self.etag if self.etag.startswith('"') else self.last_modified
        if asked and self.ranges and handler.headers["If-Range"] == validator:
            match = re.fullmatch(r"bytes=(\d+)-", asked)
            assert match is not None
            start, status = int(match[1]), 206
            if start >= len(self.content):
                return self.say(handler, 416, {"Content-Range": f"bytes */{len(self.content)}"})
            headers["Content-Range"] = f"bytes {start}-{len(self.content) - 1}/{len(self.content)}"
        body = self.content[start:]
        if self.says_length:
            headers["Content-Length"] = str(len(body))
        self.say(handler, status, headers)
        if self.break_after:
            body = body[: self.break_after.pop(0)]
        handler.wfile.write(body)
        self.sent += len(body)
        if self.reset and len(body) < len(self.content) - start:
            handler.wfile.flush()
            linger = struct.pack("ii", 1, 0)  # closing discards and resets
            handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        return None

    def say(self, handler: BaseHTTPRequestHandler, status: int, headers: dict[str, str]) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            if value:
                handler.send_header(name, value)
        handler.end_headers()


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    site = Site()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            site.answer(self)

        def log_message(self, *_: Any) -> None:
            pass

    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setattr(transfer, "_PAUSES", (0.0, 0.0))
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        site.url = f"http://127.0.0.1:{server.server_port}/pets.zip"
        yield site
        server.shutdown()
        thread.join()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "downloads" / "pets.zip"


def names(file: Path) -> set[str]:
    return {path.name for path in file.parent.iterdir()} - {".hashes.json"}


def record(file: Path) -> Any:
    return json.loads(file.with_name(f"{file.name}.json").read_text())


def unfinished(site: Site, file: Path, size: int) -> None:
    """Leave `size` bytes behind, as a killed run does."""
    site.break_after = [size, 0, 0, 0, 0]
    with pytest.raises(SourceError):
        fetch(site.url, file)
    assert file.with_name("pets.zip.part").stat().st_size == size
    site.break_after, site.asked, site.sent = [], [], 0


def test_fetch__whole(site: Site, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fetch(site.url, file)
    sha256 = hashlib.sha256(CONTENT).hexdigest()
    assert file.read_bytes() == CONTENT
    assert record(file) == {"url": site.url, "bytes": 1_500_000, "sha256": sha256}
    assert names(file) == {"pets.zip", "pets.zip.json"}
    shown = capsys.readouterr().err
    assert f"1,500,000 bytes, SHA-256 {sha256}" in shown
    assert "downloading pets.zip: 2 MB" in shown


def test_fetch__once(site: Site, file: Path) -> None:
    fetch(site.url, file)
    fetch(site.url, file)
    assert site.asked == [""]


@pytest.mark.parametrize("reset", [False, True])
def test_fetch__interrupted_goes_on_by_itself(reset: bool, site: Site, file: Path) -> None:
    site.break_after, site.reset = [400_000, 500_000], reset
    fetch(site.url, file)
    assert file.read_bytes() == CONTENT
    assert len(site.asked) == 3
    if not reset:  # a reset may discard bytes on their way
        assert site.asked == ["", "bytes=400000-", "bytes=900000-"]
        assert site.sent == len(CONTENT)


def test_fetch__killed_goes_on_where_it_stopped(
    site: Site, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    unfinished(site, file, 1_000_000)
    assert names(file) == {"pets.zip.part", "pets.zip.part.json"}
    fetch(site.url, file)
    assert file.read_bytes() == CONTENT
    assert site.asked == ["bytes=1000000-"]
    assert site.sent == 500_000
    assert "resuming after 1,000,000 of 1,500,000 bytes" in capsys.readouterr().err
    assert names(file) == {"pets.zip", "pets.zip.json"}


def test_fetch__killed_between_the_last_byte_and_the_end(site: Site, file: Path) -> None:
    unfinished(site, file, 1_000_000)
    file.with_name("pets.zip.part").write_bytes(CONTENT)
    fetch(site.url, file)
    assert file.read_bytes() == CONTENT
    assert site.asked == []


def test_fetch__by_date_where_there_is_no_strong_etag(site: Site, file: Path) -> None:
    site.etag, site.last_modified = 'W/"v1"', "Mon, 01 Jan 2024 00:00:00 GMT"
    unfinished(site, file, 600_000)
    fetch(site.url, file)
    assert file.read_bytes() == CONTENT
    assert site.sent == 900_000


def test_fetch__changed_on_the_server_starts_over(
    site: Site, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    unfinished(site, file, 1_000_000)
    site.content, site.etag = CONTENT[::-1], '"v2"'
    fetch(site.url, file)
    assert file.read_bytes() == CONTENT[::-1]
    assert site.asked == ["bytes=1000000-"]
    assert "starting over" in capsys.readouterr().err


def test_fetch__server_without_ranges_starts_over(site: Site, file: Path) -> None:
    unfinished(site, file, 1_000_000)
    site.ranges = False
    fetch(site.url, file)
    assert file.read_bytes() == CONTENT
    assert site.asked == ["bytes=1000000-"]
    assert site.sent == len(CONTENT)


def test_fetch__server_without_validators_is_not_asked_to_resume(site: Site, file: Path) -> None:
    site.etag, site.break_after = "", [1_000_000]
    fetch(site.url, file)
    assert file.read_bytes() == CONTENT
    assert site.asked == ["", ""]
    assert site.sent == 1_000_000 + len(CONTENT)


def test_fetch__another_address_starts_over(site: Site, file: Path) -> None:
    unfinished(site, file, 1_000_000)
    fetch(f"{site.url}?v=2", file)
    assert file.read_bytes() == CONTENT
    assert site.asked == [""]


def test_fetch__part_beyond_the_end_starts_over(site: Site, file: Path) -> None:
    unfinished(site, file, 1_000_000)
    site.content = CONTENT[:700_000]  # and the same ETag: a server that lies
    fetch(site.url, file)
    assert file.read_bytes() == CONTENT[:700_000]
    assert site.asked == ["bytes=1000000-", ""]


def test_fetch__length_that_differs_starts_over(site: Site, file: Path) -> None:
    unfinished(site, file, 1_000_000)
    site.content = CONTENT[:1_200_000]
    fetch(site.url, file)
    assert file.read_bytes() == CONTENT[:1_200_000]
    assert site.asked == ["bytes=1000000-", ""]


@pytest.mark.parametrize("sidecar", ["", "{", "[]", '{"url": 1}'])
def test_fetch__damaged_sidecar_starts_over(sidecar: str, site: Site, file: Path) -> None:
    unfinished(site, file, 1_000_000)
    file.with_name("pets.zip.part.json").write_text(sidecar)
    fetch(site.url, file)
    assert file.read_bytes() == CONTENT
    assert site.asked == [""]


def test_fetch__server_that_does_not_say_the_length(site: Site, file: Path) -> None:
    site.says_length = False
    fetch(site.url, file)
    assert file.read_bytes() == CONTENT


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
