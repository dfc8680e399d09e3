"""`pipeline sweep`: what it prints, and the way from a winner to its scores."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from click.testing import Result

from pipeline.params import read_params
from pipeline.workspace import Workspace

Run = Callable[..., Result]
SMALL = ("sweep", "-e", "ridge", "-e", "knn", "--pooling", "avg")


@pytest.fixture
def workspace(finished: Workspace) -> Workspace:
    return finished


def test_table__the_best_of_each_estimator_and_derivation(run: Run, workspace: Workspace) -> None:
    result = run(*SMALL, "--folds", "3")
    table, meaning = result.stdout.rsplit("\n\n", 1)
    lines = table.splitlines()
    assert " ".join(lines[0].split()) == "rank estimator pooling normalize setting accuracy ± s.e. fit, s"
    assert len(lines) == 2 + 2 * 4
    accuracies = [float(line.split()[5]) for line in lines[2:]]
    assert accuracies == sorted(accuracies, reverse=True)
    stored = json.loads(workspace.sweep_file.read_bytes())
    assert len(stored["lines"]) == 4 * (7 + 5)
    assert f"Best of 48 lines: {stored['best']['estimator']}, " in meaning
    assert f"{stored['best']['accuracy']:.1%} of 34 images in 3 folds" in meaning
    assert "That is optimistic, as it was chosen by this very number; --nested" in meaning
    assert len(run(*SMALL, "--folds", "3", "--top", "8").stdout.splitlines()) == 2 + 8 + 1 + 2
    shown = run(*SMALL, "--folds", "3", "--top", "1").stdout.rsplit("\n\n", 1)[0].splitlines()[2:]
    assert sorted(line.split()[1] for line in shown) == ["knn", "ridge"]
    assert "the best of each estimator, whatever its rank" in " ".join(run("sweep", "--help").stdout.split())


def test_table__a_failure_is_shown_with_its_reason(run: Run) -> None:
    said = run("sweep", "-e", "naive-bayes", "-e", "ridge", "--pooling", "avg", "--jobs", "1").stdout
    assert "1 line failed:\n" in said
    assert "naive-bayes, pooling avg, normalize standardize  ValueError" not in said
    assert "Negative values in data passed to MultinomialNB" in said
    assert "Best of 31 lines" in said


def test_nested__stands_beside_the_optimistic_figure(run: Run, workspace: Workspace) -> None:
    said = run(*SMALL, "--folds", "3", "--nested").stdout
    nested = json.loads(workspace.sweep_file.read_bytes())["nested"]
    assert f"nested cross-validation puts the choice at {nested['accuracy']:.1%} ± " in said


def test_json__is_the_file(run: Run, workspace: Workspace) -> None:
    assert run(*SMALL, "--json").stdout == workspace.sweep_file.read_text()


def test_save_best__is_trained_and_scored_like_any_head(run: Run, workspace: Workspace) -> None:
    result = run(*SMALL, "--save-best", "best")
    assert "saved as heads.best in params.yaml: " in result.stderr
    assert "train_on: train+val" in workspace.params_file.read_text()
    said = run("train", "best").stdout
    assert "on 34 images of 2 classes" in said
    assert " on 34 images out of fold" in said
    assert ", which it has learned from (scored out of fold): accuracy" in run("evaluate", "best").stdout
    assert "val, out of fold" in run("scores").stdout


def test_save_best__a_name_that_is_taken_is_refused_before_any_work(
    fails: Callable[..., str], workspace: Workspace
) -> None:
    assert "that is an estimator's name" in fails(*SMALL, "--save-best", "logreg")
    assert "lower-case" in fails(*SMALL, "--save-best", "Best one")


def test_save_best__of_what_is_asked_for(run: Run, workspace: Workspace) -> None:
    run(*SMALL)
    run("sweep", "-e", "knn", "--pooling", "max", "--normalize", "sqrt_l2", "--save-best", "near")
    head = read_params(workspace.params_file).heads["near"]
    assert (head.estimator, head.pooling, head.normalize) == ("knn", "max", "sqrt_l2")


def test_table__what_is_asked_for_is_shown_whatever_its_rank(run: Run) -> None:
    run(*SMALL)
    said = run("sweep", "-e", "sklearn.dummy.DummyClassifier", "--pooling", "max", "--top", "1").stdout
    assert said.count("sklearn.dummy.DummyClassifier") == 1
    assert "Always naming the commonest class is right on 50.0%." in said


def test_nested__of_some_lines_says_so(run: Run) -> None:
    run(*SMALL, "--folds", "3")
    said = run("sweep", "-e", "ridge", "--pooling", "avg", "--folds", "3", "--nested").stdout
    assert "puts the choice, among 28 of the lines only, at " in said
