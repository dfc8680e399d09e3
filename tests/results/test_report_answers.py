from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from pipeline.dataset.manifest import ImageRow
from pipeline.edit_params import write_params
from pipeline.errors import ModelError
from pipeline.heads.folds import FOLDS, fold_of_rows
from pipeline.heads.matrix import LabelledFeatures
from pipeline.heads.train import train
from pipeline.results.report.answers import Answers, answers_of, current_model, recipe_of
from pipeline.results.report.learning_curve import Point, learning_curve
from pipeline.workspace import Workspace

Change = Callable[[Callable[[ImageRow], ImageRow]], None]


def ask(workspace: Workspace, head: str) -> tuple[Answers, list[Point]]:
    features = LabelledFeatures.open(workspace)
    model, _ = current_model(workspace, features, head, trust=False)
    recipe, rows = recipe_of(model, features, trust=False)
    answers = answers_of(model, recipe, rows, features)
    return answers, learning_curve(model, recipe, rows, features, answers)


@pytest.mark.parametrize("head", ["linear", "logreg", "svm", "knn", "bayes"])
def test_answers__of_train_and_val_never_of_test(workspace: Workspace, head: str) -> None:
    train(workspace, head)
    answers, points = ask(workspace, head)
    assert {image.split for image in answers.images} == {"train", "val"}
    assert len(answers.images) == len(answers.y) == 48
    assert [answers.predictions.classes[code] for code in answers.y] == [row.label for row in answers.images]
    assert answers.left_out == 0
    assert answers.decisions is not None
    assert answers.decisions.shape == (48, 3)
    assert (answers.decisions.argmax(axis=1) == answers.predictions.codes).all()
    assert (answers.predictions.probabilities is None) == (head == "svm")
    assert points[-1].accuracy == pytest.approx((answers.predictions.codes == answers.y).mean(), abs=0.02)
    assert [point.images for point in points] == sorted({point.images for point in points})


def test_answers__are_of_heads_that_had_not_learned_from_the_image(workspace: Workspace) -> None:
    """The same by hand, fold by fold, with scikit-learn's own logistic regression."""
    from sklearn.linear_model import LogisticRegression

    write_params(workspace.params_file, {"heads.logreg.params": {"C": 1e-4, "max_iter": 5000, "tol": 1e-3}})
    train(workspace, "logreg")
    answers, _ = ask(workspace, "logreg")
    rows = LabelledFeatures.open(workspace).matrix("train", "val")
    fold_of = fold_of_rows(rows.y, rows.groups, FOLDS, 7)
    X = rows.X.astype(np.float32)
    for fold in range(FOLDS):
        held = fold_of == fold
        head = LogisticRegression(C=1e-4, max_iter=5000, tol=1e-3).fit(X[~held], rows.y[~held])
        assert answers.predictions.probabilities is not None
        np.testing.assert_allclose(
            answers.predictions.probabilities[held], head.predict_proba(X[held]), atol=1e-3
        )


def test_answers__those_kept_with_the_model_where_it_learned_from_val(workspace: Workspace) -> None:
    write_params(workspace.params_file, {"heads.logreg.train_on": "train+val"})
    train(workspace, "logreg")
    model, _ = current_model(workspace, LabelledFeatures.open(workspace), "logreg", trust=False)
    answers, _ = ask(workspace, "logreg")
    assert model.held_out is not None
    assert answers.predictions.probabilities is not None
    np.testing.assert_array_equal(answers.predictions.probabilities, model.held_out.probabilities)


def test_answers__a_calibrated_head_has_probabilities(workspace: Workspace) -> None:
    write_params(workspace.params_file, {"heads.svm.calibrate": True})
    train(workspace, "svm")
    answers, _ = ask(workspace, "svm")
    assert answers.predictions.probabilities is not None
    np.testing.assert_allclose(answers.predictions.probabilities.sum(axis=1), 1)
    assert answers.calibrating


def test_recipe__is_of_what_was_set_when_the_model_was_trained(workspace: Workspace) -> None:
    train(workspace, "knn", overrides={"n_neighbors": 2}, changes={"pooling": "avg"})
    train(workspace, "logreg")
    train(workspace, "svm", overrides={"C": 0.5, "class_weight": {"cat": 2.0}})
    features = LabelledFeatures.open(workspace)

    def params(head: str) -> dict[str, object]:
        model, _ = current_model(workspace, features, head, trust=False)
        recipe, rows = recipe_of(model, features, trust=False)
        assert rows.X.shape[1] == (512 if head == "knn" else 25088)
        return dict(recipe.params)

    assert params("knn") == {"n_neighbors": 2}
    assert params("logreg") == {}  # strength and tolerance follow from the scale of the rows
    assert params("svm") == {"C": 0.5, "class_weight": {"cat": 2.0}}


def test_answers__an_only_image_of_its_class_is_left_out(workspace: Workspace, change_rows: Change) -> None:
    only = "owl/00.jpg"
    change_rows(
        lambda row: replace(row, label="dog") if row.label == "owl" and row.path != only else row,
    )
    train(workspace, "logreg")
    answers, points = ask(workspace, "logreg")
    assert answers.left_out == 1
    assert only not in {image.path for image in answers.images}
    assert len(points) >= 2


def test_current_model__of_other_labels_is_refused(workspace: Workspace, change_rows: Change) -> None:
    train(workspace, "knn")
    change_rows(lambda row: replace(row, label="dog") if row.path == "cat/00.jpg" else row)
    with pytest.raises(ModelError, match=r"other images or labels.*`pipeline train knn` again"):
        current_model(workspace, LabelledFeatures.open(workspace), "knn", trust=False)
    with pytest.raises(ModelError, match="no such model"):
        current_model(workspace, LabelledFeatures.open(workspace), "logreg", trust=False)


def test_orders__mistakes_surest_first_and_doubts_least_certain_first(workspace: Workspace) -> None:
    train(workspace, "logreg")
    answers, _ = ask(workspace, "logreg")
    wrong = answers.predictions.codes != answers.y
    assert sorted(answers.mistakes) == np.flatnonzero(wrong).tolist()
    assert (np.diff(answers.certainty[answers.mistakes]) <= 0).all()
    assert sorted(answers.least_certain) == list(range(48))
    assert (np.diff(answers.certainty[answers.least_certain]) >= 0).all()
    blind = replace(answers, decisions=None, predictions=replace(answers.predictions, probabilities=None))
    assert blind.least_certain == []
