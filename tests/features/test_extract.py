from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchvision.models import vgg16

from pipeline.dataset.images import decode
from pipeline.dataset.manifest import read_manifest
from pipeline.features.extract import ExtractReport, extract
from pipeline.features.extractor import Execution
from pipeline.features.transforms import to_pixels
from pipeline.features.weights import load_weights, resolve_weights
from pipeline.params import read_params
from pipeline.workspace import Workspace
from tests.features.conftest import (
    manifest_of,
    python_path,
    relative_errors,
    shards_of,
    stat_of,
    write_photo,
)
from tests.features.extracts import quick, random_backbone, small_shards, stored_features

__all__ = ["quick", "random_backbone"]  # fixtures

NewWorkspace = Callable[..., Workspace]


@pytest.fixture(scope="module")
def original() -> Any:
    """Torchvision's network, to be filled with the weights of a test."""
    return vgg16(weights=None, init_weights=False).eval()


# Proof against the original


@pytest.mark.parametrize(
    ("weights", "storage"), [("random", "float16"), ("random", "float32"), ("oxford", "float16")]
)
def test_extract__stored_features_equal_torchvisions(
    original: Any, new_workspace: NewWorkspace, weights: str, storage: str, request: pytest.FixtureRequest
) -> None:
    if weights == "oxford":
        request.getfixturevalue("oxford_in_cache")
    geometry = f"precision: float32, resize: 40, image_size: 32, storage: {storage}"
    workspace = new_workspace(
        count=6, params=f"dataset: {{source: photos}}\nextract: {{weights: {weights}, {geometry}}}\n"
    )
    extract(workspace)
    stored = stored_features(workspace)
    assert stored.dtype == storage
    expected = directly(original, workspace, weights)
    errors = relative_errors(stored, expected)
    assert errors.max() < (1e-4 if storage == "float32" else 1e-3)
    assert len(np.unique(expected.round(3), axis=0)) == 6


def directly(network: Any, workspace: Workspace, name: str) -> Any:
    """Features by torchvision's own network, one image at a time, normalised in float64."""
    params = read_params(workspace.params_file)
    weights = resolve_weights(name, workspace.root)
    network.features.load_state_dict(
        {key: torch.from_numpy(value) for key, value in load_weights(weights).items()}
    )
    mean, std = {
        "random": ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        "oxford": ([123.68 / 255, 116.779 / 255, 103.939 / 255], [1 / 255] * 3),
    }[name]
    rows = []
    for row in read_manifest(workspace.manifest_file).usable:
        image = decode((workspace.root / params.dataset.source / row.path).read_bytes())
        square = to_pixels(image, params.extract.resize, params.extract.image_size)
        pixels = np.asarray(square).transpose(2, 0, 1)
        inputs = (pixels / 255.0 - np.array(mean)[:, None, None]) / np.array(std)[:, None, None]
        with torch.inference_mode():
            batch = torch.from_numpy(inputs.astype(np.float32))[None]
            rows.append(torch.flatten(network.avgpool(network.features(batch)), 1).numpy()[0])
    return np.stack(rows)


def test_extract__photographs_with_the_default_geometry(
    original: Any, new_workspace: NewWorkspace, shared: Path, oxford_in_cache: Path
) -> None:
    workspace = new_workspace(
        count=0, params="dataset: {source: photos}\nextract: {weights: oxford, precision: float32}\n"
    )
    for label in ("cat", "dog"):
        (workspace.root / "photos" / label).mkdir(parents=True)
        for photo in sorted((shared / "cats-dogs" / label).iterdir())[:1]:
            shutil.copy(photo, workspace.root / "photos" / label / f"{photo.stem}.png")  # names do not matter
    manifest_of(workspace)
    extract(workspace)
    stored = stored_features(workspace)
    assert relative_errors(stored, directly(original, workspace, "oxford")).max() < 1e-3
    assert 0.6 < float((stored == 0).mean()) < 0.95  # as VGG16's are
    assert 50 < float(stored.max()) < 2000


# The same, whatever the batch, the workers and the day


@pytest.mark.usefixtures("quick")
def test_extract__batches_and_workers_change_no_byte(
    new_workspace: NewWorkspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_shards(monkeypatch, 8)
    outcomes = []
    for batch_size, processes in ((16, 2), (1, 1), (2, 4), (3, 1), (7, 8)):
        workspace = new_workspace(f"b{batch_size}-w{processes}", count=18)
        extract(workspace, Execution(batch_size=batch_size, workers=processes))
        outcomes.append((shards_of(workspace), workspace.index_file.read_bytes()))
    assert all(outcome == outcomes[0] for outcome in outcomes)
    assert len(outcomes[0][0]) == 3


# Never twice


def test_extract__only_what_is_missing(
    workspace: Workspace, quick: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert extract(workspace) == ExtractReport(images=10, computed=10, reused=0, copies=0)
    assert sum(quick) == 10
    assert "extract: 10 images in " in capsys.readouterr().err
    before = stat_of([workspace.index_file, *sorted(workspace.store_folder.glob("[!.]*"))])
    features = stored_features(workspace)

    quick.clear()
    assert extract(workspace) == ExtractReport(images=10, computed=0, reused=10, copies=0)
    assert not quick
    assert stat_of([workspace.index_file, *sorted(workspace.store_folder.glob("[!.]*"))]) == before
    assert capsys.readouterr().err == ""

    for number in range(10, 13):
        write_photo(workspace.root / "photos" / "dog" / f"new-{number}.png", number)
    manifest_of(workspace)
    assert extract(workspace) == ExtractReport(images=13, computed=3, reused=10, copies=0)
    assert sum(quick) == 3
    assert len(stored_features(workspace)) == 13
    np.testing.assert_array_equal(stored_features(workspace)[:5], features[:5])


def test_extract__renamed_relabelled_moved_and_copied_images_cost_nothing(
    workspace: Workspace, quick: list[int]
) -> None:
    extract(workspace)
    quick.clear()
    photos = workspace.root / "photos"
    (photos / "cat" / "000.png").rename(photos / "cat" / "zzz.png")
    (photos / "bird").mkdir()
    (photos / "cat" / "002.png").rename(photos / "bird" / "002.png")
    shutil.copy(photos / "dog" / "001.png", photos / "dog" / "copy.png")
    manifest_of(workspace, labels={"cat/004.png": "dog"})
    assert extract(workspace) == ExtractReport(images=11, computed=0, reused=10, copies=1)
    assert not quick
    stored, rows = stored_features(workspace), read_manifest(workspace.manifest_file).usable
    by_path = {row.path: stored[number] for number, row in enumerate(rows)}
    np.testing.assert_array_equal(by_path["dog/copy.png"], by_path["dog/001.png"])


def test_extract__copies_are_computed_once(workspace: Workspace, quick: list[int]) -> None:
    photos = workspace.root / "photos"
    for name in ("a", "b"):
        shutil.copy(photos / "dog" / "001.png", photos / "dog" / f"{name}.png")
    manifest_of(workspace)
    assert extract(workspace) == ExtractReport(images=12, computed=10, reused=0, copies=2)
    assert sum(quick) == 10


def test_extract__quarantined_images_are_left_alone(workspace: Workspace, quick: list[int]) -> None:
    text = workspace.manifest_file.read_text().splitlines()
    text[1] = text[1].replace(",train,", ",,").replace(",ok,", ",quarantined,corrupt")
    workspace.manifest_file.write_text("\n".join(text) + "\n")
    assert extract(workspace).images == 9
    assert sum(quick) == 9


def test_extract__nothing_new_imports_no_torch(workspace: Workspace, quick: list[int]) -> None:
    extract(workspace)
    code = (
        "import sys; from pathlib import Path\n"
        "from pipeline.features.extract import extract; from pipeline.workspace import Workspace\n"
        "heavy = {'torch', 'torchvision'}\n"
        f"print(extract(Workspace(Path({str(workspace.root)!r}))).computed, heavy & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=python_path(), check=True
    )
    assert done.stdout == "0 set()\n"
