from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from pipeline.dataset.sources.downloads import fetch
from pipeline.errors import SourceError
from tests.dataset.sources.site import CONTENT, Site, file, names, record, site

__all__ = ["file", "site"]  # fixtures


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
