"""A finished workspace to train networks in: 40 images of 32 pixels, random weights, two heads."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.edit_params import write_params
from pipeline.features.extract import extract
from pipeline.features.extractor import Extractor
from pipeline.heads.train import train
from pipeline.networks.finetune import finetune
from pipeline.networks.options import FinetuneOptions
from pipeline.workspace import Workspace
from tests.commands.conftest import finished, finished_folder

__all__ = ["finished", "finished_folder"]


#: Rates at which something happens to random weights in two epochs of four steps.
QUICK = FinetuneOptions(epochs=2, batch_size=8, learning_rate=1e-4)


@pytest.fixture
def workspace(finished: Workspace) -> Workspace:
    return finished


@pytest.fixture
def photos(workspace: Workspace) -> Path:
    return workspace.root.parent / "photos"


@pytest.fixture(scope="session")
def exact_folder(finished_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same in float32, stored as float32, with a linear head of three epochs."""
    folder = tmp_path_factory.mktemp("exact") / "copy"
    shutil.copytree(finished_folder, folder)
    workspace = Workspace(folder / "workspace")
    write_params(
        workspace.params_file, {"extract.precision": "float32", "extract.storage": "float32", "seed": 3}
    )
    extract(workspace, fresh=True)
    train(workspace, "linear", overrides={"epochs": 3, "batch_size": 8})
    return folder


@pytest.fixture
def exact(exact_folder: Path, tmp_path: Path) -> Workspace:
    """`exact_folder`, free to be changed."""
    shutil.copytree(exact_folder, tmp_path / "exact", copy_function=linked)
    return Workspace(tmp_path / "exact" / "workspace")


def linked(source: str, target: str) -> None:
    """Copy a file, or link to it where it is large and never written in place."""
    if source.endswith((".h5", ".safetensors")):
        os.link(source, target)
    else:
        shutil.copy2(source, target)


@pytest.fixture(scope="session")
def tuned_folder(exact_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`exact_folder`, its linear head fine-tuned as `QUICK` says."""
    folder = tmp_path_factory.mktemp("tuned") / "copy"
    shutil.copytree(exact_folder, folder, copy_function=linked)
    finetune(Workspace(folder / "workspace"), "linear", options=QUICK)
    return folder


@pytest.fixture
def tuned(tuned_folder: Path, tmp_path: Path) -> Workspace:
    """`tuned_folder`; its files may be replaced, and tables and descriptions written."""
    shutil.copytree(tuned_folder, tmp_path / "tuned", copy_function=linked)
    return Workspace(tmp_path / "tuned" / "workspace")


@pytest.fixture
def forwarded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many images went through a network or its frozen part, batch by batch."""
    counts: list[int] = []
    original: Callable[..., Any] = Extractor.forward

    def forward(extractor: Extractor, pixels: Any) -> Any:
        counts.append(len(pixels))
        return original(extractor, pixels)

    monkeypatch.setattr(Extractor, "forward", forward)
    return counts
