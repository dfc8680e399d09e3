"""A site to download from, which can misbehave."""

from __future__ import annotations

import json
import random
import re
import socket
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from pipeline.dataset.sources import transfer

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
