"""One file over HTTP, so that no byte is fetched twice: resumption and retries.

Owns the partial file and the decision what may be appended to it. It never looks inside.
"""

from __future__ import annotations

import errno
import http.client
import re
import shutil
import time
import urllib.error
import urllib.request
from dataclasses import asdict, dataclass
from email.message import Message
from pathlib import Path
from typing import NoReturn

from pipeline import console
from pipeline.console import printable
from pipeline.dataset.sources.records import progress_in_megabytes, read_json
from pipeline.errors import SourceError
from pipeline.files import sync, write_json

_TIMEOUT = 30.0  # seconds without an answer
_PAUSES = (1.0, 3.0, 9.0)  # seconds before the attempts that follow one which brought nothing
_CHUNK = 2**18
_BUSY = frozenset({408, 425, 429, 500, 502, 503, 504})  # statuses that may pass


@dataclass(frozen=True)
class _Version:
    """Which content a partial file belongs to.

    `validator` is a strong ETag or a date of last modification; without one, another content
    could not be told from it. `bytes` is the whole size, 0 where the server does not say.
    """

    url: str
    validator: str
    bytes: int


class _Interrupted(Exception):
    """The transfer broke off, and may go on."""


class Transfer:
    """The fetching of one file, over as many requests as it takes.

    Parameters
    ----------
    url : str
        ``http`` or ``https``.
    file : Path
        Where the content is put when it is whole. Until then it is in ``.part`` beside it, and in
        ``.part.json`` what that belongs to.
    """

    def __init__(self, url: str, file: Path) -> None:
        self._url = url
        self._file = file
        self._part = file.with_name(f"{file.name}.part")
        self._sidecar = file.with_name(f"{file.name}.part.json")
        # Only HTTP: urlopen would follow a redirection to FTP.
        self._opener = urllib.request.OpenerDirector()
        for handler in (
            urllib.request.ProxyHandler,
            urllib.request.HTTPHandler,
            urllib.request.HTTPSHandler,
            urllib.request.HTTPRedirectHandler,
            urllib.request.HTTPDefaultErrorHandler,
            urllib.request.HTTPErrorProcessor,
            urllib.request.UnknownHandler,
        ):
            self._opener.add_handler(handler())

    def run(self) -> None:
        """Try until the file is whole, or nothing more comes.

        Raises
        ------
        SourceError
            No answer, a refusal, or a transfer that broke off for good. What was received is kept.
        OSError
            The disk is full, or the folder cannot be written.
        """
        pauses = iter(_PAUSES)
        received = self._received()
        while not self._is_whole():
            try:
                self._attempt()
                break
            except _Interrupted as interruption:
                if self._received() > received:  # it brought something: as good as a first attempt
                    pauses = iter(_PAUSES)
                received = self._received()
                pause = next(pauses, None)
                if pause is None:
                    raise SourceError(self._broken_off(str(interruption))) from None
                console.note(f"{interruption}; trying again in {pause:g} s")
                time.sleep(pause)
        sync(self._part)
        self._part.replace(self._file)
        sync(self._file.parent)
        self._sidecar.unlink(missing_ok=True)

    def _attempt(self) -> None:
        version = self._resumable()
        request = urllib.request.Request(self._url, headers={"User-Agent": "feature-cache-pipeline"})  # noqa: S310
        if version:
            request.add_header("Range", f"bytes={self._received()}-")
            request.add_header("If-Range", version.validator)
        try:
            response = self._opener.open(request, timeout=_TIMEOUT)
        except urllib.error.HTTPError as error:
            with error:
                self._refuse(error.code)
        except (OSError, http.client.HTTPException) as error:  # URLError is an OSError
            if self._received():
                raise _Interrupted(f"no answer ({_reason(error)})") from None
            raise SourceError(self._unreachable(_reason(error))) from None
        with response:
            self._receive(response, version)

    def _receive(self, response: http.client.HTTPResponse, version: _Version | None) -> None:
        """Append the answer's content to the partial file, or start that over."""
        start, total = 0, response.length or 0  # None where the server does not say
        if response.status == 206:
            start, total = _content_range(response.headers)
            if version is None or start != self._received() or version.bytes not in (0, total):
                self._part.unlink(missing_ok=True)
                raise _Interrupted("the server sent another part than asked for")
            console.note(f"{self._shown}: resuming after {start:,} of {total:,} bytes")
        else:
            if self._received():
                console.note(f"{self._shown}: starting over (changed, or the server cannot resume)")
            self._part.write_bytes(b"")
            new = _Version(self._url, _validator(response.headers), total)
            write_json(self._sidecar, asdict(new))
        if total - start > shutil.disk_usage(self._part.parent).free:
            raise OSError(errno.ENOSPC, f"{total - start:,} bytes to come, and the disk has no room for them")
        self._append(response, start, total)
        received = self._received()
        if received > total > 0:
            self._part.unlink()
        if received != total > 0:
            raise _Interrupted(f"the transfer ended after {received:,} of {total:,} bytes")

    def _append(self, response: http.client.HTTPResponse, start: int, total: int) -> None:
        with (
            self._part.open("ab") as part,
            progress_in_megabytes(f"downloading {self._shown}", max(total - start, 0)) as advance,
        ):
            while True:
                try:
                    chunk = response.read(_CHUNK)
                except (OSError, http.client.HTTPException) as error:
                    raise _Interrupted(f"the transfer broke off ({_reason(error)})") from None
                if not chunk:
                    return
                part.write(chunk)
                advance(len(chunk))

    def _refuse(self, status: int) -> NoReturn:
        if status == 416:  # the partial file goes beyond the end: it belongs to something else
            self._part.unlink(missing_ok=True)
            raise _Interrupted("the server has nothing after the part that is here; starting over")
        reason = f"{status} {http.client.responses.get(status, '')}".strip()
        if status in _BUSY:
            raise _Interrupted(f"the server answered {reason}")
        raise SourceError(self._unreachable(f"the server answered {reason}"))

    def _received(self) -> int:
        return self._part.stat().st_size if self._part.exists() else 0

    def _version(self) -> _Version | None:
        match read_json(self._sidecar):
            case {"url": self._url, "validator": str(validator), "bytes": int(size)}:
                return _Version(self._url, validator, size)
        return None

    def _resumable(self) -> _Version | None:
        version = self._version()
        return version if version and version.validator and self._received() else None

    def _is_whole(self) -> bool:
        """Whether an earlier run received everything, and was killed before it could say so."""
        version = self._version()
        return version is not None and 0 < version.bytes == self._received()

    @property
    def _shown(self) -> str:
        return printable(self._file.name)

    def _broken_off(self, reason: str) -> str:
        if not self._resumable():
            return self._unreachable(reason)
        return (
            f"{printable(self._url)}: {reason}, and {len(_PAUSES)} more attempts brought nothing. "
            f"{self._received():,} bytes are kept in {printable(str(self._part))}: "
            "run the same command again, and it goes on from there."
        )

    def _unreachable(self, reason: str) -> str:
        return (
            f"{printable(self._url)}: cannot be fetched ({reason}). Without a network, download it by hand, "
            f"put it at {printable(str(self._file))}, and run the same command again."
        )


def _validator(headers: Message) -> str:
    """Return what `If-Range` takes: a strong ETag, or else a date (RFC 9110, section 13.1.5)."""
    etag = headers.get("ETag", "")
    return etag if etag.startswith('"') else headers.get("Last-Modified", "")


def _content_range(headers: Message) -> tuple[int, int]:
    match = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", headers.get("Content-Range", ""))
    return (int(match[1]), int(match[2])) if match else (-1, 0)


def _reason(error: Exception) -> str:
    return printable(str(getattr(error, "reason", "") or error) or type(error).__name__)
