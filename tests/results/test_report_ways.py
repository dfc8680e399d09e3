"""Heads on stored features beside networks: which are compared, and what is said of each."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace

import pytest

from pipeline.features.store import FeatureStore
from pipeline.heads.matrix import LabelledFeatures
from pipeline.heads.train import train
from pipeline.networks.options import NetworkOptions
from pipeline.networks.train_network import train_network
from pipeline.results.evaluate import evaluate
from pipeline.results.report.report import report
from pipeline.results.report.ways import Way, ways
from pipeline.results.scores import scores
from pipeline.workspace import Workspace
from tests.commands.conftest import finished_folder
from tests.networks.conftest import exact_folder, tuned, tuned_folder

__all__ = ["exact_folder", "finished_folder", "tuned", "tuned_folder"]  # fixtures


@pytest.fixture
def workspace(tuned: Workspace) -> Workspace:
    """A head on stored features, another one, and the network fine-tuned with the first; scored on val."""
    train(tuned, "logreg")
    for name in ("linear", "linear-finetuned", "logreg"):
        evaluate(tuned, name)
    return tuned


def compared(workspace: Workspace) -> list[Way]:
    return ways(workspace, LabelledFeatures.open(workspace), scores(workspace))


def times_are(workspace: Workspace, name: str, seconds: float) -> None:
    """Put a time in the place of the one that was measured."""
    file = workspace.times_folder / name
    file.write_text(json.dumps(json.loads(file.read_bytes()) | {"seconds": seconds}))


def test_ways__what_each_cost_and_is_worth(workspace: Workspace) -> None:
    train_network(workspace, options=NetworkOptions(epochs=1, augment=False))
    score = evaluate(workspace, "network")
    times_are(workspace, "models/linear.json", 0.26)
    times_are(workspace, "models/linear-finetuned.json", 123.4)
    times_are(workspace, "models/network.json", 12.34)
    times_are(workspace, "rows/pool4.json", 34 * 0.5)
    rows = json.loads((workspace.times_folder / "rows" / "avgpool.flatten.json").read_bytes())["rows"]
    times_are(workspace, "rows/avgpool.flatten.json", rows * 0.25)
    found = {way.model: way for way in compared(workspace)}
    assert found["linear"].how == "head (linear) on stored features"
    assert (found["linear"].once, found["linear"].training) == (f"{34 * 0.25:.1f}", "0.3")
    tuned = found["linear-finetuned"]
    assert tuned.how == "linear, fine-tuned from block5 on, 2 epochs"
    assert (tuned.once, tuned.training) == (f"{34 * 0.75:.1f}", "123")
    network = found["network"]
    assert network.how == "last layer in the frozen network, 1 epoch of images"
    assert (network.once, network.training) == ("", "12.3")
    assert network.accuracy == f"{score.accuracy:.4f}"
    p = score.accuracy
    assert network.standard_error == f"{math.sqrt(p * (1 - p) / 6):.4f}"


@pytest.mark.parametrize(("accuracy", "heads"), [(1.0, ["logreg", "linear"]), (0.0, ["linear"])])
def test_ways__heads_are_those_begun_from_and_the_best(
    workspace: Workspace, accuracy: float, heads: list[str]
) -> None:
    said = {"linear": 0.5, "linear-finetuned": 0.5, "logreg": accuracy, "linear-svm": 1.0}
    found = [replace(score, accuracy=said[score.head]) for score in scores(workspace)]
    assert next(score for score in found if score.head == "linear-svm").current  # of other features, though
    found.sort(key=lambda score: -score.accuracy)
    models = [way.model for way in ways(workspace, LabelledFeatures.open(workspace), found)]
    assert models == [*heads, "linear-finetuned"]


def test_ways__none_without_a_network(workspace: Workspace) -> None:
    workspace.metrics_file("linear-finetuned", "val").unlink()
    assert compared(workspace) == []


def test_ways__of_another_extractor_now_are_left_out(workspace: Workspace) -> None:
    features = LabelledFeatures.open(workspace)
    store = FeatureStore(features.store.folder, replace(features.identity, resize=300))
    assert ways(workspace, replace(features, store=store), scores(workspace)) == []


def test_ways__of_other_images_now_are_left_out(workspace: Workspace) -> None:
    text = workspace.manifest_file.read_text()
    line = next(line for line in text.splitlines() if ",val," in line)
    workspace.manifest_file.write_text(text.replace(line, line.replace(",val,", ",train,")))
    assert compared(workspace) == []


def test_ways__times_that_are_not_known(workspace: Workspace) -> None:
    for file in workspace.times_folder.rglob("*.json"):
        file.unlink()
    assert {(way.once, way.training) for way in compared(workspace)} == {("–", "–")}


def test_report__has_the_table(workspace: Workspace) -> None:
    pytest.importorskip("vl_convert")
    page = report(workspace, head="linear").read_text("utf-8")
    assert '<a href="#ways">' in page
    [table] = re.findall(r'aria-labelledby="ways">.*?<tbody>(.*?)</tbody>', page, re.DOTALL)
    rows = [re.findall(r">([^<>]+)</t[hd]>", row) for row in table.split("</tr>")[:-1]]
    assert [(row[0], row[-1]) for row in rows[-2:]] == [
        ("linear", "head (linear) on stored features"),
        ("linear-finetuned", "linear, fine-tuned from block5 on, 2 epochs"),
    ]
    assert '<tr class="focus"><th scope="row">linear</th>' in table
