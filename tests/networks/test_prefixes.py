"""Features of a fine-tuned network from what its frozen part made of the images: the whole network's."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
from safetensors.numpy import load_file, save_file

from pipeline.dataset.manifest import read_manifest
from pipeline.features.extraction import Extraction
from pipeline.features.extractor import Execution
from pipeline.features.store import FeatureStore, clear
from pipeline.features.weights import resolve_weights
from pipeline.heads import model_folder
from pipeline.heads.matrix import LabelledFeatures
from pipeline.networks.blocks import CUTS
from pipeline.networks.model_extractor import features_of
from pipeline.networks.prefixes import filled_prefix, prefix_identity
from pipeline.networks.torch_parts import Tail
from pipeline.params import Split
from pipeline.times import seconds_a_row
from pipeline.workspace import Workspace

NAME = "linear-finetuned"  # of the fixture `tuned`, whose prefix holds the images of train and val
CUT = CUTS["block5"]


def features_by(workspace: Workspace, *splits: Split) -> npt.NDArray[np.float32]:
    """The model's features, none of them stored before."""
    clear(workspace.finetuned_store(NAME))
    model = model_folder.load(workspace.model_folder(NAME))
    return np.asarray(features_of(workspace, NAME, model, *splits).matrix(*splits).X)


def by_the_whole_network(workspace: Workspace, *splits: Split) -> npt.NDArray[np.float32]:
    """The same without a prefix."""
    away = workspace.prefixes_folder.rename(workspace.root / "away")
    found = features_by(workspace, *splits)
    away.rename(workspace.prefixes_folder)
    return found


def test_features__from_the_prefix_are_those_of_the_whole_network(
    tuned: Workspace, forwarded: list[int]
) -> None:
    found = features_by(tuned, "train", "val")
    assert forwarded == []
    expected = by_the_whole_network(tuned, "train", "val")
    assert sum(forwarded) == len(found) == 34
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    before = LabelledFeatures.open(tuned).matrix("train", "val").X
    assert np.abs(found - before).max() > 100 * np.abs(found - expected).max()  # and not those of before


def test_features__of_images_that_the_prefix_lacks(tuned: Workspace, forwarded: list[int]) -> None:
    features_by(tuned, "val", "test")
    assert sum(forwarded) == 6  # of test
    extraction = Extraction.of(tuned)
    images = read_manifest(tuned.manifest_file).usable
    store = filled_prefix(tuned, extraction, CUT, images, Execution("cpu"))
    assert (len(store.keys()), sum(forwarded)) == (40, 12)
    features_by(tuned, "val", "test")
    assert sum(forwarded) == 12


def test_features__not_from_a_prefix_of_other_weights(tuned: Workspace, forwarded: list[int]) -> None:
    """Images go through the whole network then, and the other's rows stay."""
    folder = tuned.prefixes_folder / CUT.layer
    text = (folder / "store.json").read_text("utf-8")
    base = LabelledFeatures.open(tuned).identity.weights_sha256
    (folder / "store.json").write_text(text.replace(base, "ab" * 32), "utf-8")
    shards = sorted(folder.glob("*.h5"))
    features_by(tuned, "val")
    assert sum(forwarded) == 6
    assert sorted(folder.glob("*.h5")) == shards


def test_features__not_from_a_damaged_shard(
    tuned: Workspace, forwarded: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    expected = by_the_whole_network(tuned, "val")
    [shard] = (tuned.prefixes_folder / CUT.layer).glob("*.h5")
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.unlink()  # it is linked to that of other tests
    shard.write_bytes(data)
    capsys.readouterr()
    assert np.array_equal(features_by(tuned, "val"), expected)
    assert sum(forwarded) == 12
    said = capsys.readouterr().err
    assert f"{shard}" in said
    assert "The images themselves are looked at." in said


def test_tail__takes_the_values_of_the_model(tuned: Workspace) -> None:
    """Its own biases, so large that nothing else counts, are what comes out."""
    file = tuned.model_folder(NAME) / "backbone.safetensors"
    state = {name: np.zeros_like(value) for name, value in load_file(file).items()}
    state["features.28.bias"] = np.arange(512, dtype=np.float32)
    own = tuned.root / "own.safetensors"
    save_file(state, own)
    tail = Tail(resolve_weights(str(own), tuned.root, "vgg16"), CUT, 32, torch.device("cpu"))
    rows = np.random.default_rng(0).normal(size=(11, CUT.dimension(32))).astype(np.float16)
    assert np.array_equal(tail(rows), np.repeat(np.arange(512), 49)[None].repeat(11, axis=0))


def test_prefix__its_time_is_kept_and_changes_with_what_it_is_of(tuned: Workspace) -> None:
    identity = prefix_identity(LabelledFeatures.open(tuned).identity, CUT)
    assert FeatureStore.open(tuned.prefixes_folder / CUT.layer).identity == identity
    seconds = seconds_a_row(tuned, identity.as_dict())
    assert seconds is not None
    assert 0 < seconds < 10
    assert seconds_a_row(tuned, prefix_identity(identity, CUTS["block4"]).as_dict()) is None
