from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.errors import ModelError
from pipeline.heads import model_folder
from pipeline.heads.calibration import Calibration
from pipeline.heads.derived import Derivation, Standardization
from pipeline.heads.folds import NOT_HELD_OUT
from pipeline.heads.model import Model, Predictions
from tests.heads.conftest import CLASSES
from tests.heads.model_files import X, described, flip, rewrite
from tests.heads.test_model import features, model_of


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize(
    ("estimator", "file"),
    [
        ("linear", "head.safetensors"),
        ("logreg", "head.skops"),
        ("ridge", "head.skops"),
        ("knn", "head.skops"),
    ],
)
def test_round_trip(tmp_path: Path, estimator: str, file: str) -> None:
    model = replace(model_of(estimator, columns=100), warnings=("ConvergenceWarning: so so",))
    folder = tmp_path / "models" / "m"
    model_folder.save(folder, model)
    expected = [file, "history.csv"] if estimator == "linear" else [file]
    assert sorted(files_of(folder)) == [*expected, "model.json"]

    loaded = model_folder.load(folder)

    before, after = model.predict(X), loaded.predict(X)
    assert after.labels == before.labels
    if before.probabilities is not None:
        assert after.probabilities is not None
        assert after.probabilities.tobytes() == before.probabilities.tobytes()
    # through JSON and back, all that describes it is as it was
    assert replace(loaded, head=None) == replace(model, head=None)


@pytest.mark.parametrize(
    ("estimator", "derivation"),
    [
        ("logreg", Derivation("avg", "l2")),
        ("logreg", Derivation("none", "standardize")),
        ("linear-svm", Derivation("max", "standardize")),
        ("linear", Derivation("avg", "standardize")),
        ("naive-bayes", Derivation("none", "sqrt_l2")),
        ("hist-boosting", Derivation("avg")),
    ],
    ids=str,
)
def test_round_trip__with_all_that_stands_between_features_and_answer(
    tmp_path: Path, estimator: str, derivation: Derivation
) -> None:
    model = replace(
        model_of(estimator, derivation=derivation), calibration=Calibration(0.25, 29), unsure_below=0.75
    )
    model_folder.save(tmp_path / "m", model)
    loaded = model_folder.load(tmp_path / "m")
    before, after = model.predict(features(30, 3)), loaded.predict(features(30, 3))
    assert before.probabilities is not None
    assert after.probabilities is not None
    assert after.probabilities.tobytes() == before.probabilities.tobytes()
    assert after.sure.tolist() == before.sure.tolist()
    assert (loaded.derivation, loaded.calibration, loaded.unsure_below) == (
        derivation,
        Calibration(0.25, 29),
        0.75,
    )
    there = (tmp_path / "m" / "standardization.safetensors").is_file()
    assert there == (derivation.normalize == "standardize")


def test_round_trip__weights_of_classes_stay_with_their_labels(tmp_path: Path) -> None:
    for estimator in ("logreg", "linear"):
        model = model_of(estimator, columns=100, class_weight={"owl": 2, "cat": 0.5})
        model_folder.save(tmp_path / estimator, model)
        loaded = model_folder.load(tmp_path / estimator)
        assert loaded.params["class_weight"] == {"owl": 2, "cat": 0.5}
        assert loaded.predict(X).labels == model.predict(X).labels


def test_round_trip__other_files(tmp_path: Path) -> None:
    extras = {"quantised.xml": b"<net/>", "quantised.bin": bytes(range(256))}
    model = replace(model_of("logreg", columns=100), extras=extras)
    model_folder.save(tmp_path / "m", model)
    assert sorted(files_of(tmp_path / "m")) == ["head.skops", "model.json", "quantised.bin", "quantised.xml"]
    assert model_folder.load(tmp_path / "m").extras == extras
    flip(tmp_path / "m" / "quantised.bin")
    with pytest.raises(ModelError, match=r"quantised.bin is damaged: its bytes do not hash"):
        model_folder.load(tmp_path / "m")
    (tmp_path / "m" / "quantised.bin").unlink()
    with pytest.raises(ModelError, match=r"quantised.bin: this file of the model is missing"):
        model_folder.load(tmp_path / "m")


def with_held_out(probabilities: bool) -> Model:
    model = model_of("logreg", columns=100)
    random = np.random.default_rng(0)
    held_out = Predictions(
        np.append(random.integers(0, 3, model.rows - 1), NOT_HELD_OUT),
        model.classes,
        random.dirichlet(np.ones(3), model.rows) if probabilities else None,
        model.unsure_below,
    )
    return replace(model, splits=("train", "val"), held_out=held_out, metrics={"rows": "out of fold", "n": 9})


@pytest.mark.parametrize("probabilities", [False, True])
def test_round_trip__out_of_fold_predictions(tmp_path: Path, probabilities: bool) -> None:
    model = with_held_out(probabilities)
    model_folder.save(tmp_path / "m", model)
    loaded = model_folder.load(tmp_path / "m")
    assert model.held_out is not None
    assert loaded.held_out is not None
    np.testing.assert_array_equal(loaded.held_out.codes, model.held_out.codes)
    assert (loaded.held_out.probabilities is not None) == probabilities
    if probabilities:
        np.testing.assert_array_equal(loaded.held_out.probabilities, model.held_out.probabilities)
    assert (loaded.splits, loaded.metrics) == (model.splits, model.metrics)


@pytest.mark.parametrize(
    "tensors",
    [
        {"codes": np.zeros(7, np.int64)},
        {"codes": np.zeros(45, np.int32)},
        {"codes": np.full(45, 3, np.int64)},
        {"codes": np.full(45, -2, np.int64)},
        {"codes": np.zeros(45, np.int64), "probabilities": np.zeros((45, 2))},
        {"probabilities": np.zeros((45, 3))},
    ],
    ids=str,
)
def test_load__out_of_fold_predictions_of_something_else(tmp_path: Path, tensors: Any) -> None:
    from safetensors.numpy import save

    model_folder.save(tmp_path / "m", replace(with_held_out(True)))
    data = save(tensors)
    (tmp_path / "m" / "out_of_fold.safetensors").write_bytes(data)
    rewrite(tmp_path / "m", lambda s: s["files"].update({"out_of_fold.safetensors": described(data)}))
    with pytest.raises(
        ModelError, match=r"out_of_fold.safetensors: (expected|it holds no) predictions.*train m"
    ):
        model_folder.load(tmp_path / "m")


@pytest.mark.parametrize("name", ["model.json", "history.csv", "../x", "a/b", ".hidden", "", "X", "run me"])
def test_save__other_files_of_names_that_cannot_be(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="cannot be the name of a model's file"):
        model_folder.save(tmp_path / "m", replace(model_of("logreg", columns=100), extras={name: b""}))
    assert not (tmp_path / "m").exists()


def test_load__standardisation_of_other_columns(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    model_folder.save(folder, model_of("logreg", columns=100, derivation=Derivation("none", "standardize")))
    data = Standardization(np.zeros(99, np.float32), np.ones(99, np.float32)).as_bytes()
    (folder / "standardization.safetensors").write_bytes(data)
    rewrite(folder, lambda s: s["files"].update({"standardization.safetensors": described(data)}))
    with pytest.raises(ModelError, match=r"standardization.safetensors: expected 100 finite .*train m"):
        model_folder.load(folder)


def test_save__linear_is_a_torch_linear_layer(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    model = model_of("linear", columns=100)
    model_folder.save(tmp_path / "m", model)
    layer = torch.nn.Linear(100, 3)
    layer.load_state_dict(load_file(tmp_path / "m" / "head.safetensors"))
    with torch.inference_mode():
        expected = layer(torch.from_numpy(X.astype(np.float32))).softmax(1).numpy()
    probabilities = model.predict(X).probabilities
    assert probabilities is not None
    np.testing.assert_allclose(probabilities, expected, atol=1e-5)


@pytest.mark.parametrize("estimator", ["linear", "logreg", "forest"])
def test_save__same_bytes_for_the_same_training(tmp_path: Path, estimator: str) -> None:
    for name in ("a", "b"):
        model_folder.save(tmp_path / name, model_of(estimator, columns=100))
    assert files_of(tmp_path / "a") == files_of(tmp_path / "b")


def test_save__description_says_what_it_is(tmp_path: Path) -> None:
    model = model_of("sklearn.linear_model.LogisticRegression", columns=100, C=float("inf"))
    model_folder.save(tmp_path / "m", model)
    stored = json.loads((tmp_path / "m" / "model.json").read_bytes())
    assert stored["format"] == 3
    assert stored["classes"] == list(CLASSES)
    assert stored["features"] == 100
    assert stored["params"]["C"] == "inf"
    assert stored["params"]["random_state"] == 0
    assert sorted(stored["versions"]) == ["numpy", "python", "scikit-learn", "skops"]
    assert stored["files"]["head.skops"]["bytes"] == (tmp_path / "m" / "head.skops").stat().st_size
    assert (stored["pooling"], stored["normalize"]) == ("none", "none")
    assert (stored["calibration"], stored["unsure_below"]) == (None, None)


def test_save__replaces_the_old_one_whole(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    model_folder.save(folder, model_of("linear", columns=100))
    model_folder.save(folder, model_of("logreg", columns=100))
    assert sorted(files_of(folder)) == ["head.skops", "model.json"]
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def disk_full(*_: Any, **__: Any) -> None:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("step", ["pipeline.heads.model_folder.write_json", "os.sync"])
def test_save__disk_full_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    folder = tmp_path / "m"
    model_folder.save(folder, model_of("logreg", columns=100))
    before = files_of(folder)
    monkeypatch.setattr(step, disk_full)
    with pytest.raises(OSError, match="No space left"):
        model_folder.save(folder, model_of("linear", columns=100))
    assert files_of(folder) == before
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_save__failed_swap_brings_the_old_one_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "m"
    model_folder.save(folder, model_of("logreg", columns=100))
    before = files_of(folder)
    rename = Path.rename

    def fail_on_new(path: Path, target: Path) -> Path:
        if path.name.endswith(".tmp") and target == folder and not path.name.endswith(".old.tmp"):
            disk_full()
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fail_on_new)
    with pytest.raises(OSError, match="No space left"):
        model_folder.save(folder, model_of("linear", columns=100))
    assert files_of(folder) == before
    assert [path.name for path in tmp_path.iterdir()] == ["m"]
