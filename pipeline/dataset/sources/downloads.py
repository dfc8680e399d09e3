"""Large files from the network: fetched once, and recognised by their hash ever after.

Owns the record of what was fetched. It never looks inside a file.
"""

from __future__ import annotations

import urllib.parse
from pathlib import Path

from pipeline import console
from pipeline.console import printable
from pipeline.dataset.sources.records import read_json, remembered_sha256, write_failure
from pipeline.dataset.sources.transfer import Transfer
from pipeline.errors import SourceError
from pipeline.files import write_json


def fetch(url: str, file: Path) -> None:
    """Download a file, unless it is there; go on where an earlier attempt broke off.

    Beside `file`, ``.json`` keeps its URL, size and SHA-256. While unfinished, the content is in
    ``.part`` and what it belongs to in ``.part.json``. A file that was put in place by hand is
    recorded and used.

    Parameters
    ----------
    url : str
        ``http`` or ``https``.
    file : Path
        Where to put it; its folder is made where it is missing.

    Raises
    ------
    SourceError
        No network, no such file, the transfer broke off for good, the disk is full, or `file`
        is not what was recorded. What was received is kept.
    """
    if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
        raise SourceError(f"{printable(url)}: expected an address that starts with http:// or https://.")
    try:
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            _record_of(file).unlink(missing_ok=True)  # of an earlier download
            Transfer(url, file).run()
        _check_record(url, file)
    except OSError as error:
        raise write_failure(file, error) from error


def _check_record(url: str, file: Path) -> None:
    """Compare a finished file with its record, or make the record."""
    record = _record_of(file)
    sha256 = remembered_sha256(file, file.with_name(".hashes.json"))
    found = {"bytes": file.stat().st_size, "sha256": sha256}
    known = read_json(record)
    if known is None:
        write_json(record, {"url": url, **found})
        console.note(f"{printable(str(file))}: {found['bytes']:,} bytes, SHA-256 {sha256}")
    elif {key: known.get(key) for key in found} != found:
        raise SourceError(
            f"{printable(str(file))}: not what was downloaded: expected {known.get('bytes')} bytes with "
            f"SHA-256 {known.get('sha256')}, found {found['bytes']} with {sha256}. "
            f"Delete it to fetch it again, or delete {printable(record.name)} to take it as it is."
        )


def _record_of(file: Path) -> Path:
    return file.with_name(f"{file.name}.json")
