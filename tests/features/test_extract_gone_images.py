"""Images that prepare saw and that are not there, or not the same, any more."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipeline.dataset.manifest import read_manifest, write_manifest
from pipeline.errors import (
    ManifestError,
    SourceError,
    SourceMissing,
)
from pipeline.features.extract import ExtractReport, ImagesFailed, extract, is_complete
from pipeline.workspace import Workspace
from tests.features.conftest import (
    manifest_of,
    shards_of,
    write_photo,
)
from tests.features.extracts import failed_rows, quick, random_backbone, small_shards

__all__ = ["quick", "random_backbone"]  # fixtures


@pytest.mark.usefixtures("quick")
def test_extract__changed_and_deleted_images_are_listed_and_the_rest_is_stored(workspace: Workspace) -> None:
    photos = workspace.root / "photos"
    kept = (photos / "cat" / "002.png").read_bytes()
    (photos / "cat" / "000.png").unlink()
    write_photo(photos / "cat" / "002.png", 999)
    (photos / "dog" / "003.png").unlink()
    os.mkfifo(photos / "dog" / "003.png")  # must not be waited for
    (photos / "dog" / "005.png").unlink()
    (photos / "dog" / "005.png").symlink_to("/etc/passwd")
    with pytest.raises(SourceError) as caught:
        extract(workspace)
    assert isinstance(caught.value, ImagesFailed)
    assert caught.value.report == ExtractReport(images=10, computed=6, reused=0, copies=0, failed=4)
    assert str(caught.value) == (
        "4 of 10 images could not be read again, the others are stored (first: cat/000.png: vanished; "
        f"all: {workspace.failed_file}). "
        "Run `pipeline prepare --rehash`, which looks at every image anew, then `pipeline extract`."
    )
    header, *rows = failed_rows(workspace)
    assert header == ["path", "reason"]
    assert "leads out of" in dict(rows)["dog/005.png"]
    assert rows[:3] == [
        ["cat/000.png", "vanished"],
        ["cat/002.png", "changed_since_prepare"],
        ["dog/003.png", "not_regular"],
    ]
    assert not workspace.index_file.exists()
    assert not is_complete(workspace)

    (photos / "cat" / "002.png").write_bytes(kept)
    for name in ("cat/000.png", "dog/003.png", "dog/005.png"):
        (photos / name).unlink(missing_ok=True)
        write_photo(photos / name, int(Path(name).stem))
    assert extract(workspace) == ExtractReport(images=10, computed=4, reused=6, copies=0)
    assert not workspace.failed_file.exists()
    assert is_complete(workspace)


@pytest.mark.usefixtures("quick")
def test_extract__failure_leaves_the_old_index(workspace: Workspace) -> None:
    extract(workspace)
    before = workspace.index_file.read_bytes()
    write_photo(workspace.root / "photos" / "cat" / "new.png", 50)
    manifest_of(workspace)
    (workspace.root / "photos" / "cat" / "new.png").unlink()
    with pytest.raises(SourceError) as caught:
        extract(workspace)
    assert str(caught.value) == (
        f"1 of 1 image could not be read again (cat/new.png: vanished; listed in {workspace.failed_file}). "
        "Run `pipeline prepare --rehash`, which looks at every image anew, then `pipeline extract`."
    )
    assert workspace.index_file.read_bytes() == before


@pytest.mark.usefixtures("quick")
def test_extract__image_that_no_longer_decodes(workspace: Workspace) -> None:
    rows = list(read_manifest(workspace.manifest_file).rows)
    file = workspace.root / "photos" / rows[0].path
    file.write_bytes(file.read_bytes()[:60])
    manifest_of(workspace)  # its hash is that of the damaged bytes
    with pytest.raises(SourceError, match="1 of 10 images"):
        extract(workspace)
    ((path, reason),) = failed_rows(workspace)[1:]
    assert path == rows[0].path
    assert reason in {"truncated", "corrupt"}


@pytest.mark.usefixtures("quick")
def test_extract__whole_shard_fails(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    small_shards(monkeypatch, 5)
    for file in (workspace.root / "photos" / "cat").iterdir():
        file.unlink()
    with pytest.raises(SourceError, match="5 of 10 images"):
        extract(workspace)
    assert len(shards_of(workspace)) == 1


def test_extract__hostile_name_stays_one_line(workspace: Workspace, quick: list[int]) -> None:
    file = workspace.root / "photos" / "cat" / "a\n\x1b[2J.png"
    write_photo(file, 60)
    manifest_of(workspace)
    file.unlink()
    with pytest.raises(SourceError) as caught:
        extract(workspace)
    assert "\n" not in str(caught.value)
    assert "\x1b" not in str(caught.value)


def test_extract__source_has_gone(workspace: Workspace, quick: list[int]) -> None:
    extract(workspace)
    (workspace.root / "photos").rename(workspace.root / "elsewhere")
    assert extract(workspace).computed == 0  # nothing is needed from it
    next(workspace.store_folder.glob("*.h5")).unlink()
    with pytest.raises(
        SourceMissing, match=r"photos: the folder of the images is not there, .*pipeline prepare"
    ):
        extract(workspace)
    assert not workspace.failed_file.exists()


def test_extract__no_manifest(workspace: Workspace) -> None:
    workspace.manifest_file.unlink()
    with pytest.raises(ManifestError, match="Run `pipeline prepare` first"):
        extract(workspace)
    assert not workspace.store_folder.exists()


def test_is_complete(workspace: Workspace, quick: list[int]) -> None:
    assert not is_complete(workspace)
    extract(workspace)
    assert is_complete(workspace)
    write_manifest(workspace.manifest_file, read_manifest(workspace.manifest_file).rows[1:])
    assert not is_complete(workspace)  # the index is of other images
    manifest_of(workspace)
    next(workspace.store_folder.glob("*.h5")).unlink()
    assert not is_complete(workspace)
