from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.edit_params import write_params
from pipeline.errors import IdentityMismatch, ParamsError
from pipeline.features.extract import extract
from pipeline.features.extraction import Extraction
from pipeline.features.state import State, digest_of
from pipeline.features.store import FeatureStore
from pipeline.features.weights import load_weights, resolve_weights
from pipeline.heads import model_folder
from pipeline.heads.model import Model
from pipeline.networks.model_extractor import (
    BACKBONE,
    ModelExtractor,
    backbone_bytes,
    extract_params,
    features_of,
)
from pipeline.workspace import Workspace


@pytest.fixture(scope="module")
def state() -> State:
    """The random weights, the last layer's made stronger."""
    weights = load_weights(resolve_weights("random", Path()))
    return {**weights, "28.weight": weights["28.weight"] * np.float32(1.25)}


@pytest.fixture
def tuned(workspace: Workspace, state: State) -> Model:
    """The logistic regression, with a network of its own, under another name; and loaded from there."""
    model = model_folder.load(workspace.model_folder("logreg"))
    identity = replace(
        model.identity, weights_sha256=digest_of(state), mean=(0.5, 0.4, 0.3), std=(0.3, 0.2, 0.1)
    )
    extras = {BACKBONE: backbone_bytes(state, identity)}
    folder = workspace.model_folder("tuned")
    model_folder.save(folder, replace(model, name="tuned", identity=identity, extras=extras))
    return model_folder.load(folder)


def test_backbone_bytes__are_weights_with_their_normalisation(
    workspace: Workspace, tuned: Model, state: State
) -> None:
    weights = resolve_weights(BACKBONE, workspace.model_folder("tuned"))
    assert (weights.sha256, weights.mean, weights.std) == (
        tuned.identity.weights_sha256,
        (0.5, 0.4, 0.3),
        (0.3, 0.2, 0.1),
    )
    found = load_weights(weights)
    assert found.keys() == state.keys()
    assert all(np.array_equal(found[name], state[name]) for name in state)


def test_of__an_ordinary_model_has_the_workspaces_extractor(workspace: Workspace) -> None:
    model = model_folder.load(workspace.model_folder("logreg"))
    asked = ModelExtractor.of(workspace, workspace.model_folder("logreg"), model)
    assert (asked.store, asked.identity) == (workspace.store_folder, model.identity)
    write_params(workspace.params_file, {"extract.resize": 40})
    with pytest.raises(IdentityMismatch, match=r"resize 40 against 32.*`pipeline train logreg`"):
        ModelExtractor.of(workspace, workspace.model_folder("logreg"), model)


def test_of__a_model_that_brings_its_network_needs_no_parameters(
    workspace: Workspace, tuned: Model, tmp_path: Path
) -> None:
    write_params(workspace.params_file, {"extract.resize": 40, "extract.precision": "float32"})
    folder = workspace.model_folder("tuned")
    asked = ModelExtractor.of(workspace, folder, tuned)
    assert asked.identity == tuned.identity
    assert asked.store == workspace.finetuned_store("tuned")
    shutil.copytree(folder, tmp_path / "elsewhere")
    assert ModelExtractor.of(workspace, tmp_path / "elsewhere", tuned).store is None


def test_of__a_network_that_is_not_the_models(workspace: Workspace, tuned: Model, state: State) -> None:
    folder = workspace.model_folder("tuned")
    other = {**state, "0.bias": state["0.bias"] + 1}
    (folder / BACKBONE).write_bytes(backbone_bytes(other, tuned.identity))
    with pytest.raises(IdentityMismatch, match=r"weights_sha256 .* against .*Fine-tune it again"):
        ModelExtractor.of(workspace, folder, tuned)


def test_features_of__computes_the_splits_that_are_asked_for(
    workspace: Workspace, tuned: Model, forwarded: list[int]
) -> None:
    ordinary = FeatureStore.open(workspace.store_folder)
    before = {path: path.stat().st_mtime_ns for path in workspace.store_folder.iterdir()}
    features = features_of(workspace, "tuned", tuned, "val")
    assert sum(forwarded) == 6
    assert (features.identity, features.store.folder) == (
        tuned.identity,
        workspace.finetuned_store("tuned"),
    )
    found = features.matrix("val")
    assert not np.array_equal(found.X, ordinary.read(found.keys))
    assert {path: path.stat().st_mtime_ns for path in workspace.store_folder.iterdir()} == before
    features_of(workspace, "tuned", tuned, "val", "test")
    assert sum(forwarded) == 12


def test_features_of__are_those_of_the_network(workspace: Workspace, tuned: Model) -> None:
    """Extracted by `extract` with the file as its weights, they are the same."""
    found = features_of(workspace, "tuned", tuned, "val").matrix("val")
    write_params(workspace.params_file, {"extract.weights": f"models/tuned/{BACKBONE}"})
    extraction = Extraction.of(workspace)
    assert extraction.identity == tuned.identity
    extract(workspace, fresh=True)
    again = FeatureStore.open(workspace.store_folder, tuned.identity).read(found.keys)
    assert np.array_equal(found.X, again)


def test_features_of__of_a_model_that_was_made_anew_are_replaced(
    workspace: Workspace, tuned: Model, state: State, capsys: pytest.CaptureFixture[str]
) -> None:
    features_of(workspace, "tuned", tuned, "val")
    other = {**state, "28.bias": state["28.bias"] + 1}
    identity = replace(tuned.identity, weights_sha256=digest_of(other))
    again = replace(tuned, identity=identity, extras={BACKBONE: backbone_bytes(other, identity)})
    model_folder.save(workspace.model_folder("tuned"), again)
    features = features_of(workspace, "tuned", again, "val")
    assert features.identity == identity
    assert "tuned: 1 shard of another extractor removed" in capsys.readouterr().err
    assert len(features.store.keys()) == 6


def test_extract_params__of_an_identity_that_no_extractor_has(tuned: Model) -> None:
    with pytest.raises(ParamsError, match=r"identity.storage: expected one of float16, float32"):
        extract_params(replace(tuned.identity, storage="object"), BACKBONE)
