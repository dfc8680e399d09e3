from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pipeline.dataset.manifest import ImageRow, read_manifest
from pipeline.errors import HeadError, ParamsError
from pipeline.features.store import FeatureStore, RowKey
from pipeline.heads import cross_validation, model_folder
from pipeline.heads.derived import Derivation
from pipeline.heads.folds import fold_of_rows
from pipeline.heads.matrix import LabelledFeatures
from pipeline.heads.recipe import Recipe, norm_of
from pipeline.heads.registry import grid_of
from pipeline.heads.sweep import ESTIMATORS, Space, sweep
from pipeline.heads.train import train
from pipeline.heads.winner import check_winner_name, save_winner
from pipeline.params import read_params
from pipeline.workspace import Workspace

Change = Callable[[Callable[[ImageRow], ImageRow]], None]
SMALL = Space(("ridge", "knn"), ("avg",), ("none", "l2"))


@pytest.fixture
def noisy(workspace: Workspace, change_rows: Change) -> Workspace:
    """The same with a few wrong labels, so that no head is always right."""
    wrong = {f"{label}/{number:02d}.jpg" for label in ("cat", "dog") for number in (1, 5, 9, 13)}
    change_rows(lambda row: replace(row, label="owl") if row.path in wrong else row)
    return workspace


def test_sweep__lines_are_those_of_plain_cross_validation(noisy: Workspace) -> None:
    board = sweep(noisy, SMALL, folds=4)
    rows = LabelledFeatures.open(noisy).matrix("train", "val", derivation=Derivation("avg", "l2"))
    fold_of = fold_of_rows(rows.y, rows.groups, 4, 7)
    lines = {(each.estimator, each.normalize, each.place): each for each in board.lines}
    assert len(lines) == 2 * (7 + 5)
    for estimator in ("ridge", "knn"):
        for place, params in enumerate(grid_of(estimator, norm_of(rows.X))):
            recipe = Recipe(estimator, params, rows.classes, Derivation("avg", "l2"), 7, False)
            by_fold = []
            for fold in range(4):
                held = fold_of == fold
                head = recipe.fit(rows.X[~held], rows.y[~held]).estimator
                by_fold.append((head.predict(rows.X[held]) == rows.y[held]).mean())
            found = lines[estimator, "l2", place]
            assert found.params == params
            assert found.fold_accuracy == pytest.approx(by_fold, abs=1e-6)
            assert found.accuracy == pytest.approx(np.mean(by_fold), abs=1e-6)  # folds of 12 rows each
    assert board.best is not None
    assert 0.5 < (board.best.accuracy or 0) < 1


def test_sweep__test_rows_are_never_read(workspace: Workspace, asked: list[str]) -> None:
    splits = {row.sha256: row.split for row in read_manifest(workspace.manifest_file).usable}
    space = Space(("ridge", "knn", "naive-bayes"), ("avg",), ("l2", "standardize"))
    sweep(workspace, space, folds=3, nested=True, jobs=1)
    assert {splits[sha256] for sha256 in asked} == {"train", "val"}
    assert not workspace.test_looks_file.exists()


def test_sweep__whatever_the_test_split_holds(noisy: Workspace, change_rows: Change) -> None:
    before = sweep(noisy, SMALL)
    noisy.sweep_file.unlink()
    change_rows(lambda row: replace(row, label="cat") if row.split == "test" else row)
    after = sweep(noisy, SMALL)
    assert [timeless(each) for each in after.lines] == [timeless(each) for each in before.lines]
    assert before.of == after.of


def timeless(line: Any) -> Any:
    return replace(line, fit_seconds=0.0)


def test_sweep__the_default_tries_five_estimators_on_all_derivations(workspace: Workspace) -> None:
    board = sweep(workspace)
    found = {(each.estimator, each.pooling, each.normalize) for each in board.lines}
    assert len(found) == 5 * 3 * 4
    assert {estimator for estimator, _, _ in found} == set(ESTIMATORS)
    assert [each.failed for each in board.lines if each.failed] == []
    assert board.best is not None
    assert board.best.accuracy == 1.0
    assert board.best.pooling != "none"  # among equals


# --- resuming


def test_sweep__goes_on_where_it_was_stopped(noisy: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = sweep(noisy, SMALL)
    noisy.sweep_file.unlink()
    held_out = cross_validation.CrossValidation.held_out
    calls: list[str] = []

    def interrupted(self: Any, recipes: Sequence[Recipe], *rest: Any) -> Any:
        calls.append(f"{recipes[0].estimator} {recipes[0].derivation.normalize}")
        if len(calls) == 4:
            raise KeyboardInterrupt
        return held_out(self, recipes, *rest)

    monkeypatch.setattr(cross_validation.CrossValidation, "held_out", interrupted)
    with pytest.raises(KeyboardInterrupt):
        sweep(noisy, SMALL)
    assert len(json.loads(noisy.sweep_file.read_bytes())["lines"]) == 7 + 5 + 7
    again = sweep(noisy, SMALL)
    assert calls == ["ridge none", "knn none", "ridge l2", "knn l2", "knn l2"]
    assert [timeless(each) for each in again.lines] == [timeless(each) for each in whole.lines]


def test_sweep__further_estimators_join(noisy: Workspace) -> None:
    sweep(noisy, SMALL)
    board = sweep(noisy, Space(("sklearn.dummy.DummyClassifier",), ("avg",), ("none",)))
    assert len(board.lines) == 2 * (7 + 5) + 1
    assert board.lines[-1].estimator == "sklearn.dummy.DummyClassifier"


@pytest.mark.parametrize("what", ["label", "group", "folds"])
def test_sweep__other_rows_or_folds_start_anew(
    noisy: Workspace, change_rows: Change, capsys: pytest.CaptureFixture[str], what: str
) -> None:
    space = Space(("ridge",), ("avg",), ("none",))
    sweep(noisy, SMALL)
    if what == "label":
        change_rows(lambda row: replace(row, label="dog") if row.path == "cat/00.jpg" else row)
    elif what == "group":
        change_rows(lambda row: replace(row, group="one") if row.path < "cat/08.jpg" else row)
    assert len(sweep(noisy, space, folds=3 if what == "folds" else 5).lines) == 7
    assert "the old one is kept as sweep.old.json" in capsys.readouterr().err
    assert len(json.loads(noisy.sweep_file.with_suffix(".old.json").read_bytes())["lines"]) == 24


def test_sweep__all_old_leaderboards_are_kept(noisy: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    space = Space(("ridge",), ("avg",), ("none",))
    for folds in (3, 4, 5, 6):
        sweep(noisy, space, folds=folds)
    names = ["sweep.old.json", "sweep.old.2.json", "sweep.old.3.json"]
    assert re.findall(r"the old one is kept as (\S+)", capsys.readouterr().err) == names
    kept = [json.loads((noisy.sweep_file.parent / name).read_bytes()) for name in (*names, "sweep.json")]
    assert [stored["folds"] for stored in kept] == [3, 4, 5, 6]


# --- nested


def test_sweep__nested(noisy: Workspace) -> None:
    space = Space(("knn",), ("avg",), ("none",))
    board = sweep(noisy, space, folds=3, nested=True)
    rows = LabelledFeatures.open(noisy).matrix("train", "val", derivation=Derivation("avg"))
    fold_of = fold_of_rows(rows.y, rows.groups, 3, 7)
    lines = sorted(board.lines, key=lambda each: each.place)
    chosen = []
    for fold in range(3):
        some = np.flatnonzero(fold_of != fold)
        inner = fold_of_rows(rows.y[some], rows.groups[some], 3, 7)
        accuracies = []
        for params in grid_of("knn", 1.0):
            recipe = Recipe("knn", params, rows.classes, Derivation("avg"), 7, False)
            right = np.zeros(len(some), np.bool_)
            for part in range(3):
                learned, asked = some[inner != part], some[inner == part]
                head = recipe.fit(rows.X[learned], rows.y[learned]).estimator
                right[inner == part] = head.predict(rows.X[asked]) == rows.y[asked]
            accuracies.append(right.mean())
        assert [each.inner_accuracy[fold] for each in lines] == pytest.approx(accuracies, abs=1e-6)
        chosen.append(lines[int(np.argmax(accuracies))].fold_accuracy[fold])
    assert board.nested is not None
    assert board.nested["accuracy"] == pytest.approx(np.mean(chosen), abs=1e-6)


def test_sweep__nested_after_one_that_was_not(noisy: Workspace) -> None:
    space = Space(("ridge",), ("avg",), ("none",))
    assert sweep(noisy, space).nested is None
    assert sweep(noisy, space, nested=True).nested is not None
    assert sweep(noisy, space).nested is not None  # kept


# --- bad input


def test_sweep__an_estimator_that_fails_is_marked_and_the_rest_goes_on(noisy: Workspace) -> None:
    space = Space(("naive-bayes", "ridge"), ("avg",), ("standardize",))
    board = sweep(noisy, space, jobs=1)
    assert len(board.lines) == 8
    assert board.lines[-1].estimator == "naive-bayes"
    assert "Negative values" in (board.lines[-1].failed or "")
    assert board.lines[-1].accuracy is None
    stored = json.loads(noisy.sweep_file.read_bytes())
    assert stored["lines"][-1]["failed"] == board.lines[-1].failed


def test_sweep__an_unknown_estimator_fails_before_any_work(workspace: Workspace) -> None:
    with pytest.raises(HeadError, match="Did you mean 'ridge'"):
        sweep(workspace, Space(("rigde",)))
    with pytest.raises(HeadError, match="outside scikit-learn"):
        sweep(workspace, Space(("tests.evil.Head",)))
    assert not workspace.sweep_file.exists()


def test_sweep__more_folds_than_images(workspace: Workspace) -> None:
    with pytest.raises(HeadError, match="49 folds need at least as many training images"):
        sweep(workspace, SMALL, folds=49)


def test_sweep__the_only_image_of_a_class_stays_in_training(
    workspace: Workspace, change_rows: Change
) -> None:
    change_rows(
        lambda row: (
            row
            if row.label != "owl" or row.path == "owl/00.jpg"
            else replace(row, status="quarantined", reason="empty", split="", sha256="")
        )
    )
    board = sweep(workspace, SMALL)
    assert [each.failed for each in board.lines if each.failed] == []
    assert board.rows == 32


def test_sweep__constant_features(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    read = FeatureStore.read

    def zeros(store: FeatureStore, keys: Sequence[RowKey], out: Any = None) -> Any:
        found = read(store, keys, out)
        found[:] = 0
        return found

    monkeypatch.setattr(FeatureStore, "read", zeros)
    board = sweep(workspace)
    assert len(board.lines) == 372
    assert {each.failed for each in board.lines if each.failed is not None} == set()
    assert board.best is not None
    assert (board.best.accuracy or 1) <= 0.4


# --- the winner


def test_winner__becomes_a_head_that_learns_from_train_and_val(noisy: Workspace) -> None:
    comment = b"# mine\n"
    noisy.params_file.write_bytes(comment + noisy.params_file.read_bytes())
    board = sweep(noisy, SMALL)
    best = save_winner(noisy, board.best, "best")
    assert best == board.best
    assert noisy.params_file.read_bytes().startswith(comment)
    head = read_params(noisy.params_file).heads["best"]
    assert (head.estimator, head.params) == (best.estimator, best.params)
    assert (head.pooling, head.normalize, head.train_on) == (best.pooling, best.normalize, "train+val")
    model = model_folder.load(train(noisy, "best").folder)
    assert model.rows == 48
    # the folds of training are those of the sweep
    assert model.metrics["accuracy"] == best.accuracy


def test_winner__of_another_sweep_takes_its_place(noisy: Workspace) -> None:
    save_winner(noisy, sweep(noisy, Space(("knn",), ("avg",), ("none",))).best, "best")
    save_winner(noisy, sweep(noisy, Space(("ridge",), ("max",), ("l2",))).best, "best")
    assert len(read_params(noisy.params_file).heads) == 6


def test_winner__a_head_of_the_user_is_left_alone(noisy: Workspace) -> None:
    before = noisy.params_file.read_bytes()
    for name, message in (
        ("svm", "has a head of that name"),
        ("forest", "that is an estimator's name"),
        ("Best", "lower-case"),
        ("a/b", "lower-case"),
    ):
        with pytest.raises(ParamsError, match=message):
            check_winner_name(noisy, name)
    assert noisy.params_file.read_bytes() == before


def test_winner__none_if_all_failed(noisy: Workspace) -> None:
    board = sweep(noisy, Space(("naive-bayes",), ("avg",), ("standardize",)), jobs=1)
    with pytest.raises(HeadError, match="no line of the sweep has succeeded"):
        save_winner(noisy, board.best, "best")
