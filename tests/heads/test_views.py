"""Views in stage two: the mean of an image's views, or a row for each to learn from."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from pipeline.dataset.manifest import read_manifest
from pipeline.edit_params import write_params
from pipeline.errors import HeadError, ModelError
from pipeline.features.store import FeatureStore, RowKey
from pipeline.heads import model_folder
from pipeline.heads.current import require_current
from pipeline.heads.derived import Derivation
from pipeline.heads.folds import fold_of_rows
from pipeline.heads.matrix import LabelledFeatures
from pipeline.heads.recipe import Recipe, norm_of
from pipeline.heads.registry import grid_of
from pipeline.heads.sweep import Space, sweep
from pipeline.heads.train import train
from pipeline.heads.winner import save_winner
from pipeline.params import NORMALIZATIONS, POOLINGS, read_params
from pipeline.views import ViewUse
from pipeline.workspace import Workspace
from tests.heads.conftest import CLASSES, IDENTITY, features_like_vgg
from tests.index_file import write_index

SPLITS = ("train", "val", "test")
VIEWS = ("center", "hflip", "top-left")
Floats = npt.NDArray[np.float64]
AddView = Callable[[str, npt.NDArray[np.float16]], None]


@pytest.fixture
def add_view(workspace: Workspace) -> AddView:
    """Add a view of every image to the store, in an order that is nobody's, and to what is asked for."""

    def add(view: str, X: npt.NDArray[np.float16]) -> None:
        manifest = read_manifest(workspace.manifest_file)
        store = FeatureStore.open(workspace.store_folder)
        order = np.random.default_rng(len(view)).permutation(len(X))
        for part in np.array_split(order, 2):
            store.add([RowKey(manifest.usable[row].sha256, view) for row in part], X[part], {})
        views = (*read_params(workspace.params_file).extract.views, view)
        write_params(workspace.params_file, {"extract.views": list(views)})
        write_index(workspace, IDENTITY, "random", manifest, views)

    return add


@pytest.fixture
def several(workspace: Workspace, add_view: AddView) -> Workspace:
    """The workspace with three views, whose classes light up the same columns."""
    for seed, view in enumerate(VIEWS[1:], start=1):
        add_view(view, features_like_vgg(codes_of(workspace), seed))
    return workspace


def codes_of(workspace: Workspace) -> npt.NDArray[np.int64]:
    return np.array([CLASSES.index(row.label) for row in read_manifest(workspace.manifest_file).usable])


def stored(workspace: Workspace, *splits: str) -> Floats:
    """What the store holds of each image, shape (n, views, 25088)."""
    images = [row for row in read_manifest(workspace.manifest_file).usable if row.split in splits]
    keys = [RowKey(image.sha256, view) for image in images for view in VIEWS]
    X = FeatureStore.open(workspace.store_folder).read(keys)
    return X.astype(np.float64).reshape(len(images), len(VIEWS), -1)


def derived(X: Floats, pooling: str, normalize: str) -> Floats:
    """Pool each view, take the mean of them if there is an axis of views, then normalise; in float64."""
    if pooling != "none":
        positions = X.reshape(*X.shape[:-1], 512, 49)
        X = positions.mean(axis=-1) if pooling == "avg" else positions.max(axis=-1)
    X = X.mean(axis=1) if X.ndim == 3 else X
    X = np.sqrt(X) if normalize == "sqrt_l2" else X
    return X if normalize == "none" else X / np.linalg.norm(X, axis=1, keepdims=True)


# --- rows


@pytest.mark.parametrize("normalize", ["none", "l2", "sqrt_l2"])
@pytest.mark.parametrize("pooling", POOLINGS)
def test_matrix__means_and_stacked_rows(several: Workspace, pooling: Any, normalize: Any) -> None:
    features = LabelledFeatures.open(several)
    X = stored(several, "train", "val")
    average = features.matrix("train", "val", derivation=Derivation(pooling, normalize, "average"))
    np.testing.assert_allclose(average.X, derived(X, pooling, normalize), rtol=2e-6, atol=1e-6)
    stack = features.matrix("train", "val", derivation=Derivation(pooling, normalize, "stack"))
    assert stack.asked.tobytes() == average.X.tobytes()
    learned, y = stack.all_learned()
    each = derived(X.reshape(-1, X.shape[2]), pooling, normalize)
    np.testing.assert_allclose(learned, each, rtol=2e-6, atol=1e-6)
    assert y.tolist() == np.repeat(average.y, 3).tolist()
    some = np.array([4, 0])
    np.testing.assert_array_equal(
        stack.X[stack.learned(some)], learned.reshape(48, 3, -1)[some].reshape(6, -1)
    )
    assert stack.row_y[stack.learned(some)].tolist() == np.repeat(stack.y[some], 3).tolist()
    assert average.learned(some) is some


def test_matrix__center_is_what_it_was(several: Workspace) -> None:
    features = LabelledFeatures.open(several)
    rows = features.matrix("train", derivation=Derivation("avg"))
    assert rows.views == ("center",)
    np.testing.assert_allclose(rows.X, derived(stored(several, "train")[:, 0], "avg", "none"), rtol=2e-6)
    assert features.matrix("train").digest == rows.digest == features.digest("train")
    assert features.digest("train", use="average") != rows.digest


def test_views__none_beside_the_centre(workspace: Workspace) -> None:
    words = re.escape("heads.logreg: views stack: of each image there is only the view center. Add another")
    with pytest.raises(HeadError, match=words):
        train(workspace, "logreg", changes={"views": "stack"})
    with pytest.raises(HeadError, match="views average: of each image there is only the view center"):
        sweep(workspace, Space(("knn",), views=("average",)))


# --- heads


@pytest.mark.parametrize("views", ["average", "stack"])
@pytest.mark.parametrize("head", ["linear", "logreg", "svm", "knn", "bayes"])
def test_train__model_knows_unseen_images(several: Workspace, head: str, views: str) -> None:
    report = train(several, head, changes={"views": views})
    assert (report.rows, report.metrics["n"]) == (36, 12)
    model = model_folder.load(report.folder)
    assert (model.views, model.derivation.views, model.rows) == (VIEWS, views, 36)
    features = LabelledFeatures.open(several)
    require_current(model, head, features)
    rows = features.labels("val")
    X = features.stored(rows, VIEWS)
    assert X.tobytes() == stored(several, "val").astype(np.float16).tobytes()
    predicted = model.predict(X)
    assert (predicted.codes == rows.y).mean() == report.metrics["accuracy"] >= 0.9
    alone = model.predict(X[6:9])
    assert alone.codes.tolist() == predicted.codes[2:3].tolist()
    if predicted.probabilities is not None and alone.probabilities is not None:
        assert alone.probabilities.tobytes() == predicted.probabilities[2:3].tobytes()


@pytest.mark.parametrize("normalize", NORMALIZATIONS)
@pytest.mark.parametrize("views", ["average", "stack"])
def test_train__learns_from_what_is_said_and_is_asked_about_the_mean(
    several: Workspace, views: ViewUse, normalize: Any
) -> None:
    changes = {"views": views, "normalize": normalize, "pooling": "avg"}
    model = model_folder.load(train(several, "logreg", changes=changes).folder)
    plain = "none" if normalize == "standardize" else normalize
    X, asked = stored(several, "train"), derived(stored(several, "val"), "avg", plain)
    learned = derived(X if views == "average" else X.reshape(-1, X.shape[2]), "avg", plain)
    mean, scale = 0.0, 1.0
    if normalize == "standardize":
        mean, scale = learned.mean(axis=0), learned.std(axis=0)
    features = LabelledFeatures.open(several)
    y = np.repeat(features.labels("train").y, len(learned) // 36)
    params = {name: model.params[name] for name in ("C",)}
    recipe = Recipe("logreg", params, model.classes, Derivation(), 7, False)
    expected = recipe.fit(((learned - mean) / scale).astype(np.float32), y).estimator
    found = model.predict(features.stored(features.labels("val"), model.views)).probabilities
    probabilities = expected.predict_proba(((asked - mean) / scale).astype(np.float32))
    assert found is not None
    np.testing.assert_allclose(found, probabilities, atol=1e-3)


def test_train__stacked_rows_of_an_image_are_held_out_together(several: Workspace) -> None:
    changes = {"views": "stack", "pooling": "max", "normalize": "l2", "train_on": "train+val"}
    model = model_folder.load(train(several, "knn", changes=changes).folder)
    rows = LabelledFeatures.open(several).labels("train", "val")
    X = stored(several, "train", "val")
    means, each = derived(X, "max", "l2"), derived(X.reshape(-1, X.shape[2]), "max", "l2").reshape(48, 3, -1)
    fold_of = fold_of_rows(rows.y, rows.groups, 5, 7)
    expected = np.empty(48, np.int64)
    recipe = Recipe("knn", {"n_neighbors": 3}, rows.classes, Derivation(), 7, False)
    for fold in range(5):
        held = fold_of == fold
        learned = each[~held].reshape(-1, 512).astype(np.float32)
        head = recipe.fit(learned, np.repeat(rows.y[~held], 3)).estimator
        expected[held] = head.predict(means[held].astype(np.float32))
    assert model.held_out is not None
    np.testing.assert_array_equal(model.held_out.codes, expected)


def test_model__of_the_centre_is_written_as_ever(several: Workspace) -> None:
    description = train(several, "svm").folder / "model.json"
    stored = json.loads(description.read_bytes())
    assert stored["view"] == "center"
    assert "views" not in stored


def test_model__names_the_views(several: Workspace) -> None:
    folder = train(several, "svm", changes={"views": "average"}).folder
    description = json.loads((folder / "model.json").read_bytes())
    assert (description["view"], description["views"]) == (list(VIEWS), "average")
    description["views"] = "center"
    (folder / "model.json").write_text(json.dumps(description))
    with pytest.raises(ModelError, match="views center do not fit"):
        model_folder.load(folder)
    description["view"] = ["center", "upside-down"]
    (folder / "model.json").write_text(json.dumps(description))
    with pytest.raises(ModelError, match=r"view\[1\]: expected one of center, hflip"):
        model_folder.load(folder)


def test_model__of_other_views_is_out_of_date(several: Workspace) -> None:
    model = model_folder.load(train(several, "svm", changes={"views": "average"}).folder)
    write_params(several.params_file, {"extract.views": ["center", "hflip"]})
    write_index(several, IDENTITY, "random", read_manifest(several.manifest_file), ("center", "hflip"))
    words = "trained on the views center, hflip, top-left, and extract.views names center, hflip now. Run"
    with pytest.raises(ModelError, match=re.escape(words)):
        require_current(model, "svm", LabelledFeatures.open(several))


def test_predict__rows_that_are_no_whole_images(several: Workspace) -> None:
    model = model_folder.load(train(several, "svm", changes={"views": "average"}).folder)
    with pytest.raises(
        ModelError, match="expects 3 rows of each image, of the views center, hflip, top-left"
    ):
        model.predict(np.zeros((4, 25088), np.float16))


# --- sweep


def lines_of(board: Any) -> dict[tuple[str, str, int], Any]:
    return {(line.estimator, line.views, line.place): line for line in board.lines}


def test_sweep__stacked_lines_are_those_of_plain_cross_validation(
    several: Workspace, add_view: AddView
) -> None:
    noise = np.random.default_rng(5).exponential(8, (60, 25088)).astype(np.float16)
    add_view("top-right", noise)  # so that not every head is always right
    board = sweep(several, Space(("ridge", "knn"), ("max",), ("l2",), ("stack",)), folds=4)
    features = LabelledFeatures.open(several)
    rows = features.labels("train", "val")
    keys = [RowKey(image.sha256, view) for image in rows.images for view in (*VIEWS, "top-right")]
    X = features.store.read(keys).astype(np.float64).reshape(48, 4, -1)
    means, each = derived(X, "max", "l2"), derived(X.reshape(192, -1), "max", "l2").reshape(48, 4, -1)
    asked, learned = means.astype(np.float32), each.astype(np.float32)
    fold_of = fold_of_rows(rows.y, rows.groups, 4, 7)
    lines = lines_of(board)
    assert len(lines) == 7 + 5
    for estimator in ("ridge", "knn"):
        for place, params in enumerate(grid_of(estimator, norm_of(learned.reshape(192, -1)))):
            recipe = Recipe(estimator, params, rows.classes, Derivation(), 7, False)
            right = np.zeros(48, np.bool_)
            for fold in range(4):
                held = fold_of == fold
                fitted = recipe.fit(learned[~held].reshape(-1, 512), np.repeat(rows.y[~held], 4))
                right[held] = fitted.estimator.predict(asked[held]) == rows.y[held]
            assert lines[estimator, "stack", place].accuracy == pytest.approx(right.mean(), abs=1e-6)


def test_sweep__nested_folds_are_of_images_too(workspace: Workspace, add_view: AddView) -> None:
    codes = codes_of(workspace)
    add_view("hflip", features_like_vgg(np.random.default_rng(4).permutation(codes), 3))
    space = Space(("ridge",), ("max",), ("l2",), ("stack",))
    [line] = [line for line in sweep(workspace, space, folds=3, nested=True).lines if not line.place]
    matrix = LabelledFeatures.open(workspace).matrix(
        "train", "val", derivation=Derivation("max", "l2", "stack")
    )
    X, y, groups = matrix.X[48:].reshape(48, 2, 512), matrix.y, matrix.groups
    recipe = Recipe("ridge", line.params, matrix.classes, Derivation(), 7, False)
    outer, found = fold_of_rows(y, groups, 3, 7), []
    for fold in range(3):
        some = np.flatnonzero(outer != fold)
        inner, right = fold_of_rows(y[some], groups[some], 3, 7), []
        for part in range(3):
            learned, held = some[inner != part], some[inner == part]
            head = recipe.fit(X[learned].reshape(-1, 512), np.repeat(y[learned], 2)).estimator
            right.append(head.predict(matrix.X[held]) == y[held])
        found.append(np.concatenate(right).mean())
    assert line.inner_accuracy == pytest.approx(found, abs=1e-6)
    assert min(found) < 1


def test_sweep__views_are_an_axis_where_there_are_several(several: Workspace) -> None:
    space = Space(("ridge", "linear-svm", "rbf-svm"), ("avg",), ("l2", "standardize"))
    board = sweep(several, space, folds=3)
    assert {line.views for line in board.lines} == {"center", "average", "stack"}
    assert [line.failed for line in board.lines if line.failed] == []
    assert board.of["views"] == list(VIEWS)
    assert board.best is not None
    assert board.best.views == "center"  # among equals: it computes least
    written = several.sweep_file.read_bytes()
    assert sweep(several, space, folds=3).lines == board.lines
    assert several.sweep_file.read_bytes() == written


def test_sweep__without_views_is_what_it_was(workspace: Workspace) -> None:
    sweep(workspace, Space(("ridge",), ("avg",), ("l2",)), folds=3)
    stored = json.loads(workspace.sweep_file.read_bytes())
    assert stored["of"].keys() == {"version", "identity", "rows_sha256", "folds_sha256", "seed"}
    assert all("views" not in line for line in [stored["best"], *stored["lines"]])


def test_sweep__a_view_that_misleads_is_noticed(workspace: Workspace, add_view: AddView) -> None:
    """Mirrored, an image looks like one of any class, as digits may."""
    any_class = np.random.default_rng(3).permutation(codes_of(workspace))
    add_view("hflip", features_like_vgg(any_class, 9))
    board = sweep(workspace, Space(("ridge", "logreg"), ("avg",), ("l2",)))
    best: dict[str, float] = {}
    for line in board.lines:  # the best first
        best.setdefault(line.views, line.accuracy or 0)
    assert best["center"] > best["average"] + 0.1
    assert best["center"] > best["stack"] + 0.1
    assert board.best is not None
    assert board.best.views == "center"


def test_sweep__a_view_that_helps_is_chosen_and_saved(workspace: Workspace, add_view: AddView) -> None:
    """The centre is of another class in every third image; two other views are not."""
    codes = codes_of(workspace)
    for seed, view in enumerate(("hflip", "top-left"), start=1):
        add_view(view, features_like_vgg(codes, seed))
    store = FeatureStore.open(workspace.store_folder)
    for path in store.shards():
        if store.format.contents(path).keys[0].view == "center":
            path.unlink()
    wrong = np.where(np.arange(60) % 3 == 0, (codes + 1) % 3, codes)
    images = read_manifest(workspace.manifest_file).usable
    store.add([RowKey(image.sha256) for image in images], features_like_vgg(wrong), {})
    board = sweep(workspace, Space(("ridge",), ("avg",), ("l2",)))
    assert board.best is not None
    assert board.best.views == "average"
    save_winner(workspace, board.best, "best")
    assert read_params(workspace.params_file).heads["best"].views == "average"
    report = train(workspace, "best")
    assert report.metrics["accuracy"] == pytest.approx(board.best.accuracy, abs=1e-6)
