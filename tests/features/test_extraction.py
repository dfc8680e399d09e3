"""When the network of precision ``int8`` is drawn, and what is refused before that."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pipeline.errors import DeviceError, IdentityMismatch
from pipeline.features.extract import extract, is_complete
from pipeline.features.extraction import Extraction
from pipeline.features.extractor import Execution
from pipeline.features.quantised import quantised_digest
from pipeline.features.store import FeatureStore
from pipeline.workspace import Workspace
from tests.features.conftest import PARAMS, listing, manifest_of, stat_of, write_photo
from tests.features.networks import needs_openvino

INT8 = PARAMS.replace("float32", "int8")

IMPOSSIBLE = [
    (Execution(backend="torch"), "--backend torch: extract.precision is int8, which only OpenVINO computes"),
    (Execution(device="cuda"), "--device cuda: extract.precision is int8, which only OpenVINO computes"),
]


@pytest.fixture
def int8(new_workspace: Callable[..., Workspace]) -> Workspace:
    """Five photographs, to be extracted in 8 bits."""
    return new_workspace("int8", count=5, params=INT8)


def add_photo(workspace: Workspace) -> None:
    write_photo(workspace.root / "photos" / "cat" / "new.png", 77)
    manifest_of(workspace)


@pytest.mark.parametrize(("execution", "words"), IMPOSSIBLE)
@pytest.mark.parametrize("fresh", [True, False])
def test_of__int8_elsewhere_is_refused_before_anything_is_done(
    int8: Workspace, execution: Execution, words: str, fresh: bool
) -> None:
    int8.params_file.write_text(PARAMS)
    extract(int8)
    before = stat_of(sorted(int8.store_folder.iterdir()))
    int8.params_file.write_text(INT8)
    with pytest.raises(DeviceError, match=words):
        extract(int8, execution, fresh=fresh)
    assert stat_of(sorted(int8.store_folder.iterdir())) == before


@needs_openvino
def test_extract__int8_is_drawn_once(int8: Workspace) -> None:
    assert extract(int8).computed == 5
    drawn = quantised_digest(int8.quantised_file)
    add_photo(int8)
    assert extract(int8).computed == 1
    assert quantised_digest(int8.quantised_file) == drawn
    assert is_complete(int8)


@needs_openvino
def test_extract__int8_fresh_draws_the_same_network_and_keeps_the_features(
    int8: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    extract(int8)
    files = [int8.store_folder / name for name in listing(int8.store_folder)]
    before = stat_of(files)
    capsys.readouterr()
    assert extract(int8, fresh=True).computed == 0
    said = capsys.readouterr().err
    assert said.startswith("quantise: 5 images in ")
    assert "are of this extractor already: kept" in said
    assert stat_of(files) == before

    int8.quantised_file.unlink()  # lost, and found again
    assert extract(int8, fresh=True).computed == 0
    assert is_complete(int8)


@needs_openvino
def test_extract__int8_fresh_with_other_images_draws_another_network(
    int8: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    extract(int8)
    drawn = quantised_digest(int8.quantised_file)
    add_photo(int8)
    assert extract(int8, fresh=True).computed == 6
    assert "removed 1 shard\n" in capsys.readouterr().err
    assert quantised_digest(int8.quantised_file) != drawn
    assert FeatureStore.open(int8.store_folder).identity == Extraction.of(int8).identity


@needs_openvino
def test_extract__another_precision_than_that_of_the_store(int8: Workspace) -> None:
    extract(int8)
    int8.params_file.write_text(PARAMS)
    digest = quantised_digest(int8.quantised_file)[:12]
    with pytest.raises(
        IdentityMismatch, match=rf"precision int8 against float32; quantised_sha256 {digest}… against none\."
    ):
        extract(int8)
