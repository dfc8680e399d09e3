"""`pipeline train-network`: what it prints, and what it refuses."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

import pytest
from click.testing import Result

from pipeline.edit_params import write_params
from pipeline.workspace import Workspace

Run = Callable[..., Result]


@pytest.fixture
def workspace(finished: Workspace) -> Workspace:
    return finished


def test_train_network__its_model_is_scored_beside_the_others(run: Run, workspace: Workspace) -> None:
    said = run("train-network", "--epochs", "1", "--workers", "1")
    assert re.search(
        r"^Epoch 0, minibatch 0: train acc = \d\.\d{4}, train loss = \d\.\d{3}$", said.stderr, re.M
    )
    assert re.search(r"^epoch 1/1: 28 images in [\d.]+ s$", said.stderr, re.M)
    assert re.fullmatch(
        r"trained network on 28 images of 2 classes, 1 epoch in [\d.]+ s, epoch 0 kept -> \S+network\n"
        r"accuracy [01]\.\d{4} on 6 images of val\n",
        said.stdout,
    )
    run("evaluate", "network")
    run("predict", "network", str(workspace.root.parent / "photos" / "cat" / "cat-000.png"))
    assert re.search(r"^network +val +6 ", run("scores").stdout, re.M)


def test_train_network__as_json(run: Run, workspace: Workspace) -> None:
    options = ["--epochs", "1", "--batch-size", "14", "--no-augment", "--json"]
    report = json.loads(run("train-network", "plain", *options).stdout)
    assert (report["name"], report["images"], report["epochs"]) == ("plain", 28, 1)
    assert report["training"]["batch_size"] == 14
    assert report["folder"] == str(workspace.model_folder("plain"))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["logreg"], "--name logreg: params.yaml has a head of that name"),
        (["--learning-rate", "nan"], "--learning-rate: expected a number above 0, found nan"),
        (["--weight-decay", "-1"], "--weight-decay: expected a number of at least 0, found -1.0"),
    ],
)
def test_train_network__refused(run: Run, options: list[str], said: str) -> None:
    result = run("train-network", *options, code=1)
    assert result.stderr.startswith(f"pipeline: {said}")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("options", [["--epochs", "0"], ["--batch-size", "0"], ["--device", "tpu"]])
def test_train_network__options_that_mean_nothing(run: Run, options: list[str]) -> None:
    assert options[0] in run("train-network", *options, code=2).stderr


def test_train_network__other_networks(run: Run, workspace: Workspace) -> None:
    write_params(workspace.params_file, {"extract.backbone": "resnet18", "extract.weights": "random"})
    said = run("train-network", code=1).stderr
    assert said.startswith("pipeline: extract.backbone is resnet18, and only vgg16 can be trained in the")
    assert said.count("\n") == 1


def test_help__has_an_example(run: Run) -> None:
    assert "Example:  pipeline train-network --epochs 3 --no-augment" in run("train-network", "--help").stdout
    assert "train-network" in run("--help").stdout
