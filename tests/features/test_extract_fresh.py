"""Features of another extractor: refused, and replaced only where that is asked for."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pipeline.errors import (
    DeviceError,
    IdentityMismatch,
    SourceMissing,
    WeightsError,
)
from pipeline.features.extract import ExtractReport, extract, is_complete
from pipeline.features.extractor import Execution, Extractor
from pipeline.workspace import Workspace
from tests.features.conftest import (
    PARAMS,
    manifest_of,
    shards_of,
    stat_of,
    write_photo,
)
from tests.features.extracts import quick, random_backbone, small_shards, stored_features

__all__ = ["quick", "random_backbone"]  # fixtures

OTHER_PARAMS = PARAMS.replace("resize: 32", "resize: 40")


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("change", "shown"),
    [
        ("precision: half", "precision float32 against half"),
        ("resize: 40", "resize 32 against 40"),
        ("image_size: 33, resize: 33", "resize 32 against 33; image_size 32 against 33"),
        ("storage: float32", "storage float16 against float32"),
        ("weights: oxford", "weights_sha256 "),
    ],
)
def test_extract__another_identity_is_refused(workspace: Workspace, change: str, shown: str) -> None:
    extract(workspace)
    before = shards_of(workspace), workspace.index_file.read_bytes()
    parts = {"weights": "random", "precision": "float32", "resize": "32", "image_size": "32"}
    parts |= dict(part.split(": ") for part in change.split(", "))
    extract_params = ", ".join(f"{key}: {value}" for key, value in parts.items())
    workspace.params_file.write_text(f"dataset: {{source: photos}}\nextract: {{{extract_params}}}\n")
    with pytest.raises(IdentityMismatch) as caught:
        extract(workspace)
    assert f"the features in {workspace.store_folder} and what params.yaml asks for differ: " in str(
        caught.value
    )
    assert shown in str(caught.value)
    assert "`pipeline extract --fresh`, which replaces these features" in str(caught.value)
    assert (shards_of(workspace), workspace.index_file.read_bytes()) == before
    assert not is_complete(workspace)


def test_extract__fresh_replaces_features_of_another_extractor(
    workspace: Workspace, quick: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    extract(workspace)
    workspace.params_file.write_text(OTHER_PARAMS)
    assert extract(workspace, fresh=True).computed == 10
    assert "removed 1 shard\n" in capsys.readouterr().err
    assert len(shards_of(workspace)) == 1
    assert len(stored_features(workspace)) == 10


def test_extract__fresh_keeps_features_of_this_extractor(
    workspace: Workspace, quick: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert extract(workspace, fresh=True).computed == 10  # nothing there yet, and nothing to say of it
    assert "kept" not in capsys.readouterr().err
    before = stat_of(sorted(workspace.store_folder.glob("*.h5")))
    write_photo(workspace.root / "photos" / "cat" / "new.png", 50)
    manifest_of(workspace)
    quick.clear()
    assert extract(workspace, fresh=True) == ExtractReport(images=11, computed=1, reused=10, copies=0)
    said = capsys.readouterr().err
    assert said.startswith(f"the features in {workspace.store_folder} are of this extractor already: kept\n")
    assert "removed" not in said
    assert sum(quick) == 1
    assert set(before) <= set(stat_of(sorted(workspace.store_folder.glob("*.h5"))))


@pytest.mark.usefixtures("quick")
def test_extract__fresh_again_resumes_after_an_interruption(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    extract(workspace)
    small_shards(monkeypatch, 4)
    workspace.params_file.write_text(OTHER_PARAMS)
    calls = []

    def interrupted(extractor: Extractor, pixels: Any, forward: Any = Extractor.forward) -> Any:
        calls.append(len(pixels))
        if len(calls) == 4:
            raise KeyboardInterrupt
        return forward(extractor, pixels)

    with monkeypatch.context() as patch:
        patch.setattr(Extractor, "forward", interrupted)
        with pytest.raises(KeyboardInterrupt):
            extract(workspace, Execution(batch_size=2), fresh=True)
    assert extract(workspace, fresh=True) == ExtractReport(images=10, computed=4, reused=6, copies=0)


@pytest.mark.usefixtures("quick")
def test_extract__fresh_removes_a_store_that_says_nothing_that_is_understood(workspace: Workspace) -> None:
    extract(workspace)
    (workspace.store_folder / "store.json").write_text("{")
    assert extract(workspace, fresh=True).computed == 10
    assert is_complete(workspace)


@pytest.mark.usefixtures("quick")
def test_extract__fresh_that_cannot_run_costs_nothing(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    extract(workspace)
    params, before = workspace.params_file.read_text(), shards_of(workspace)
    workspace.params_file.write_text(OTHER_PARAMS)

    def impossible(*_: object, **__: object) -> None:
        raise WeightsError("no network")

    with monkeypatch.context() as patch:
        patch.setattr("pipeline.features.extractor.open_backbone", impossible)
        with pytest.raises(WeightsError):
            extract(workspace, fresh=True)
    (workspace.root / "photos").rename(workspace.root / "elsewhere")
    with pytest.raises(SourceMissing):
        extract(workspace, fresh=True)
    assert shards_of(workspace) == before
    workspace.params_file.write_text(params)
    assert is_complete(workspace)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_extract__that_cannot_begin_leaves_no_store_in_the_way(workspace: Workspace) -> None:
    before = workspace.params_file.read_text()
    workspace.params_file.write_text(before.replace("{weights", "{decoder: nvjpeg, weights"))
    assert workspace.params_file.read_text() != before
    with pytest.raises(DeviceError, match="there is no NVIDIA GPU here"):
        extract(workspace)
    workspace.params_file.write_text(before)
    assert extract(workspace).computed > 0
