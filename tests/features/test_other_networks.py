"""Stage one with another network than VGG16: what is stored, and what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from torchvision import models
from torchvision.transforms import functional

from pipeline.dataset.manifest import read_manifest
from pipeline.errors import DeviceError, IdentityMismatch, ParamsError, StoreError
from pipeline.features import backbone
from pipeline.features.adoption import take_in
from pipeline.features.backbone import open_backbone
from pipeline.features.compaction import compact
from pipeline.features.extract import extract
from pipeline.features.extractor import Execution
from pipeline.features.forecast import forecast
from pipeline.features.identity import Identity
from pipeline.features.shard_writer import ShardWriter
from pipeline.features.store import FeatureStore, RowKey
from pipeline.features.weights import load_weights, resolve_weights
from pipeline.workspace import Workspace
from tests.features.conftest import PARAMS, python_path, relative_errors

RESNET = """\
dataset: {source: photos}
extract: {backbone: resnet18, weights: random, precision: float32, resize: 70, image_size: 64}
"""

RESNET_IDENTITY = Identity(
    backbone="resnet18",
    weights_sha256="ab" * 32,
    layer="input of fc",
    decoding="pillow, upright, RGB",
    resizing="pillow bilinear, antialiased",
    resize=70,
    image_size=64,
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
    precision="float32",
    storage="float16",
    dimension=512,
)

NewWorkspace = Callable[..., Workspace]


@pytest.fixture
def workspace(new_workspace: NewWorkspace) -> Workspace:
    """Ten photographs, to be pushed through a resnet18."""
    return new_workspace(params=RESNET)


@torch.inference_mode()
def by_torchvision(workspace: Workspace) -> dict[str, Any]:
    """Features by the whole network of torchvision, and its own preprocessing, by hash."""
    from PIL import Image

    network = models.resnet18().eval()
    state = load_weights(resolve_weights("random", Path(), "resnet18"))
    network.load_state_dict(network.state_dict() | {k: torch.from_numpy(v) for k, v in state.items()})
    caught: list[torch.Tensor] = []
    network.fc.register_forward_pre_hook(lambda module, inputs: caught.append(inputs[0]))
    found = {}
    for row in read_manifest(workspace.manifest_file).usable:
        with Image.open(workspace.root / "photos" / row.path) as image:
            pixels = functional.center_crop(functional.resize(image.convert("RGB"), [70]), [64])
        scaled = functional.to_tensor(pixels)
        network(functional.normalize(scaled, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])[None])
        found[row.sha256] = caught[-1][0].numpy()
    return found


def test_extract__stores_what_torchvisions_network_makes(workspace: Workspace) -> None:
    report = extract(workspace)
    assert (report.computed, report.failed) == (10, 0)
    assert extract(workspace).computed == 0
    store = FeatureStore.open(workspace.store_folder)
    expected = by_torchvision(workspace)
    found = store.read([RowKey(sha256) for sha256 in expected])
    assert found.shape == (10, 512)
    assert relative_errors(found, np.stack(list(expected.values()))).max() < 1e-3  # float16
    [shard] = store.shards()
    with h5py.File(shard) as content:
        assert content["features"].shape == (10, 512)
        said = json.loads(content.attrs["identity"])
    assert (said["backbone"], said["layer"], said["dimension"]) == ("resnet18", "input of fc", 512)
    assert said == json.loads(workspace.index_file.read_bytes())["identity"]


def test_compact__moves_rows_of_another_width(workspace: Workspace) -> None:
    store = FeatureStore.create(workspace.store_folder, RESNET_IDENTITY)
    keys = [RowKey(row.sha256) for row in read_manifest(workspace.manifest_file).usable]
    rows = np.random.default_rng(0).random((10, 512)).astype(np.float16)
    with store.writing(), ShardWriter(store, {}) as writer:
        writer.add(keys[:6], rows[:6])
    store.add(keys[6:], rows[6:], {})
    assert compact(workspace, dry_run=True).shards_after == 1
    assert compact(workspace).shards_after == 1
    np.testing.assert_array_equal(FeatureStore.open(workspace.store_folder).read(keys), rows)


def test_forecast__counts_the_bytes_of_this_networks_rows(workspace: Workspace) -> None:
    assert forecast(workspace, Execution()).bytes == 10 * 512 * 2


def test_mixing__refused_both_ways(workspace: Workspace, new_workspace: NewWorkspace) -> None:
    extract(workspace)
    workspace.params_file.write_text(PARAMS)
    with pytest.raises(IdentityMismatch) as caught:
        extract(workspace)
    for part in ("backbone resnet18 against vgg16", "layer input of fc against avgpool.flatten"):
        assert part in str(caught.value)
    assert "dimension 512 against 25088" in str(caught.value)
    other = new_workspace("other", params=RESNET.replace("resnet18", "resnet34"))
    with pytest.raises(IdentityMismatch, match="backbone resnet34 against resnet18"):
        take_in(other, workspace.root)
    other.params_file.write_text(RESNET)
    assert take_in(other, workspace.root).rows == 10


def test_shard__rows_of_another_width(workspace: Workspace) -> None:
    """A store whose description names another dimension than its shards have."""
    store = FeatureStore.create(workspace.store_folder, RESNET_IDENTITY)
    store.add([RowKey("ab" * 32)], np.ones((1, 512), np.float16), {})
    with pytest.raises(ValueError, match="expected 1 rows of 512 float16"):
        store.add([RowKey("cd" * 32)], np.ones((1, 25_088), np.float16), {})
    description = workspace.store_folder / "store.json"
    said = json.loads(description.read_bytes())
    said["identity"]["dimension"] = 513
    description.write_text(json.dumps(said))
    store = FeatureStore.open(workspace.store_folder)
    assert store.keys() == set()
    [fault] = store.faults().values()
    assert "no usable shard" in fault
    said["identity"]["dimension"] = 10**12
    description.write_text(json.dumps(said))
    with pytest.raises(StoreError, match="expected a dimension from 1 to 1048576, found 1000000000000"):
        FeatureStore.open(workspace.store_folder)


def test_openvino__runs_vgg16_only(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    said = "--backend openvino: it runs vgg16 only, and extract.backbone is resnet18. Leave --backend out."
    with pytest.raises(DeviceError) as caught:
        extract(workspace, Execution(backend="openvino"))
    assert str(caught.value) == said
    assert not workspace.store_folder.exists()
    monkeypatch.setattr(backbone, "is_openvino_fast", lambda: True)
    weights = resolve_weights("random", Path(), "resnet18")
    assert open_backbone(weights, "float32", device="cpu").made_with["backend"] == "torch"
    with pytest.raises(DeviceError) as caught:
        open_backbone(weights, "float32", backend="openvino")
    assert str(caught.value) == said
    workspace.params_file.write_text(RESNET.replace("float32", "int8"))
    with pytest.raises(ParamsError, match=r"int8 is there for vgg16 only, and extract\.backbone is resnet18"):
        extract(workspace)


def test_table__is_read_without_torch() -> None:
    code = (
        "import sys; from pipeline.features.identity import identity_of\n"
        "from pipeline.features.weights import Weights\n"
        "from pipeline.params import ExtractParams\n"
        "weights = Weights('w.pth', 'ef' * 32, (0.0,) * 3, (1.0,) * 3, None, 'vit_b_16')\n"
        "found = identity_of(ExtractParams(backbone='vit_b_16', weights='w.pth'), weights)\n"
        "print(found.dimension, sys.modules.keys() & {'torch', 'torchvision'})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=python_path(), check=True
    )
    assert done.stdout.split() == ["768", "set()"]
