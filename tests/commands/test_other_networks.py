"""The whole flow through the command line, with another network than VGG16."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from pipeline.edit_params import write_params
from pipeline.workspace import Workspace
from tests.commands.conftest import the_error

Run = Callable[..., Result]
RESNET = {"extract.backbone": "resnet18", "extract.weights": "random"}
SIZES = {"extract.resize": 64, "extract.image_size": 64}


@pytest.fixture
def resnet(workspace: Workspace) -> Workspace:
    write_params(workspace.params_file, RESNET | SIZES)
    return workspace


def test_flow(run: Run, resnet: Workspace, source: Path) -> None:
    run("prepare")
    assert "40 images computed" in run("extract").stdout
    assert "40 rows" in run("store", "verify").stdout
    assert "identity   dimension 512" in run("store", "info").stdout.splitlines()
    assert "(logreg) on 28 images of 2 classes" in run("train", "logreg").stdout
    assert "accuracy" in run("evaluate", "logreg").stdout
    assert "40 images audited" in run("audit").stdout
    board = run("sweep", "-e", "ridge", "-e", "knn", "--folds", "3", "--save-best", "best").stdout
    assert "Best of 48 lines" in board  # 12 settings, 4 normalisations, no pooling
    assert "avg" not in board
    run("train", "best")
    assert run("evaluate", "best").exit_code == 0
    metrics = json.loads((resnet.root / "reports" / "metrics" / "best.val.json").read_bytes())
    assert metrics["accuracy"] > 0.8

    new = source.parent / "new.png"
    new.write_bytes((source / "cat" / "cat-000.png").read_bytes())
    stored = json.loads(run("predict", "logreg", str(new), "--format", "json").stdout)
    for shard in resnet.store_folder.glob("*.h5"):
        shard.unlink()
    computed = json.loads(run("predict", "logreg", str(new), "--format", "json").stdout)
    assert computed == stored  # from the store, and pushed through anew
    assert stored[0]["label"] == "cat"


def test_summary(run: Run, resnet: Workspace) -> None:
    said = run("summary", "--classes", "3").stdout
    assert "ResNet" in said
    assert "Non-trainable params: 11,176,512" in said  # torchvision's 11,689,512 without 513,000 of fc
    assert f"Trainable params: {512 * 3 + 3:,}" in said


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"extract.backbone": "resnt18"}, "Did you mean 'resnet18'?"),
        ({"extract.weights": "oxford"}, "oxford are weights of vgg16, and extract.backbone is resnet18."),
        ({"extract.precision": "int8"}, "int8 is there for vgg16 only"),
        ({"extract.weights": "IMAGENET1K_V7"}, "'IMAGENET1K_V7' is unknown. Set extract.weights to DEFAULT,"),
    ],
)
def test_what_does_not_go_together(run: Run, resnet: Workspace, changes: dict[str, str], said: str) -> None:
    run("prepare")
    text = resnet.params_file.read_text()
    for key, value in changes.items():
        name = key.partition(".")[2]
        old = next(line for line in text.splitlines() if line.startswith(f"  {name}:"))
        text = text.replace(old, f"  {name}: {value}")
    resnet.params_file.write_text(text)
    assert said in the_error(run("extract", code=1))
