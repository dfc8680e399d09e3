"""`pipeline finetune`: what it prints, and what it refuses."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import asdict

import pytest
from click.testing import Result

from pipeline.features.extractor import Execution
from pipeline.networks.options import FinetuneOptions
from pipeline.networks.trained import NetworkReport
from pipeline.workspace import Workspace
from tests.commands.conftest import tree

Run = Callable[..., Result]


@pytest.fixture
def workspace(finished: Workspace) -> Workspace:
    return finished


def test_finetune__its_model_is_scored_beside_the_others(run: Run, workspace: Workspace) -> None:
    options = ["--epochs", "1", "--batch-size", "28", "--learning-rate", "1e-6"]
    said = run("finetune", "logreg", *options)
    assert re.search(r"^prefix: 34 images in [\d.]+ s$", said.stderr, re.M)
    assert re.search(r"^Epoch 1/1: train loss [\d.]+, accuracy [\d.]+; val loss ", said.stderr, re.M)
    assert re.fullmatch(
        r"fine-tuned logreg from block5 on, on 28 images of 2 classes, 1 epoch in [\d.]+ s, "
        r"(epoch 1 kept|none better than logreg, which is kept with the network as it was) "
        r"-> \S+logreg-finetuned\n"
        r"accuracy [01]\.\d{4} on 6 images of val, [01]\.\d{4} before\n",
        said.stdout,
    )
    run("evaluate", "logreg-finetuned")
    run("predict", "logreg-finetuned", str(workspace.root.parent / "photos" / "cat" / "cat-000.png"))
    assert re.search(r"^logreg-finetuned +val +6 ", run("scores").stdout, re.M)


def test_finetune__as_json(run: Run, workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = list[object]()
    folder = workspace.model_folder("mine")
    report = NetworkReport("mine", 28, 2, 3, 1, 1.5, folder, {"accuracy": 1.0}, {"unfreeze": "block4"})

    def finetune(*given: object, **options: object) -> NetworkReport:
        asked.extend([given[1:], options])
        return report

    monkeypatch.setattr("pipeline.networks.finetune.finetune", finetune)
    options = ["--unfreeze", "block4", "--name", "mine", "--no-prefix", "--workers", "2", "--fresh"]
    said = json.loads(run("finetune", "logreg", *options, "--json").stdout)
    assert said == asdict(report) | {"folder": str(folder)}
    assert asked == [
        ("logreg",),
        {
            "name": "mine",
            "options": FinetuneOptions(unfreeze="block4", prefix=False),
            "execution": Execution("auto", workers=2),
            "fresh": True,
            "trust": False,
        },
    ]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            ["logreg", "--unfreeze", "block6"],
            "--unfreeze: expected one of block5, block4, block3, block2, all",
        ),
        (["logreg", "--warmup", "1"], "--warmup: expected a number of at least 0 and below 1, found 1.0"),
        (["logreg", "--learning-rate", "0"], "--learning-rate: expected a number above 0, found 0.0"),
        (["logreg", "--name", "logreg"], "--name logreg: params.yaml has a head of that name"),
        (["absent"], "{root}/models/absent: no such model."),
    ],
)
def test_finetune__refused(run: Run, workspace: Workspace, options: list[str], said: str) -> None:
    before = tree(workspace.root)
    result = run("finetune", *options, code=1)
    assert result.stderr.startswith(f"pipeline: {said.format(root=workspace.root)}")
    assert result.stderr.count("\n") == 1
    assert tree(workspace.root) == before


@pytest.mark.parametrize("options", [["--epochs", "0"], ["--patience", "0"], ["--device", "tpu"]])
def test_finetune__options_that_mean_nothing(run: Run, options: list[str]) -> None:
    assert options[0] in run("finetune", "logreg", *options, code=2).stderr


def test_help__has_an_example(run: Run) -> None:
    assert "Example:  pipeline finetune logreg --unfreeze block4" in run("finetune", "--help").stdout
    assert "finetune" in run("--help").stdout
