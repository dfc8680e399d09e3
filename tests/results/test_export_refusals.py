"""Exports that are refused: a file that says something else, and what cannot have the form."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.dataset.manifest import read_manifest, write_manifest
from pipeline.edit_params import write_params
from pipeline.errors import IdentityMismatch, ManifestError, ModelError, SourceError
from pipeline.features.identity import DECODING
from pipeline.heads import linear_layer
from pipeline.heads.linear_layer import LinearLayer
from pipeline.heads.train import train
from pipeline.results.export import classifier, forms
from pipeline.results.export.export import export
from pipeline.results.export.wanted import Wanted
from pipeline.workspace import Workspace
from tests.commands.conftest import finished, finished_folder
from tests.results.exports import photos, workspace

__all__ = ["finished", "finished_folder", "photos", "workspace"]  # fixtures

needs_onnx = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("onnx", "onnxruntime", "onnxscript")),
    reason="the extra `export` is not installed",
)


# --- the check


@pytest.fixture
def wrong(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Have heads be exported with a bias that they do not have."""

    def bend() -> None:
        layer_of = linear_layer.layer_of

        def bent(model: Any) -> LinearLayer:
            layer = layer_of(model)
            return LinearLayer(layer.weight, layer.bias + np.array([0.0, 1e4]), layer.link)

        for module in (linear_layer, classifier):
            monkeypatch.setattr(module, "layer_of", bent)

    return bend


@pytest.mark.parametrize(
    "wanted",
    [lambda file: Wanted(state_dict=file), lambda file: Wanted(torch_export=file)],
    ids=["state", "program"],
)
def test_check__a_file_that_says_something_else_is_not_written(
    workspace: Workspace, tmp_path: Path, wrong: Callable[[], None], wanted: Callable[[Path], Wanted]
) -> None:
    file = tmp_path / "pets.pt"
    file.write_bytes(b"what was there")
    wrong()
    with pytest.raises(
        ModelError, match=r"pets\.pt was not written: asked about 6 images of val, it gives 3 other labels"
    ):
        export(workspace, "logreg", wanted(file))
    assert file.read_bytes() == b"what was there"
    assert list(tmp_path.glob(".*")) == []


@needs_onnx
def test_check__onnx_that_says_something_else_is_not_written(
    workspace: Workspace, tmp_path: Path, wrong: Callable[[], None]
) -> None:
    wrong()
    with pytest.raises(ModelError, match=r"pets\.onnx was not written"):
        export(workspace, "logreg", Wanted(onnx=tmp_path / "pets.onnx"))
    assert not [path for path in tmp_path.iterdir() if "onnx" in path.name]


def test_check__reads_the_file_and_not_what_is_in_memory(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = torch.save

    def other(state: dict[str, torch.Tensor], path: Path) -> None:
        save(state | {"classifier.bias": state["classifier.bias"] + torch.tensor([0.0, 1.0])}, path)

    monkeypatch.setattr(torch, "save", other)
    with pytest.raises(ModelError, match="was not written"):
        export(workspace, "logreg", Wanted(state_dict=tmp_path / "pets.pth"))


def test_check__without_a_store(workspace: Workspace, tmp_path: Path) -> None:
    shutil.rmtree(workspace.root / "cache")
    (written,) = export(workspace, "logreg", Wanted(state_dict=tmp_path / "pets.pth"))
    assert written.parity.stored_difference is None


def test_check__an_image_that_has_changed(workspace: Workspace, photos: list[Path], tmp_path: Path) -> None:
    first = read_manifest(workspace.manifest_file).of_split("val")[0]
    (workspace.root.parent / "photos" / first.path).write_bytes(photos[-1].read_bytes())
    with pytest.raises(
        SourceError, match=rf"{first.path}: changed_since_prepare, .* `pipeline prepare --rehash`"
    ):
        export(workspace, "logreg", Wanted(state_dict=tmp_path / "pets.pth"))


def test_check__images_of_any_split_where_val_is_empty(workspace: Workspace, tmp_path: Path) -> None:
    rows = [row for row in read_manifest(workspace.manifest_file).rows if row.split != "val"]
    write_manifest(workspace.manifest_file, rows)
    (written,) = export(workspace, "logreg", Wanted(state_dict=tmp_path / "pets.pth"))
    assert (written.parity.split, written.parity.images) == ("the manifest", 32)
    write_manifest(workspace.manifest_file, [])
    with pytest.raises(ManifestError, match="lists no usable image"):
        export(workspace, "logreg", Wanted(state_dict=tmp_path / "pets.pth"))


# --- what cannot be exported


def refuses(workspace: Workspace, model: str, wanted: Wanted, monkeypatch: pytest.MonkeyPatch) -> str:
    """Export, which has to be refused before any work; return the reason."""
    monkeypatch.setattr(forms, "forms_of", lambda *_: pytest.fail("work was begun"))
    monkeypatch.setattr("pipeline.results.export.export.Sample", None)
    with pytest.raises(ModelError) as caught:
        export(workspace, model, wanted)
    return str(caught.value)


def test_refused__preprocessing_of_another_decoder(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    description = workspace.model_folder("logreg") / "model.json"
    stored = json.loads(description.read_bytes())
    stored["identity"]["decoding"] = DECODING["nvjpeg"]
    description.write_text(json.dumps(stored))
    wanted = Wanted(onnx=tmp_path / "pets.onnx", with_preprocessing=True)
    told = refuses(workspace, "logreg", wanted, monkeypatch)
    assert "as nvJPEG decodes and torch resizes them" in told


def test_refused__int8(workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    description = workspace.model_folder("logreg") / "model.json"
    stored = json.loads(description.read_bytes())
    stored["identity"] |= {"precision": "int8", "quantised_sha256": "ab" * 32}
    description.write_text(json.dumps(stored))
    told = refuses(workspace, "logreg", Wanted(torch_export=tmp_path / "pets.pt2"), monkeypatch)
    assert "features of precision int8" in told
    assert "Set extract.precision to half" in told


def test_refused__no_linear_head(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(workspace, "knn")
    told = refuses(workspace, "knn", Wanted(torch_export=tmp_path / "pets.pt2"), monkeypatch)
    assert told.startswith("model 'knn' (knn) is not linear")


def test_refused__state_dict_of_what_is_no_layer(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(workspace, "logreg", name="normed", changes={"normalize": "l2"})
    wanted = Wanted(torch_export=tmp_path / "pets.pt2", state_dict=tmp_path / "pets.pth")
    assert "normalize l2 is no linear step" in refuses(workspace, "normed", wanted, monkeypatch)
    assert not (tmp_path / "pets.pt2").exists()


def test_refused__another_extractor(workspace: Workspace, tmp_path: Path) -> None:
    write_params(workspace.params_file, {"extract.resize": 40})
    with pytest.raises(IdentityMismatch, match="resize 40 against 32"):
        export(workspace, "logreg", Wanted(torch_export=tmp_path / "pets.pt2"))
