from __future__ import annotations

from collections.abc import Callable

import pytest

from pipeline.errors import IdentityMismatch, SourceMissing
from pipeline.features.extract import extract
from pipeline.features.extractor import Execution
from pipeline.features.forecast import Forecast, forecast
from pipeline.workspace import Workspace
from tests.features.conftest import listing, manifest_of, shards_of, write_photo
from tests.features.networks import needs_openvino


def test_forecast__of_everything_makes_nothing(workspace: Workspace) -> None:
    found = forecast(workspace, Execution(batch_size=2))
    assert (found.images, found.stored, found.to_compute) == (10, 0, 10)
    assert found.bytes == 10 * 25_088 * 2
    assert found.images_per_second is not None
    assert found.seconds == pytest.approx(10 / found.images_per_second, abs=0.1)
    assert found.told().startswith("10 images to compute, 0 in the store\n0.5 MB to be written\nabout 0 min ")
    assert not workspace.store_folder.exists()
    assert not workspace.index_file.exists()


def test_forecast__of_what_is_new(workspace: Workspace) -> None:
    extract(workspace)
    before = shards_of(workspace), listing(workspace.store_folder)
    write_photo(workspace.root / "photos" / "cat" / "new.png", 77)
    manifest_of(workspace)
    found = forecast(workspace, Execution())
    assert (found.images, found.stored, found.to_compute) == (11, 10, 1)
    assert found.images_per_second is not None
    assert found.told().startswith("1 image to compute, 10 in the store\n0.1 MB to be written\n")
    assert (shards_of(workspace), listing(workspace.store_folder)) == before
    extract(workspace)
    found = forecast(workspace, Execution())
    assert found == Forecast(
        images=11,
        stored=11,
        to_compute=0,
        rows=0,
        to_remove=0,
        bytes=0,
        tried=0,
        failed=[],
        images_per_second=None,
        seconds=None,
    )
    assert found.told() == "nothing to extract: the store holds all 11 images"


def test_forecast__the_first_images_cannot_be_read(workspace: Workspace) -> None:
    for file in (workspace.root / "photos").rglob("*.png"):
        file.write_bytes(b"other bytes")
    found = forecast(workspace, Execution())
    assert (found.to_compute, found.seconds) == (10, None)
    assert len(found.failed) == found.tried == 10
    assert found.told().endswith(
        "10 of the first 10 images cannot be read, or not as `pipeline prepare` saw them "
        f"(first: cat/000.png: {found.failed[0]['reason']})\n"
        "no estimate: none of the first images can be used"
    )


def test_forecast__some_of_the_first_images_cannot_be_read(workspace: Workspace) -> None:
    photos = workspace.root / "photos"
    (photos / "cat" / "002.png").unlink()
    write_photo(photos / "cat" / "004.png", 99)
    found = forecast(workspace, Execution(batch_size=2))
    assert found.failed == [
        {"path": "cat/002.png", "reason": "vanished"},
        {"path": "cat/004.png", "reason": "changed_since_prepare"},
    ]
    assert found.tried == 6
    assert found.seconds is not None
    assert "2 of the first 6 images cannot be read, or not as `pipeline prepare` saw them" in found.told()


def test_forecast__fresh(workspace: Workspace) -> None:
    extract(workspace)
    assert forecast(workspace, Execution(), fresh=True).to_remove == 0
    before = shards_of(workspace), listing(workspace.store_folder)
    text = workspace.params_file.read_text()
    workspace.params_file.write_text(text.replace("float32", "half"))
    found = forecast(workspace, Execution(), fresh=True)
    assert (found.stored, found.to_compute, found.to_remove) == (0, 10, 10)
    assert found.told().startswith("10 rows of another extractor to be removed\n10 images to compute, 0 in ")
    assert (shards_of(workspace), listing(workspace.store_folder)) == before


@needs_openvino
def test_forecast__a_network_of_int8_is_not_kept(workspace: Workspace) -> None:
    text = workspace.params_file.read_text()
    workspace.params_file.write_text(text.replace("float32", "int8"))
    found = forecast(workspace, Execution())
    assert (found.to_compute, found.to_remove) == (10, 0)
    assert found.seconds is not None
    assert not workspace.store_folder.exists()


def test_forecast__is_refused_where_extract_is(
    workspace: Workspace, new_workspace: Callable[..., Workspace]
) -> None:
    extract(workspace)
    text = workspace.params_file.read_text()
    workspace.params_file.write_text(text.replace("float32", "half"))
    with pytest.raises(IdentityMismatch):
        forecast(workspace, Execution())
    elsewhere = new_workspace("elsewhere")
    (elsewhere.root / "photos").rename(elsewhere.root / "gone")
    with pytest.raises(SourceMissing):
        forecast(elsewhere, Execution())
